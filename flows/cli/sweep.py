"""The command `toolformer sweep`."""

from collections.abc import Mapping, Sequence
from typing import Any

from flows.starting import environment as settings
from flows.starting.inputs import (
    build_config,
    build_runtime,
    preset_folder,
    print_json,
    varied_settings,
)
from flows.starting.options import JsonOption, Method, OutOption, Varied
from toolformer_core.config.runtime import AnnotationPlace, Runtime
from toolformer_core.config.variations import Cell, cells, needs_training
from toolformer_core.errors import ConfigError


def sweep(
    varied: Varied,
    method: Method,
    place: AnnotationPlace,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Every combination of some settings: calls kept, and how well the tuned models answer.

    Without --call-top-k (one value is enough), and unless a setting of augment, finetune or
    evaluate varies, no model is trained: the cells are counted from the stored losses. The folder
    is that of `toolformer run` with the same preset or file, whose finished work is used and whose
    report, index and model stay as they are.
    """
    settings.apply_defaults()
    variations = varied_settings(varied)
    config = build_config(method)
    runtime = build_runtime(preset_folder(method, out), place)
    from flows.starting.claim import name_proposer
    from flows.sweep import sweep as run_sweep

    config = name_proposer(config, runtime)
    _check(cells(config, variations), runtime, trains=needs_training(variations))
    settings.show_progress()
    summary = run_sweep(config, variations, runtime)
    print_json(summary) if as_json else _print(summary)


def _check(grid: Sequence[Cell], runtime: Runtime, *, trains: bool) -> None:
    """Touch the inputs of every cell once.

    Raises: ConfigError or CorpusError naming the input, its value and the cure.
    """
    from flows.starting.claim import check_inputs
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
    from flows.cli.tables import print_plain, print_rows

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
    from tasks.report.sweep_figures import by_benchmark, measured_arm, shown

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
