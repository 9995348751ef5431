"""The output folder: whose run it holds, and checks that need no server."""

from pathlib import Path
from typing import get_args

from tasks.corpus import earlier_documents
from tasks.output.record import RUN_FILE, RunRecord, read_run, record_run
from tasks.prepare import check_tools
from tasks.running.runners import check_runner
from toolformer_core.benchmarks.registry import load_benchmark
from toolformer_core.config.base import ModelConfig
from toolformer_core.config.overrides import flat_settings
from toolformer_core.config.pipeline import Arm, EvaluateConfig, PipelineConfig
from toolformer_core.config.runtime import Runtime
from toolformer_core.corpus import read_corpus
from toolformer_core.errors import ConfigError
from toolformer_core.evaluate import takes_part
from toolformer_core.evaluation.gate import GateConfig
from toolformer_core.heuristics import check_heuristic
from toolformer_core.records import Document
from toolformer_core.shards import read_manifest
from toolformer_core.transformers_lm.loading import check_device, resolve_model


def claim_output(config: PipelineConfig, root: Path, *, update: bool) -> None:
    """Make the folder this configuration's own.

    With `update` a folder of another configuration is taken over: shards that still fit are
    reused, index and report then show the new run.

    Raises: ConfigError if it holds work of another configuration, or is no folder.
    """
    if root.exists() and not root.is_dir():
        raise ConfigError(f"output {root} is a file; pass a folder with --out")
    if not (root / RUN_FILE).is_file() or not _holds_work(root):
        record_run(config, [], root)
    elif not update:
        held = flat_settings(read_run(root).config)
        wanted = flat_settings(config)
        for key in sorted({*held, *wanted}):
            if held.get(key) != wanted.get(key):
                raise ConfigError(
                    f"output folder {root} holds a run of another configuration: {key} was "
                    f"{held.get(key)!r}, now {wanted.get(key)!r}; pass another --out, or --update "
                    "to go on in it (finished shards that still fit are reused)"
                )


def prepare_run(
    config: PipelineConfig,
    runtime: Runtime,
    *,
    annotate_only: bool,
    update: bool,
    add: bool = False,
) -> PipelineConfig:
    """Check all inputs, then claim the folder; the configuration as it is to be run.

    With `add` documents are added to those of the folder, if it holds any.

    Raises: ConfigError or CorpusError as its steps.
    """
    config = name_proposer(config, runtime)
    root = runtime.root
    if add and (root / RUN_FILE).is_file() and earlier_documents(config.corpus, runtime):
        read_corpus(config.corpus, known=frozenset())  # looks the sources up; all may be empty
        check_method(config, runtime, annotate_only=annotate_only)
    else:
        check_inputs(config, runtime, annotate_only=annotate_only)
    claim_output(config, root, update=update)
    return config


def _holds_work(root: Path) -> bool:
    """Whether a run left shards, checkpoints or a model; one that was refused has only settings."""
    kinds = ("*/*/*/*.parquet", "*/*/*/manifest.json", "finetune/*/*/checkpoint-*", "model")
    return any(path for kind in kinds for path in root.glob(kind))


def name_proposer(config: PipelineConfig, runtime: Runtime) -> PipelineConfig:
    """The configuration with the proposer's name: what its server offers, unless one is set.

    Raises: ConfigError if there is no server, or it does not offer that model.
    """
    if not runtime.proposer:
        if config.proposer.model is not None:
            raise ConfigError(
                f"proposer.model {config.proposer.model}: no address; pass --proposer URL"
            )
        return config
    from toolformer_core.served_lm.completions import served_models

    offered = served_models(runtime.proposer)
    name = config.proposer.model or next(iter(offered), None)
    if name not in offered:
        raise ConfigError(
            f"--proposer {runtime.proposer} offers {', '.join(offered) or 'no model'}, "
            f"not {name}; set proposer.model to one of them"
        )
    return config.model_copy(
        update={"proposer": config.proposer.model_copy(update={"model": name})}
    )


def check_training_device(device: str) -> None:
    """Nothing, if models can be fine-tuned there.

    Raises: ConfigError if not; of several GPUs the training would take the first or all.
    """
    if device not in ("cpu", "cuda"):
        raise ConfigError(
            f"--device {device}: fine-tuning takes cpu or cuda; choose a GPU with "
            "CUDA_VISIBLE_DEVICES"
        )
    check_device(device)


def check_inputs(config: PipelineConfig, runtime: Runtime, *, annotate_only: bool) -> None:
    """Touch every input once, so that a bad one is refused before anything starts.

    Raises: ConfigError or CorpusError naming the input, its value and the cure.
    """
    rows = read_corpus(config.corpus)
    next(row for row in rows if isinstance(row, Document))
    check_method(config, runtime, annotate_only=annotate_only)


def check_method(config: PipelineConfig, runtime: Runtime, *, annotate_only: bool) -> None:
    """Touch every input but the texts: device, tools, model and benchmarks.

    Raises: ConfigError naming the input, its value and the cure.
    """
    (check_device if annotate_only else check_training_device)(runtime.device)
    check_runner(runtime)
    check_tools(config.tools, runtime)
    for tool in config.tools.enabled:
        check_heuristic(config.of_tool(tool).sample.document_heuristic)
    resolve_model(config.model, runtime.home, runtime.device)
    if not annotate_only:
        check_evaluation(config.evaluate)
        if "base_c" in config.evaluate.arms and config.evaluate.control is not None:
            control = control_model(config.model, config.evaluate.control)
            resolve_model(control, runtime.home, runtime.device)


def check_evaluation(config: EvaluateConfig) -> None:
    """Touch every benchmark once.

    Raises: ConfigError for one that is not there, or that none of the arms tells anything of.
    """
    for spec in config.benchmarks:
        kind = load_benchmark(spec, 1, config.seed).kind
        if not any(takes_part(arm, kind) for arm in config.arms):
            useful = [arm for arm in get_args(Arm) if takes_part(arm, kind)]
            raise ConfigError(
                f"benchmark {spec}: arms {', '.join(config.arms)} tell nothing of it; expected one "
                f"of {', '.join(useful)}"
            )


def check_gate(gate: GateConfig, seed: int) -> None:
    """Nothing, if the gate's benchmarks are there and of the kinds that it compares.

    Raises: ConfigError if not.
    """
    for setting, spec, kind in (
        ("benchmark", gate.benchmark, "answer"),
        ("texts", gate.texts, "perplexity"),
    ):
        found = load_benchmark(spec, 1, seed).kind
        if found != kind:
            raise ConfigError(
                f"gate.{setting} {spec}: a benchmark of kind {found}; expected one of kind {kind}"
            )


def control_model(like: ModelConfig, control: str) -> ModelConfig:
    """The model of arm base_c, with the arithmetic of another."""
    return like.model_copy(update={"name_or_path": control, "revision": None})


def stage_manifest(run: RunRecord, stage: str, root: Path) -> Path:
    """The manifest of one stage of a run.

    Raises: ConfigError if the run has not come that far.
    """
    for manifest in run.manifests:
        if read_manifest(manifest).stage == stage:
            return manifest
    raise ConfigError(f"{root} has no {stage} stage yet; run toolformer annotate to its end")
