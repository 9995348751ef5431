"""What an evaluation shows, and what it does not, in words: one sentence or two per benchmark."""

from collections.abc import Mapping, Sequence
from typing import Any

from toolformer_core.benchmarks.known import scope_of

SIGNIFICANT = 0.05
MARGIN = 0.03
"""By how much wrong results may leave a model better than calls disabled, as an accident."""

Row = Mapping[str, Any]  # Any: the keys of ArmScore


def best_arm(rows: Sequence[Row]) -> str:
    """The arm with the best value of one benchmark; of equal ones the first."""
    is_lower_better = rows[0]["metric"].startswith("perplexity")
    best = (min if is_lower_better else max)(rows, key=lambda row: row["value"])
    return str(best["arm"])


def conclusions(scores: Sequence[Row]) -> list[str]:
    """One conclusion per benchmark of the evaluation table, in its order."""
    names = dict.fromkeys(row["benchmark"] for row in scores)
    return [conclusion([row for row in scores if row["benchmark"] == name]) for name in names]


def conclusion(rows: Sequence[Row]) -> str:
    """What the arms of one benchmark tell; rows are of the evaluation table."""
    by_arm = {row["arm"]: row for row in rows}
    name, best = rows[0]["benchmark"], by_arm[best_arm(rows)]
    said = [f"{name}: {best['arm']} is best, {best['value']:.3f}"]
    on, disabled = by_arm.get("on"), by_arm.get("disabled")
    if on and disabled and on["p_value"] is not None:
        said.append(_of_tools(on, disabled))
        does_help = on["p_value"] < SIGNIFICANT and on["difference"] > 0
        if does_help and "wrong" in by_arm:
            said.append(_of_results(by_arm["wrong"], disabled))
    sentences = ["; ".join(said) + ".", scope_of(name)]
    return " ".join(sentence for sentence in sentences if sentence)


def _of_tools(on: Row, disabled: Row) -> str:
    counted = f"{on['value']:.3f} against {disabled['value']:.3f} with calls disabled"
    chance = f"n = {on['n']}, p = {on['p_value']:.2g}"
    if on["p_value"] >= SIGNIFICANT:
        return f"whether tools help does not show ({counted}, {chance})"
    verb = "help" if on["difference"] > 0 else "do harm"
    return f"tools {verb} ({counted}, {chance})"


def _of_results(wrong: Row, disabled: Row) -> str:
    if wrong["value"] <= disabled["value"] + MARGIN:
        return f"with results of other calls it falls to {wrong['value']:.3f}: the results help"
    return f"with results of other calls it still reaches {wrong['value']:.3f}: not all is theirs"
