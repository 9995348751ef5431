"""The report page: what it says, that it is safe to open, and that it is the same each time."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from tasks.index import build, query
from tasks.report import figures, page
from tasks.report.call_rule_figures import call_rule_figures
from tests.support.builders import (
    CallStory,
    document,
    pipeline_config,
    quarantined_row,
    write_annotation,
    write_stage,
)
from tests.support.html_page import Elements, check_safe, table_rows
from toolformer_core.call_rule import RULES, CallChoice, Place, best_rule, count_starts
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.errors import ConfigError
from toolformer_core.records import DropReason, Outcome

CONFIG = pipeline_config("tools.enabled=[Calculator, Calendar]", "sample.prune_below=0.1")
SCORES = [
    {
        "benchmark": "dateset",
        "arm": "on",
        "metric": "accuracy",
        "value": 0.575,
        "low": 0.5,
        "high": 0.65,
        "n": 1200,
        "call_rate": 0.93,
        "malformed_rate": None,
        "calls_per_item": 0.95,
        "tool_seconds_per_call": 0.012,
        "tokens_per_item": 51.4,
        "difference": 0.25,
        "difference_low": 0.2,
        "difference_high": 0.3,
        "p_value": 0.00123,
    }
]
STORIES = [
    CallStory(candidate_id="kept", is_right=True),
    CallStory(candidate_id="wrong", losses=(9.0, 9.0, 0.5), is_right=False, result="92"),
    CallStory(candidate_id="below", losses=(2.0, 2.5, 1.75)),
    CallStory(candidate_id="nan", losses=(math.nan, 2.5, 1.75)),
    CallStory(candidate_id="open", dropped=DropReason.NOT_CLOSED),
    CallStory(candidate_id="late", tool="Calendar", outcome=Outcome.TIMED_OUT),
]


def built(
    root: Path, stories: list[CallStory], *, config: PipelineConfig = CONFIG, **fields: str
) -> Path:
    path = root / "index.duckdb"
    stages = write_annotation(root / "shards", [document(**fields)], stories)
    quarantine = [quarantined_row(row_number=number) for number in (9, 4)]
    stages.append(write_stage(root / "shards", "quarantine", "all", quarantine, {"rows": 3}))
    build.build_index(stages, config, path)
    return path


def rendered(path: Path, config: PipelineConfig = CONFIG) -> str:
    return page.render_page(path, config, SCORES, {"prefect": "3.8.8"})


@pytest.fixture(scope="module")
def usual_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of STORIES."""
    return built(tmp_path_factory.mktemp("usual"), STORIES)


@pytest.fixture(scope="module")
def usual_page(usual_index: Path) -> str:
    """The page of STORIES."""
    return rendered(usual_index)


def test_render_page_tables_hold_the_counts_and_scores(usual_page: str) -> None:
    rows = table_rows(usual_page)

    # documents positions calls parsed executed scored kept checkable right
    assert "Calculator 1 1 5 4 4 4 2 2 1 50%" in rows
    assert "Calendar 1 1 1 1 0 0 0 0 0 -" in rows
    assert (
        "dateset on 0.575 [0.500, 0.650] 1,200 +0.250 [0.200, 0.300] 0.0012 93% - 0.95 0.012 51"
    ) in rows
    assert "Toolformer on 27.3 57.5 [50.0, 65.0]" in rows
    assert "Calculator 0.5 2 3,680 2 1 50%" in rows  # as the paper's Table 2 has 3,680
    assert "Calendar 1 0% 0 0 0 1 0 0.010 0.010" in rows
    assert "texts.jsonl not_json 2 4 {oops" in rows
    assert "3 1" in rows  # rows, documents


def test_render_page_is_well_formed_and_loads_nothing(usual_page: str) -> None:
    check_safe(usual_page)


def test_render_page_every_reference_within_the_page_has_its_target(usual_page: str) -> None:
    targets = set(re.findall(r'id="([^"]+)"', usual_page))
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', usual_page))
    assert {first or second for first, second in used} <= targets


def test_render_page_hostile_text_is_shown_as_text(tmp_path: Path) -> None:
    hostile = '"><img src=x onerror=alert(1)><script>alert(1)</script>'
    story = CallStory(
        candidate_id="kept",
        argument=hostile,
        result=hostile,
        tool=f"Tool{hostile}".replace("/", ""),
    )
    rejected = CallStory(
        candidate_id="no", argument=hostile, outcome=Outcome.REJECTED, outcome_reason=hostile
    )
    config = pipeline_config("sample.seed=1").model_copy(
        update={"corpus": CONFIG.corpus.model_copy(update={"sources": (hostile,)})}
    )
    path = built(
        tmp_path, [story, rejected], config=config, text=hostile * 3, source=hostile, date=hostile
    )

    links = {hostile: hostile, "script": "javascript:alert(1)"}
    text = page.render_page(path, config, [{**SCORES[0], "arm": hostile}], links)

    elements = Elements(text)
    assert not {"script", "img"} & set(elements.names)
    assert not any(name.startswith("on") for name, _ in elements.attributes)
    assert not any("javascript" in value for _, value in elements.attributes)


def test_render_page_web_links_are_links(usual_index: Path) -> None:
    text = page.render_page(usual_index, CONFIG, [], {"MLflow": "http://127.0.0.1:5000/#/runs"})

    assert '<a href="http://127.0.0.1:5000/#/runs"' in text
    assert "No model was evaluated in this run." in text


def test_render_page_same_index_gives_the_same_page_in_another_process(
    usual_index: Path, usual_page: str
) -> None:
    program = (
        "from pathlib import Path; from tests.unit.report import test_page; import sys;"
        "sys.stdout.write(test_page.rendered(Path(sys.argv[1])))"
    )
    root = str(Path(__file__).parents[3])
    # Another hash seed: the order of sets must not show.
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": root}

    child = subprocess.run(
        [sys.executable, "-c", program, str(usual_index)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )

    assert child.stdout == usual_page


def test_render_page_empty_index_says_so_without_figures(tmp_path: Path) -> None:
    path = tmp_path / "index.duckdb"
    build.build_index([], CONFIG, path)

    text = page.render_page(path, CONFIG, [], {})

    assert figures.figures(path) == {}
    assert "<svg" not in text
    for sentence in (
        "No call was sampled.",
        "No call was scored, so there are no losses to show.",
        "No model was evaluated in this run.",
        "No row was quarantined.",
    ):
        assert sentence in text


def call_choice() -> CallChoice:
    """Two calls, of which the second comes second; one false start at k = 3."""
    places = [
        Place(rank=0, probability=0.9, has_call=True, is_exact=True),
        Place(rank=1, probability=0.2, has_call=True, is_exact=True),
        Place(rank=2, probability=0.07, has_call=False),
    ]
    counts = tuple(count_starts(rule, places, places[2:]) for rule in RULES)
    rule, reason = best_rule(counts)
    return CallChoice(rule=rule, reason=reason, num_texts=2, num_plain_texts=1, counts=counts)


def test_render_page_with_a_chosen_rule_shows_all_and_evaluates_by_it(usual_index: Path) -> None:
    text = page.render_page(usual_index, CONFIG, SCORES, {}, call_choice())

    check_safe(text)
    assert "call_top_k = 2, chosen on 2 held-out texts: 2 of 2 calls exact and in place" in text
    assert "n = 2 calls in 2 texts" in text
    rows = table_rows(text)
    assert "call_top_k = 2 2 2 2 0 1.000 1.000 [0.342, 1.000] 1.000 0" in rows
    assert "call_top_k = 3 2 2 2 1 0.667 1.000 [0.342, 1.000] 0.800 1" in rows
    assert "call_threshold = 0.5 2 1 1 0 1.000 0.500 [0.095, 0.905] 0.667 0" in rows
    assert "k = 2" in text
    assert "&#34;call_top_k&#34;: 2" in text  # in the command that evaluates again


def test_call_rule_figure_draws_both_shares_and_rings_the_chosen_rule() -> None:
    choice = call_choice()
    [(name, figure)] = call_rule_figures(choice).items()
    assert name == "call_rule"
    [axes] = figure.axes
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["k = 1", "2", "3", "5", "10", "p >= 0.5", "0.3", "0.2", "0.1", "0.05"]
    rings = [line for line in axes.lines if line.get_markersize() == 12]
    assert [round(float(x)) for line in rings for x in line.get_xdata()] == [1, 1]
    drawn = {round(float(y), 3) for line in axes.lines for y in line.get_ydata()}
    assert {1.0, 0.5, 0.667} <= drawn


def test_call_rule_figure_is_none_where_no_call_was_looked_at() -> None:
    choice = CallChoice(rule=RULES[0], reason="", num_texts=0, num_plain_texts=0, counts=())
    assert call_rule_figures(choice) == {}
    assert call_rule_figures(None) == {}


def test_render_page_nothing_kept_opens_the_diagnosis(tmp_path: Path) -> None:
    text = rendered(built(tmp_path, [CallStory(candidate_id="below", losses=(1.0, 1.0, 0.5))]))

    assert "No call was kept." in text
    assert "No call at any of these thresholds is checkable" in text
    assert "<details open><summary>What limits the yield" in text
    assert "The largest loss_reduction among them is 0.500." in text


def test_render_page_facts_show_per_tool_settings(tmp_path: Path) -> None:
    config = pipeline_config("filter.filtering_threshold={Calculator: 0.3, default: 0.5}")

    text = rendered(built(tmp_path, STORIES, config=config), config)

    assert "<dd>Calculator 0.3, default 0.5</dd>" in text
    assert "<dt>prefect</dt><dd>3.8.8</dd>" in text


def test_render_page_missing_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no index"):
        rendered(tmp_path / "index.duckdb")


def test_figures_names_tell_kind_and_tool(usual_index: Path) -> None:
    drawn = figures.figures(usual_index)

    assert sorted(drawn) == [
        "explain_Calculator_dropped",
        "explain_Calculator_kept",
        "funnel_Calculator",
        "funnel_Calendar",
        "loss_reduction_Calculator",
        "threshold_sweep_kept",
        "threshold_sweep_right",
    ]


def test_figures_explanation_shows_every_loss_and_the_verdict(tmp_path: Path) -> None:
    stories = [
        CallStory(candidate_id="best", losses=(3.25, 2.5, 1.0)),
        CallStory(candidate_id="worse", losses=(3.25, 2.5, 1.5), argument="1 + 1", result="2"),
        CallStory(candidate_id="near", losses=(3.0, 2.0, 1.75), argument="3 + 4", result="7"),
    ]
    drawn = figures.figures(built(tmp_path, stories))

    (kept,) = drawn["explain_Calculator_kept"].axes
    shown = [text.get_text() for text in kept.texts]
    assert [shown.count(loss) for loss in ("3.25", "2.50", "1.00")] == [6, 6, 6]
    assert kept.get_title(loc="left").endswith("loss_reduction 1.50 >= tau_f 1, kept")
    (dropped,) = drawn["explain_Calculator_dropped"].axes
    assert "[Calculator(3 + 4) -> 7]" in dropped.get_title(loc="left")
    assert dropped.get_title(loc="left").endswith("0.25 < tau_f 1, dropped: below_threshold")


def test_figures_histogram_bars_add_up_and_split_at_the_threshold(tmp_path: Path) -> None:
    margins = [n / 50 for n in range(-60, 160)]
    stories = [
        CallStory(candidate_id=f"call-{n}", losses=(5.0, 5.0, 5.0 - margin))
        for n, margin in enumerate([*margins, *[0.1] * 200])
    ]
    path = built(tmp_path, stories)
    kept = query.funnel(path)["Calculator"]["kept"]

    (axes,) = figures.figures(path)["loss_reduction_Calculator"].axes

    rectangles = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    bars = [(bar.get_x(), bar.get_height()) for bar in rectangles]
    assert sum(height for _, height in bars) == len(stories)
    assert sum(height for left, height in bars if left >= 1.0) == kept
    assert axes.get_yscale() == "log"


def test_figures_sweep_curve_holds_the_points_of_the_view(usual_index: Path) -> None:
    (axes,) = figures.figures(usual_index)["threshold_sweep_kept"].axes

    # loss_reduction 1.5, 8.5 and 0.25 against the default sweep.
    assert np.asarray(axes.lines[0].get_xdata()).tolist() == [0.1, 0.2, 0.3, 0.5, 1.0, 2.0]
    assert np.asarray(axes.lines[0].get_ydata()).tolist() == [3, 3, 2, 2, 2, 1]
