"""How well loss_reduction ranks calls: bins, shares and pairs counted one by one."""

import math
import random
from pathlib import Path

import numpy as np
import pytest

from tasks.index import build
from tasks.report import reliability
from tests.support.builders import CallStory, document, pipeline_config, write_annotation
from toolformer_core.evaluation.reliability import equal_bins, rank_agreement, share_interval


def drawn(num_calls: int, seed: int) -> list[tuple[float, bool]]:
    """Calls whose margin says a little about whether they are good, with ties."""
    draw = random.Random(seed)
    calls = [(round(draw.gauss(0, 1), 1), 0) for _ in range(num_calls)]
    return [(margin, draw.random() < 0.4 + 0.2 * margin) for margin, _ in calls]


@pytest.mark.parametrize("num_calls", [1, 9, 19, 20, 75, 80, 1000])
def test_equal_bins_hold_every_call_once_in_order(num_calls: int) -> None:
    judged = drawn(num_calls, num_calls)

    bins = equal_bins(judged)

    assert len(bins) == max(1, min(8, num_calls // 10))
    assert sum(found.n for found in bins) == num_calls
    assert sum(found.num_good for found in bins) == sum(good for _, good in judged)
    assert max(found.n for found in bins) - min(found.n for found in bins) <= 1
    assert [found.median for found in bins] == sorted(found.median for found in bins)
    middle = sorted(margin for margin, _ in judged)[: bins[0].n]
    assert bins[0].median == pytest.approx(float(np.median(middle)))


def test_equal_bins_of_equal_margins_do_not_sort_by_verdict() -> None:
    judged = [(1.0, k % 2 == 0) for k in range(40)]

    assert [found.share for found in equal_bins(judged)] == [0.5] * 4


def test_equal_bins_of_no_call_are_none() -> None:
    assert equal_bins([]) == []


@pytest.mark.parametrize(("num_good", "n"), [(0, 10), (3, 10), (10, 10), (40, 75)])
def test_share_interval_is_wilsons(num_good: int, n: int) -> None:
    # The values of p at which (p - share)^2 = z^2 p (1 - p) / n, z = 1.96.
    z, share = 1.959964, num_good / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)

    assert share_interval(num_good, n) == pytest.approx((middle - half, middle + half), abs=1e-6)


def test_rank_agreement_area_equals_the_share_of_pairs() -> None:
    judged = drawn(120, 3)
    good = [margin for margin, is_good in judged if is_good]
    bad = [margin for margin, is_good in judged if not is_good]
    won = sum((a > b) + 0.5 * (a == b) for a in good for b in bad)

    found = rank_agreement(judged)

    assert found is not None
    assert found.area == pytest.approx(won / (len(good) * len(bad)))
    assert (found.num_good, found.num_bad) == (len(good), len(bad))
    assert 0 < found.p_value < 0.05


@pytest.mark.parametrize("judged", [[], [(1.0, True)], [(1.0, False), (2.0, False)]])
def test_rank_agreement_of_one_kind_is_none(judged: list[tuple[float, bool]]) -> None:
    assert rank_agreement(judged) is None


def test_reliability_takes_calls_that_text_or_control_can_judge(tmp_path: Path) -> None:
    stories = [
        CallStory(
            candidate_id=f"call-{n:02}",
            losses=(5.0, 5.0, 5.0 - n / 8),
            is_right=None if n < 8 else n >= 16,
            controls=(4.0, None) if n % 2 else (None, None),
            char_offset=n,
        )
        for n in range(32)
    ]
    stories += [
        CallStory(candidate_id="nan", losses=(math.nan, 2.5, 1.75), is_right=True),
        CallStory(candidate_id="nan control", losses=(5.0, 5.0, 1.0), controls=(math.nan, None)),
    ]
    path = tmp_path / "calls.duckdb"
    config = pipeline_config("tools.enabled=[Calculator, Calendar]")
    stages = write_annotation(tmp_path, [document(text="x" * 40)], stories)
    build.build_index(stages, config, path)

    (axes,) = reliability.reliability_figures(path)["reliability_Calculator"].axes
    lines = reliability.reliability_lines(path)

    # 24 judged by the text in two bins of 12; of 16 with a control, one bin, those above 1 nat.
    assert [line.get_ydata().tolist() for line in axes.lines if line.get_marker() == "o"] == [
        [pytest.approx(4 / 12), 1.0]
    ]
    assert [line.get_ydata().tolist() for line in axes.lines if line.get_marker() == "s"] == [
        [pytest.approx(12 / 16)]
    ]
    assert len(lines) == 2
    assert "of 24 calls that the text can judge 16 are right" in lines[0]
    assert "curve is 1.00 (0.5 is luck; Mann-Whitney p = " in lines[0]
    assert "of 16 calls scored with a wrong result too 12 beat it" in lines[1]
    assert "no test: both hold the same loss" in lines[1]


def test_reliability_calls_of_one_kind_are_told_in_words(tmp_path: Path) -> None:
    path = tmp_path / "calls.duckdb"
    stories = [CallStory(candidate_id="only", is_right=True)]
    stages = write_annotation(tmp_path, [document()], stories)
    build.build_index(stages, pipeline_config(), path)

    assert reliability.reliability_figures(path) == {}
    [line] = reliability.reliability_lines(path)
    assert line.endswith("1 are right; there is nothing to tell apart.")
