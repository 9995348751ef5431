"""Which numbers a device multiplies: bfloat16, or float32 where it only emulates bfloat16.

Decided by what the device can do, never by timing: digests of models depend on it, so a machine
has to take the same in every run. A CPU that emulates bfloat16 multiplies it at a small fraction of
its float32 rate: each number is widened on its way in and rounded on its way out.
"""

import functools
import logging

import torch

logger = logging.getLogger(__name__)


def taken_dtype(dtype: str, device: str) -> str:
    """The dtype itself, or what `auto` takes on the device, which is said once per process."""
    if dtype == "auto":
        dtype = "bfloat16" if multiplies_bfloat16(device) else "float32"
        _say(dtype, torch.device(device).type)
    warn_if_emulated(dtype, device)
    return dtype


def multiplies_bfloat16(device: str) -> bool:
    """Whether the device has instructions that multiply bfloat16, and torch uses them.

    An x86 processor has them with AVX512-BF16 or AMX-BF16, a GPU of CUDA from compute capability
    8.0 on; an ARM processor is asked by oneDNN. No other device is known to have them.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return kind == "cpu" and _cpu_multiplies_bfloat16()


def warn_if_emulated(dtype: str, device: str) -> None:
    """A warning, once per process, where the device would emulate the dtype."""
    if dtype == "bfloat16" and not multiplies_bfloat16(device):
        _warn(torch.device(device).type)


def _cpu_multiplies_bfloat16() -> bool:
    """By what torch and oneDNN use: the environment may forbid them some instructions."""
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # in torch
    if not has_onednn or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    has = torch.cpu.get_capabilities()
    if not has["architecture"].startswith("x86"):
        return True
    level = torch.backends.cpu.get_cpu_capability()
    return ("AVX512" in level or "AMX" in level) and bool(has["avx512_bf16"] or has["amx_bf16"])


@functools.cache
def _say(dtype: str, kind: str) -> None:
    knows = "multiplies" if dtype == "bfloat16" else "is not known to multiply"
    logger.info("model.dtype auto: %s, as this %s %s bfloat16", dtype, kind, knows)


@functools.cache
def _warn(kind: str) -> None:
    logger.warning(
        "model.dtype bfloat16: this %s emulates it, having no instructions for it that torch is "
        "known to use; emulated, matrix products were measured to take 7 to 60 times as long as in "
        "float32; --set model.dtype=auto takes what it multiplies",
        kind,
    )
