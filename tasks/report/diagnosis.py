"""Where a run lost its calls, in a few plain lines with examples and a cure."""

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.index.query import funnel, select
from toolformer_core.records import DropReason

_CURES: Mapping[str, tuple[str, str]] = {
    DropReason.NOT_CLOSED: ("sample", "raise sample.max_call_tokens"),
    DropReason.MALFORMED: ("sample", "turn sample.force_tool_name on"),
    DropReason.DUPLICATE: ("sample", "lower sample.samples_per_position"),
    DropReason.LOOK_AHEAD: ("sample", "raise sample.max_positions, to try later positions too"),
    DropReason.REJECTED: (
        "execute",
        "lower sample.temperature, or show the model better demonstrations",
    ),
    DropReason.FAILED: ("execute", "mend what the tool reports, or take it out of tools.enabled"),
    DropReason.TIMED_OUT: ("execute", "raise execute.timeout_seconds"),
    DropReason.EMPTY: ("execute", "give the tool more to find (tools.wiki_search.passages)"),
    DropReason.NOT_FINITE: ("filter", "set model.dtype to float32"),
    DropReason.WRONG_RESULT: ("filter", "look at whether the results matter to these texts"),
    DropReason.SHUFFLED_RESULT: ("filter", "look at whether the results matter to these texts"),
    "undecided": ("filter", "repeat the run: a stage has not finished"),
}
"""For each reason, the stage that drops and what to change; below_threshold needs figures."""


def diagnose(path: Path) -> str:
    """A few plain lines per tool: where most calls were lost, with examples and a cure."""
    settings = {row["key"]: row["value"] for row in select(path, "SELECT * FROM settings")}
    lines: list[str] = []
    for tool, counts in funnel(path).items():
        lines.append(
            f"{tool}: {counts['kept']} of {counts['calls']} calls kept "
            f"({counts['documents']} documents, {counts['positions']} positions)."
        )
        lines += [f"  {line}" for line in _findings(path, tool, counts, settings)]
    return "\n".join(lines)


def _findings(
    path: Path,
    tool: str,
    counts: Mapping[str, Any],  # Any: as in funnel
    settings: Mapping[str, str],
) -> list[str]:
    if not counts["documents"]:
        return ["No document was sampled. Suggestion: check corpus.sources and tools.enabled."]
    if not counts["calls"]:
        return [_position_cure(path, tool, counts["documents"], settings)]
    if not counts["dropped"]:
        return ["Nothing was lost."]
    reason, n = next(iter(counts["dropped"].items()))
    stage, cure = _CURES.get(reason, ("filter", ""))
    found = [f"Most were lost in {stage}, as {reason}: {n} of {counts['calls']}."]
    found += _example_lines(path, tool, reason)
    found += _outcome_reasons(path, tool, reason)
    if reason == DropReason.BELOW_THRESHOLD:
        return [*found, _threshold_cure(path, tool, settings)]
    return [*found, f"Suggestion: {cure}."]


def _position_cure(path: Path, tool: str, documents: int, settings: Mapping[str, str]) -> str:
    """Why no position was sampled, from the counts of the sample stage."""
    rows = select(
        path,
        "SELECT reason, sum(n)::BIGINT AS n FROM stage_counts "
        "WHERE stage = 'sample' AND tool = ? GROUP BY reason",
        [tool],
    )
    counts = {row["reason"]: row["n"] for row in rows}
    unqualified, without_place, pruned = (
        counts.get(name, 0)
        for name in ("documents_not_qualified", "documents_without_place", "positions_pruned")
    )
    if unqualified == documents:
        return (
            "No document qualifies for this tool. Suggestion: choose other corpus.sources, or set "
            "sample.document_heuristic to none."
        )
    if unqualified + without_place == documents:
        return (
            "No document has a place where this tool could help. Suggestion: choose other "
            "corpus.sources, or turn sample.look_ahead_guard off."
        )
    if pruned:
        return (
            f"All {pruned} positions had too small a loss without a call. Suggestion: lower "
            f"{_pruning_setting(settings)}."
        )
    now = _setting(settings, "sample.sampling_threshold", tool)
    return (
        f"No position was likely enough. Suggestion: lower sample.sampling_threshold (now {now})."
    )


def _example_lines(path: Path, tool: str, reason: str) -> list[str]:
    """Three calls dropped for one reason, the nearest misses first."""
    rows = select(
        path,
        "SELECT text_before(text, char_offset) AS before, loss_reduction, "
        "call_text(tool, argument, result, outcome, reason) AS call "
        "FROM candidates LEFT JOIN documents USING (document_id) WHERE tool = ? AND reason = ? "
        "ORDER BY loss_reduction DESC NULLS LAST, start_probability DESC, candidate_id LIMIT 3",
        [tool, reason],
    )
    return [_example_line(row) for row in rows]


def _example_line(row: Mapping[str, Any]) -> str:  # Any: DuckDB values
    before, call = (" ".join((row[key] or "").split()) for key in ("before", "call"))
    margin = row["loss_reduction"]
    shown = "" if margin is None else f" (loss_reduction {margin:.3f})"
    return f"- ...{before[-60:]} {textwrap.shorten(call, 160, placeholder='...')}{shown}"


def _outcome_reasons(path: Path, tool: str, reason: str) -> list[str]:
    """What the tool itself said, most frequent first."""
    rows = select(
        path,
        "SELECT outcome_reason, count(*) AS n FROM candidates WHERE tool = ? AND reason = ? "
        "AND outcome_reason <> '' GROUP BY ALL ORDER BY n DESC, outcome_reason LIMIT 3",
        [tool, reason],
    )
    said = "; ".join(f"{' '.join(row['outcome_reason'].split())} ({row['n']})" for row in rows)
    return [f"The tool said: {said}."] if said else []


def _threshold_cure(path: Path, tool: str, settings: Mapping[str, str]) -> str:
    """Which threshold would keep a call; none, if no call helped at all."""
    [found] = select(
        path,
        "SELECT max(loss_reduction) AS best, max(loss_reduction_at_most) AS at_most "
        "FROM candidates WHERE tool = ? AND reason = 'below_threshold' "
        "AND isfinite(loss_reduction_at_most)",
        [tool],
    )
    now = _setting(settings, "filter.filtering_threshold", tool)
    best, at_most = found["best"], found["at_most"] or 0
    if best is None and at_most > 0:
        return (
            f"None of them reaches more than {at_most:.3f}. Suggestion: lower "
            f"filter.filtering_threshold (now {now}) below that, to have them measured in full."
        )
    rounded = math.floor((best or 0) * 1000) / 1000
    if rounded <= 0:
        return (
            "No call lowered the loss. Suggestion: raise sample.max_positions or "
            "sample.samples_per_position; a lower threshold would keep calls that do not help."
        )
    explicit = settings["sample.prune_below"]
    is_pruned = explicit != "null" and float(explicit) > rounded
    also = f" and {_pruning_setting(settings)}" if is_pruned else ""
    return (
        f"The largest loss_reduction among them is {best:.3f}. Suggestion: lower "
        f"filter.filtering_threshold (now {now}){also} to {rounded} or less."
    )


def _pruning_setting(settings: Mapping[str, str]) -> str:
    """What decides which losses are needless."""
    now = settings["sample.prune_below"]
    if now == "null":
        return "filter.filtering_threshold"
    return f"sample.prune_below (now {now})"


def _setting(settings: Mapping[str, str], key: str, tool: str) -> str:
    """Value in force for a tool of a setting that may be given per tool."""
    names = (f"{key}.{tool}", key, f"{key}.default")
    return next((settings[name] for name in names if name in settings), "not set")
