"""A tuned model with its tools as a model of lm-evaluation-harness, for tasks of one's own.

generate_until is the decoder with tools; the harness judges the answer, which holds no calls.
loglikelihood and loglikelihood_rolling have calls disabled, which means the plain likelihood of
the given tokens, as of the harness's own model "hf" on the same folder.

The only file that imports lm_eval, which is optional.
"""

import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.__main__ import cli_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs

from tasks.inference import change_decoding, open_tuned_model
from toolformer_core.config.pipeline import DecodeConfig
from toolformer_core.config.runtime import Runtime
from toolformer_core.decoding.decode import Decoder
from toolformer_core.decoding.events import Finished, Generation
from toolformer_core.errors import ConfigError
from toolformer_core.progress import progress
from toolformer_core.readers.rows import iso_day
from toolformer_core.records import Outcome
from toolformer_core.tools.base import CallContext
from toolformer_core.transformers_lm.perplexity import Window, rolling_losses, window_losses

logger = logging.getLogger(__name__)

_PART = 256  # requests between two steps of the progress bar

_NEUTRAL = (("num_beams", 1),)  # settings that some tasks have and that ask for nothing


@register_model("toolformer")
class ToolformerLM(TemplateLM):  # type: ignore[misc]  # lm_eval has no types
    """The model of a folder, its tools and its decoding as `toolformer generate` has them."""

    def __init__(
        self,
        pretrained: str,
        tools: Sequence[str] | None = None,
        disable_calls: bool = False,
        context_tokens: int | None = None,
        home: str = ".toolformer",
        device: str = "cpu",
        batch_size: int | str | None = None,  # the harness's; ours is the runtime's token budget
        **decoding: float | None,
    ) -> None:
        """`context_tokens` is the window of loglikelihoods; none: all that the model takes.

        `decoding` are fields of DecodeConfig, such as call_top_k.

        Raises: ConfigError for a folder, a tool, a device or a setting that will not do.
        """
        super().__init__()
        runtime = Runtime(root=Path(home, "harness"), home=Path(home), device=device)
        offered = () if disable_calls else tools
        self._tuned = open_tuned_model(Path(pretrained), offered, decoding, runtime)
        self._lm = self._tuned.lm
        self._window = min(context_tokens or self._lm.context_tokens, self._lm.context_tokens)
        self._counts: Counter[str] = Counter()

    @property
    def eot_token_id(self) -> int:
        """The token that ends a document."""
        return int(self._lm.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has nothing before it."""
        return self._lm.document_start_id

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: object
    ) -> list[int]:
        """Token ids; with the tokenizer's own special tokens unless told otherwise, as "hf"."""
        if add_special_tokens is False:
            return self._lm.encode(string)
        ids: list[int] = self._lm.tokenizer(string, verbose=False)["input_ids"]
        return ids

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **_: object,
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether greedy decoding would write it.

        Raises: ConfigError for a continuation that is longer than the window.
        """
        windows = [self._window_of(before, after) for _, before, after in requests]
        return [
            (-loss.nats, loss.is_greedy)
            for part in _parts(windows, "loglikelihood", disable_tqdm)
            for loss in window_losses(self._lm, part)
        ]

    def _window_of(self, before: list[int], after: list[int]) -> Window:
        if len(after) > self._window:
            raise ConfigError(
                f"continuation of {len(after)} tokens; the window takes {self._window}; raise "
                "--context-tokens or leave the item out"
            )
        return Window([*before, *after][-self._window - 1 : -1], after)

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood of each text, in disjoint windows."""
        texts = [request.args[0] for request in requests]
        return [
            -nats
            for part in _parts(texts, "loglikelihood_rolling", disable_tqdm)
            for nats, _ in rolling_losses(self._lm, part, self._window)
        ]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """The answers, their calls taken out; Calendar tells a row's `date` where there is one.

        Raises: ConfigError for a prompt that is too long, or settings that are not supported.
        """
        groups: dict[DecodeConfig, list[int]] = {}
        for k, config in enumerate(self._decodings(requests)):
            groups.setdefault(config, []).append(k)
        answers = [""] * len(requests)
        with progress(
            "generate_until", unit="request", total=len(requests), is_off=disable_tqdm
        ) as bar:
            for config, members in groups.items():
                decoder = Decoder(self._lm, self._tuned.callers, config)
                prompts = [requests[k].args[0] for k in members]
                contexts = [_context(requests[k].doc) for k in members]
                for event in decoder.stream(prompts, contexts):
                    if isinstance(event, Finished):
                        answers[members[event.ticket]] = event.generation.answer
                        self._counts.update(_counts(event.generation))
                        bar.update()
        logger.info("answers: %s", ", ".join(f"{n} {name}" for name, n in self._counts.items()))
        return answers

    def _decodings(self, requests: Sequence[Instance]) -> Iterator[DecodeConfig]:
        """How each request is decoded; one that the harness repeats is drawn anew."""
        repeats: Counter[tuple[str, DecodeConfig]] = Counter()
        for request in requests:
            prompt, given = request.args
            config = change_decoding(self._tuned.decode, decoding_changes(given))
            if config.temperature > 0:
                repeats[prompt, config] += 1
                seed = config.seed + repeats[prompt, config] - 1
                config = config.model_copy(update={"seed": seed})
            yield config

    def get_model_info(self) -> dict[str, Any]:  # Any: JSON
        """What the harness puts beside its results."""
        return {"toolformer": dict(self._counts)}


def decoding_changes(given: Mapping[str, Any]) -> dict[str, Any]:  # Any: a task's own settings
    """Fields of DecodeConfig for `generation_kwargs` of a task; 256 new tokens unless told.

    Raises: ConfigError naming a setting that is not supported.
    """
    kwargs = normalize_gen_kwargs(dict(given))
    del kwargs["do_sample"]  # temperature says it
    changes = {
        "stop": tuple(text for text in kwargs.pop("until") if text),
        "max_new_tokens": kwargs.pop("max_gen_toks"),
        "temperature": kwargs.pop("temperature", 0.0),
        "top_p": kwargs.pop("top_p", None),
    }
    for name, value in kwargs.items():
        if (name, value) not in _NEUTRAL:
            raise ConfigError(
                f"generation_kwargs {name} = {value!r}: not supported; known: until, max_gen_toks, "
                "do_sample, temperature, top_p"
            )
    return changes


def _context(row: Mapping[str, Any]) -> CallContext:  # Any: a task's own columns
    return CallContext(document_id="", url=None, date=iso_day(row.get("date")))


def _counts(generation: Generation) -> dict[str, int]:
    """What is counted over all answers."""
    answered = sum(call.outcome is Outcome.OK for call in generation.calls)
    return {
        "texts": 1,
        "with an answered call": min(1, answered),
        "calls answered": answered,
        "calls taken back": len(generation.calls) - answered + generation.num_malformed,
    }


def _parts(
    requests: Sequence[Any], name: str, is_off: bool
) -> Iterator[Sequence[Any]]:  # Any: of one kind
    with progress(name, unit="request", total=len(requests), is_off=is_off) as bar:
        for first in range(0, len(requests), _PART):
            part = requests[first : first + _PART]
            yield part
            bar.update(len(part))


def run_harness(model_args: Mapping[str, Any], device: str, arguments: Sequence[str]) -> None:
    """lm-eval's own `run` command with these options of it, on a ToolformerLM.

    Raises: ConfigError for what lm-eval refuses.
    """
    own = ["--model", "toolformer", "--model_args", json.dumps(model_args), "--device", device]
    sys.argv[1:] = ["run", *arguments, *own]  # where lm-eval's parser looks
    try:
        cli_evaluate()
    except (LookupError, NotImplementedError, OSError, ValueError) as error:
        # It has no exception of its own for a task that is not there or a file that is none.
        raise ConfigError(f"harness: {type(error).__name__} in lm-eval: {error}") from error
