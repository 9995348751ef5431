"""Tables for the terminal."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from toolformer_core.call_rule import CHOICE
from toolformer_core.evaluation.conclusion import best_arm, conclusions
from toolformer_core.notation import render_call_with_result
from toolformer_core.provenance.explain import Explanation

_STEPS = ("documents", "positions", "calls", "parsed", "executed", "scored", "kept")


def print_run(summary: Mapping[str, Any]) -> None:
    """A finished run for people."""
    console = Console()
    print_funnel(summary["funnel"])
    if summary["evaluation"]:
        print_scores(summary["evaluation"])
    if not any(row["kept"] for row in summary["funnel"].values()):
        console.print(summary["diagnosis"], markup=False)
    if summary["call_rule"]:
        choice = CHOICE.validate_python(summary["call_rule"])
        console.print(f"calls start  at {choice}", highlight=False, soft_wrap=True)
    shards, cached = summary["shards"], summary["shards_cached"]
    console.print(f"shards   {shards}, of which {cached} were there already", highlight=False)
    for name in ("report", "index", "model"):
        if summary[name]:
            console.print(f"{name:8} {summary[name]}", highlight=False, soft_wrap=True)
    console.print("UIs      make ui", highlight=False)


def print_funnel(counts: Mapping[str, Mapping[str, Any]]) -> None:
    """One column per tool: calls by step, those dropped by reason, documents by rule."""
    reasons = sorted({reason for row in counts.values() for reason in row["dropped"]})
    table = Table(title="Candidate calls", title_justify="left")
    table.add_column("step")
    for tool in counts:
        table.add_column(tool, justify="right")
    for step in _STEPS:
        table.add_row(step, *(str(row[step]) for row in counts.values()))
    for name in ("checkable", "right"):
        table.add_row(f"  of which {name}", *(str(row[name]) for row in counts.values()))
    table.add_section()
    for reason in reasons:
        table.add_row(
            f"dropped: {reason}", *(str(row["dropped"].get(reason, 0)) for row in counts.values())
        )
    rules = sorted({rule for row in counts.values() for rule in row["documents_by_rule"]} - {"any"})
    if rules:
        table.add_section()
        table.add_row("documents by rule")
    for rule in rules:
        table.add_row(
            f"  {rule}", *(str(row["documents_by_rule"].get(rule, 0)) for row in counts.values())
        )
    Console().print(table)


def print_scores(scores: Sequence[Mapping[str, Any]]) -> None:
    """The evaluation table: one row per benchmark and arm, with 95% intervals over items.

    It fits eighty columns, what a pipe is taken for. A star marks the best arm of a benchmark.
    """
    table = Table(
        title="Evaluation (95% bootstrap intervals; * the best arm)",
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in ("benchmark", "arm"):
        table.add_column(name, no_wrap=True)
    for name in ("value", "interval", "n", "to disabled", "p", "calls", "malformed"):
        table.add_column(name, justify="right", no_wrap=True)
    for _, group in itertools.groupby(scores, key=lambda s: s["benchmark"]):
        rows = list(group)
        for s in rows:
            is_compared = s["difference"] is not None
            table.add_row(
                s["benchmark"],
                f"{s['arm']}{'*' if s['arm'] == best_arm(rows) else ''}",
                f"{s['value']:.3f}",
                f"{s['low']:.2f}..{s['high']:.2f}",
                str(s["n"]),
                f"{s['difference']:+.3f}" if is_compared else "-",
                "-" if s["p_value"] is None else f"{s['p_value']:.2g}",
                f"{s['call_rate']:.2f}",
                f"{s['malformed_rate']:.2f}",
            )
        table.add_section()
    Console().print(table)
    for benchmark, metric in sorted({(s["benchmark"], s["metric"]) for s in scores}):
        Console().print(f"{benchmark}: {metric}", highlight=False)
    for conclusion in conclusions(scores):
        print_plain(conclusion)


def print_explanation(explained: Explanation, text: str) -> None:
    """The scored tokens with their weights and losses, their sums and the verdict.

    Green: the call with its result makes the token likelier than both alternatives; red: it does
    not.
    """
    call = render_call_with_result(explained.tool, explained.argument, explained.result)
    at = explained.char_offset
    print_plain(f"...{text[max(0, at - 60) : at]} {call} {text[at : at + 40].strip()}...")
    table = Table(title="Negative log-likelihood, nats", title_justify="left")
    table.add_column("token")
    for name in ("weight", "no call", "empty result", "with result"):
        table.add_column(name, justify="right")
    for token in explained.tokens:
        others = (token.nll_without_call, token.nll_with_empty_result)
        best = min(value for value in others if value is not None)
        style = "green" if token.nll_with_result < best else "red"
        losses = [_nats(value) for value in (*others, token.nll_with_result)]
        weight, with_result = f"{token.weight:.3f}", _nats(token.nll_with_result)
        table.add_row(_plain(repr(token.text)), weight, *losses[:2], f"[{style}]{with_result}")
    table.add_section()
    sums = (
        explained.loss_without_call,
        explained.loss_with_empty_result,
        explained.loss_with_result,
    )
    table.add_row("weighted", "", *map(_nats, sums), style="bold")
    Console().print(table)
    compared = ">=" if explained.loss_reduction >= explained.filtering_threshold else "<"
    verdict = "kept" if explained.kept else f"dropped: {explained.reason}"
    print_plain(
        f"loss_reduction {explained.loss_reduction:.3f} {compared} tau_f "
        f"{explained.filtering_threshold:g}: {verdict}"
    )
    if explained.is_right is not None:
        print_plain(f"the text goes on with {'it' if explained.is_right else 'something else'}")


def print_calibration(report: Mapping[str, Any]) -> None:
    """Recommended settings per tool, what they give and cost, and the error on held-out texts."""
    tools = [tool for tool in report["tools"] if "settings" in tool]
    table = Table(title="Calibration", title_justify="left")
    table.add_column("")
    for tool in tools:
        table.add_column(tool["tool"], justify="right")
    for name in ("sampling_threshold", "max_positions", "samples_per_position"):
        table.add_row(f"sample.{name}", *(f"{tool['settings'][name]:g}" for tool in tools))
    table.add_row(
        "filter.filtering_threshold",
        *(f"{tool['settings']['filtering_threshold']:g}" for tool in tools),
    )
    target = f"reaches {report['target']:.0%} good"
    table.add_row(target, *("yes" if tool["reaches_target"] else "no" for tool in tools))
    table.add_row("judged by", *(tool["basis"].replace("_", " ") for tool in tools))
    table.add_section()
    for label, name, scale in (
        ("kept per 100 documents", "kept", 100.0),
        ("of these good, %", "share_good", 100.0),
        ("seconds per document", "seconds", 1.0),
        ("bytes per document", "num_bytes", 1.0),
    ):
        table.add_row(label, *(_predicted(tool, name, scale) for tool in tools))
    table.add_section()
    for label, name in (("kept", "kept"), ("hours", "hours"), ("megabytes", "megabytes")):
        table.add_row(f"whole corpus: {label}", *(f"{tool['corpus'][name]:,.1f}" for tool in tools))
    if tools:
        Console().print(table)
        print_plain(
            "Predicted from one half of the documents; in brackets what the other half gave."
        )
    for tool in report["tools"]:
        if "settings" not in tool:
            _print_not_calibrated(tool)
    print_plain(
        f"{report['corpus_documents']:,} documents in all: {report['hours']:.2f} hours on this "
        f"device, {report['megabytes']:.1f} megabytes of candidate calls"
    )


def _print_not_calibrated(tool: Mapping[str, Any]) -> None:  # Any: figures
    print_plain(
        f"{tool['tool']}: not calibrated. Of {tool['num_calls']} calls on {tool['num_documents']} "
        f"documents {tool['num_with_result']} had a result, and too few that can be judged reach "
        f"tau_f {tool['lowest_threshold']:g}; pass more --documents or other texts, or lower "
        "filter.threshold_sweep"
    )


def _predicted(tool: Mapping[str, Any], name: str, scale: float) -> str:  # Any: figures
    values = (tool[half][name] for half in ("predicted", "held_out"))
    predicted, held_out = ("-" if v is None else f"{v * scale:,.2f}" for v in values)
    return f"{predicted} ({held_out})"


def print_tools(rows: Sequence[Mapping[str, Any]]) -> None:
    """One line per tool."""
    names = ["tool", "parameters", "version", "health", "ms a call", "description"]
    print_rows(
        names,
        [
            (
                row["name"],
                row.get("signature"),
                row.get("version"),
                row["health"],
                f"{row['seconds_per_call'] * 1000:.1f}" if "seconds_per_call" in row else None,
                row.get("description"),
            )
            for row in rows
        ],
    )


def print_plain(line: str) -> None:
    """A line in which brackets are text, not markup."""
    Console().print(line, markup=False, highlight=False, soft_wrap=True)


def _nats(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def print_rows(
    names: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None
) -> None:
    """Any rows as a table; brackets in the values are text, not markup."""
    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else _plain(value) for value in row))
    Console().print(table)


def _plain(value: Any) -> Any:  # Any: a cell
    from rich.text import Text

    return Text(f"{value:.3f}" if isinstance(value, float) else str(value))


def print_calls_calibration(report: Mapping[str, Any]) -> None:  # Any: as above
    """What each rule gives on the half that decides and on the one that checks."""
    rows = [
        (
            _short_rule(rule) if half == "deciding" else "",
            half,
            f"{figures['call_rate']:.0%}",
            figures["accuracy"],
            f"{figures['low']:.3f}..{figures['high']:.3f}",
            _signed(figures["gain_per_call"]),
        )
        for rule in report["rules"]
        for half, figures in ((half, rule[half]) for half in ("deciding", "checking"))
    ]
    names = ("call at", "half", "call rate", "accuracy", "95% interval", "gain/call")
    print_rows(names, rows, f"{report['benchmark']}: {report['metric']}")
    first = report["rules"][0]
    print_plain(
        f"{first['deciding']['num_items']} items decide, {first['checking']['num_items']} others "
        "check. p: of <API>. Gain: right answers more than with calls disabled, per item that "
        "calls."
    )
    chosen = report["recommended"]
    print_plain(
        f"recommended: {chosen['setting']} {chosen['value']:g}"
        if chosen
        else "recommended: none, no rule answers better than calls disabled"
    )


def _short_rule(row: Mapping[str, Any]) -> str:  # Any: as above
    sign = "k =" if row["setting"] == "call_top_k" else "p >="
    return f"{sign} {row['value']:g}" if row["value"] else "disabled"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"
