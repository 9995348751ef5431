"""The paper's figures: what can be checked within themselves."""

import pytest

from toolformer_core.evaluation import published


def test_published_sets_have_a_figure_for_every_row_of_their_table() -> None:
    for column in published.SETS.values():
        rows = 3 if column.table == published.PERPLEXITY_TABLE else len(published.ROWS)
        assert len(column.figures) == rows
    assert {column.table for column in published.SETS.values()} == set(published.TABLE_TITLES)


@pytest.mark.parametrize(
    ("benchmark", "call_top_k", "row"),
    [
        ("lama_trex", 0, "Toolformer (disabled)"),
        ("lama_trex", 10, "Toolformer"),
        ("webquestions", 0, "Toolformer (disabled)"),
        ("webquestions", 10, "Toolformer"),
    ],
)
def test_published_split_at_the_ends_is_the_figure_of_the_main_table(
    benchmark: str, call_top_k: int, row: str
) -> None:
    split = published.SPLITS[benchmark][call_top_k]
    assert split.accuracy == published.SETS[benchmark].figures[row]


def test_published_split_parts_add_up_to_the_whole() -> None:
    for rows in published.SPLITS.values():
        for split in rows.values():
            called = split.call_rate / 100
            whole = called * (split.called or 0) + (1 - called) * (split.not_called or 0)
            assert whole == pytest.approx(split.accuracy, abs=0.5)  # WebQS, k = 1: 19.7 for 19.3


def test_published_calls_fall_to_about_a_third_at_twice_the_threshold() -> None:
    for counts in published.CALLS_BY_THRESHOLD.values():
        assert 0.2 < counts[1.0] / counts[0.5] < 0.4
        assert 0.1 < counts[2.0] / counts[1.0] < 0.4
