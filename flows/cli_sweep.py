"""The command `toolformer sweep`."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from flows import settings
from flows.inputs import build_config, build_runtime, print_json
from flows.options import (
    ConfigOption,
    CorpusOption,
    DeviceOption,
    JsonOption,
    ModelOption,
    OutOption,
    PresetOption,
    ProposerOption,
    RunnerAddressOption,
    RunnerOption,
    RunnerWorkersOption,
    SetOption,
    StorageOption,
    ToolCallsOption,
    ToolsOption,
)
from toolformer_core.config import Runtime
from toolformer_core.errors import ConfigError
from toolformer_core.variations import (
    Cell,
    Variation,
    cells,
    needs_training,
    vary_model,
    vary_seed,
    vary_setting,
    vary_threshold,
    vary_top_k,
)


def sweep(
    filtering_threshold: Annotated[
        str | None, typer.Option(help="tau_f of all tools, as in 0.3,0.5,1.0.")
    ] = None,
    call_top_k: Annotated[
        str | None,
        typer.Option(help="k of decoding, as in 0,1,3,10; with it, models are trained."),
    ] = None,
    seed: Annotated[
        str | None, typer.Option(help="Of sampling, fine-tuning and evaluation, as in 7,8.")
    ] = None,
    models: Annotated[str | None, typer.Option(help="Base models, by commas.")] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(help="Any setting, as in score.token_weights=linear|flat; repeatable."),
    ] = None,
    preset_name: PresetOption = "demo",
    config_file: ConfigOption = None,
    assignments: SetOption = None,
    corpus: CorpusOption = None,
    tools: ToolsOption = None,
    model: ModelOption = None,
    out: OutOption = None,
    storage: StorageOption = None,
    proposer: ProposerOption = None,
    tool_calls: ToolCallsOption = 4,
    runner: RunnerOption = "threads",
    runner_workers: RunnerWorkersOption = 2,
    runner_address: RunnerAddressOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Every combination of some settings: calls kept, and how well the tuned models answer.

    Without --call-top-k (one value is enough), and unless a setting of augment, finetune or
    evaluate varies, no model is trained: the cells are counted from the stored losses. The folder
    is that of `toolformer run` with the same preset or file, whose finished work is used and whose
    report, index and model stay as they are.
    """
    settings.apply_defaults()
    variations = _variations(filtering_threshold, call_top_k, seed, models, vary)
    config = build_config(preset_name, config_file, assignments, corpus, tools, model)
    root = out or settings.home() / (config_file.stem if config_file else preset_name)
    runtime = build_runtime(
        root,
        device,
        storage=storage,
        proposer_url=proposer,
        tool_calls=tool_calls,
        runner=runner,
        runner_workers=runner_workers,
        runner_address=runner_address,
    )
    from flows.output import name_proposer
    from flows.sweep import sweep as run_sweep

    config = name_proposer(config, runtime)
    _check(cells(config, variations), runtime, trains=needs_training(variations))
    settings.show_progress()
    summary = run_sweep(config, variations, runtime)
    print_json(summary) if as_json else _print(summary)


def _variations(
    thresholds: str | None,
    ks: str | None,
    seeds: str | None,
    models: str | None,
    others: Sequence[str] | None,
) -> list[Variation]:
    """What varies; of one model all cells come together, then of one tau_f."""
    options = [
        (models, vary_model),
        (seeds, vary_seed),
        *((text, vary_setting) for text in others or ()),
        (thresholds, vary_threshold),
        (ks, vary_top_k),
    ]
    return [vary(text) for text, vary in options if text is not None]


def _check(grid: Sequence[Cell], runtime: Runtime, *, trains: bool) -> None:
    """Touch the inputs of every cell once.

    Raises: ConfigError or CorpusError naming the input, its value and the cure.
    """
    from flows.output import check_inputs
    from toolformer_core.fingerprint import fingerprint

    if runtime.root.exists() and not runtime.root.is_dir():
        raise ConfigError(f"output {runtime.root} is a file; pass a folder with --out")
    distinct = {
        fingerprint(
            *(c.corpus, c.model, c.tools, c.sample.document_heuristic),
            *((c.evaluate.benchmarks, c.evaluate.seed) if trains else ()),
        ): c
        for c in (cell.config for cell in grid)
    }
    for config in distinct.values():
        check_inputs(config, runtime, annotate_only=not trains)


def _print(summary: Mapping[str, Any]) -> None:  # Any: nested figures
    """The cells, what they shared, and where the report is."""
    from flows.show import print_plain, print_rows

    print_rows(*_table(summary["cells"]), "Calls kept; value and call rate")
    for stage, tally in summary["work"].items():
        print_plain(
            f"{stage:9} wanted {tally['wanted']} times, done {tally['done']} times: "
            f"{tally['shards']} shards, of which {tally['shards_cached']} were there already"
        )
    print_plain(f"seconds   {summary['seconds']:g}")
    for name in ("report", "index"):
        print_plain(f"{name:9} {summary[name]}")


def _table(
    rows: Sequence[Mapping[str, Any]],  # Any: as above
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Names of columns, and one row per cell."""
    from tasks.sweep_figures import by_benchmark, measured_arm, shown

    scores = by_benchmark(score for row in rows for score in row["scores"])
    arms = {benchmark: measured_arm(own) for benchmark, own in scores.items()}
    tools = list(dict.fromkeys(tool for row in rows for tool in row["tools"]))
    names = [*rows[0]["values"], *tools, *arms]
    table = []
    for row in rows:
        answered = {(s["benchmark"], s["arm"]): s for s in row["scores"]}
        found = [answered.get(key) for key in arms.items()]
        table.append(
            (
                *map(shown, row["values"].values()),
                *(row["tools"][tool]["kept"] if tool in row["tools"] else "-" for tool in tools),
                *("-" if s is None else f"{s['value']:.3f} ({s['call_rate']:.0%})" for s in found),
                *([row["reason"]] if row["reason"] else []),
            )
        )
    reasons = ["note"] if any(row["reason"] for row in rows) else []
    return names + reasons, table
