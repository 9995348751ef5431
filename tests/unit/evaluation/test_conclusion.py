import pytest

from toolformer_core.evaluation.conclusion import best_arm, conclusion


def row(arm, value, *, benchmark="asdiv", metric="first number is right", **figures):
    compared = {"difference": None, "p_value": None, "n": 100}
    return (
        {"benchmark": benchmark, "arm": arm, "value": value, "metric": metric} | compared | figures
    )


def table(on=0.5, p_value=0.001, wrong=0.01, few_shot=0.2, benchmark="asdiv"):
    rows = [
        row("disabled", 0.1),
        row("on", on, difference=on - 0.1, p_value=p_value),
        row("wrong", wrong, difference=wrong - 0.1, p_value=0.5),
        row("few_shot", few_shot, difference=few_shot - 0.1, p_value=0.5),
    ]
    return [one | {"benchmark": benchmark} for one in rows]


def test_conclusion_tools_that_help_by_their_results():
    assert conclusion(table()) == (
        "asdiv: on is best, 0.500; tools help (0.500 against 0.100 with calls disabled, n = 100, "
        "p = 0.001); with results of other calls it falls to 0.010: the results help."
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"p_value": 0.2},
            "does not show (0.500 against 0.100 with calls disabled, n = 100, p = 0.2).",
        ),
        ({"on": 0.02}, "tools do harm (0.020 against 0.100"),
        ({"wrong": 0.3}, "still reaches 0.300: not all is theirs"),
        ({"wrong": 0.12}, "falls to 0.120"),
        ({"few_shot": 0.7}, "asdiv: few_shot is best, 0.700"),
        ({"benchmark": "sums"}, "they say nothing of finding one."),
    ],
)
def test_conclusion_says_what_the_table_says(changes, expected):
    assert expected in conclusion(table(**changes))


def test_conclusion_without_calls_names_the_best_alone():
    rows = [row("base", 24.0, metric="perplexity per token"), row("disabled", 26.0)]
    assert best_arm(rows) == "base"
    assert conclusion(rows) == "asdiv: base is best, 24.000."
