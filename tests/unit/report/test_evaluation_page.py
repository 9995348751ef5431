"""The evaluation's views, figures and page against plain Python over the same items."""

import html
import itertools
import math
import random
import re
import shlex
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from tasks.index import build, query
from tasks.report import evaluation_figures, evaluation_page
from tasks.report.commands import evaluate_command
from tests.support.builders import (
    evaluated_call,
    evaluated_item,
    pipeline_config,
    write_stage,
)
from tests.support.html_page import check_safe, table_rows
from toolformer_core.benchmarks.base import Kind
from toolformer_core.config.overrides import edit
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.evaluate import ArmScore, score_arms
from toolformer_core.records import EvaluatedItem, Outcome

CONFIG = pipeline_config(
    "evaluate.benchmarks=[asdiv=a.jsonl, webquestions=my questions.json, templama_like=t.json]",
    "evaluate.arms=[base, disabled, on, wrong]",
    "evaluate.seed=3",
    "evaluate.limit=40",
    "evaluate.decode.max_new_tokens=20",
)
KINDS: dict[str, Kind] = {
    "asdiv": "answer",
    "overcalling": "call_rate",
    "templama_like": "answer",
    "webquestions": "answer",
    "wikitext": "perplexity",
}
ARMS = {
    "answer": ("base", "disabled", "on", "wrong"),
    "perplexity": ("base", "disabled"),
    "call_rate": ("on",),
}
TEXTS = ("", " = Title = \n\n plain words \n", "a\u00a0b\u2003c\x0bd\x85e", "\u00e9t\u00e9", "one")


def items_of(benchmark: str, draw: random.Random) -> list[EvaluatedItem]:
    """Forty items of each arm; of perplexity the five texts."""
    if KINDS[benchmark] == "perplexity":
        return [
            evaluated_item(
                benchmark=benchmark,
                arm=arm,
                call_top_k=0,
                item_id=f"text-{n}",
                prompt=text,
                completion="",
                answer="",
                gold=(),
                score=draw.uniform(1, 4),
                weight=(n + 1) * 3,
                num_calls=0,
                calls=(),
                num_tokens=0,
            )
            for arm in ARMS["perplexity"]
            for n, text in enumerate(TEXTS)
        ]
    return [answered(benchmark, arm, n, draw) for arm in ARMS[KINDS[benchmark]] for n in range(40)]


def answered(benchmark: str, arm: str, n: int, draw: random.Random) -> EvaluatedItem:
    num_calls = draw.choice([0, 1, 2]) if arm in ("on", "wrong") else 0
    is_rate = KINDS[benchmark] == "call_rate"
    return evaluated_item(
        benchmark=benchmark,
        arm=arm,
        call_top_k=10 if arm in ("on", "wrong") else 0,
        item_id=f"item-{n}",
        gold=() if is_rate else ("7",),
        answer=f" {arm} says {n}.",
        score=float(num_calls > 0 if is_rate else draw.random() < (0.6 if num_calls else 0.3)),
        num_calls=num_calls,
        calls=tuple(evaluated_call(argument=f"{n} + {k}") for k in range(num_calls)),
        num_malformed=draw.choice([0, 0, 1]),
        num_tokens=draw.randrange(1, 20),
        tool_seconds=0.25 * num_calls,
    )


def built(root: Path, items: list[EvaluatedItem], config: PipelineConfig = CONFIG) -> Path:
    path = root / "calls.duckdb"
    stages = [write_stage(root, "evaluate", "all", items)]
    build.build_index(stages, config, path)
    return path


def scored(items: list[EvaluatedItem]) -> list[ArmScore]:
    """The evaluation table."""
    return [
        score
        for benchmark, kind in KINDS.items()
        for score in score_arms(
            [item for item in items if item.benchmark == benchmark], "a metric", kind, 3
        )
    ]


@pytest.fixture(scope="module")
def items() -> list[EvaluatedItem]:
    """Random answers to every kind of benchmark."""
    draw = random.Random(1)
    return [item for benchmark in KINDS for item in items_of(benchmark, draw)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, items: list[EvaluatedItem]) -> Path:
    """The index of the items."""
    return built(tmp_path_factory.mktemp("evaluation"), items)


def of(items: list[EvaluatedItem], benchmark: str, arm: str) -> dict[str, EvaluatedItem]:
    """The items of a benchmark and arm by id."""
    return {i.item_id: i for i in items if (i.benchmark, i.arm) == (benchmark, arm)}


def mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def test_evaluation_view_equals_the_evaluation_table(
    path: Path, items: list[EvaluatedItem]
) -> None:
    rows = query.select(path, "SELECT * FROM evaluation")

    assert {row["benchmark"]: row["kind"] for row in rows} == KINDS
    scores = [asdict(score) for score in scored(items)]
    shared = [name for name in rows[0] if name in scores[0]]
    assert [[row[name] for name in ("benchmark", "arm")] for row in rows] == [
        [score[name] for name in ("benchmark", "arm")] for score in scores
    ]
    for row, score in zip(rows, scores, strict=True):
        numbers = {name: score[name] for name in shared if name not in ("benchmark", "arm")}
        assert {name: row[name] for name in numbers} == pytest.approx(numbers)
    assert len(shared) == 9


def test_perplexities_words_and_bytes_equal_python(path: Path, items: list[EvaluatedItem]) -> None:
    row = query.select(path, "SELECT * FROM perplexities")[1]

    read = of(items, "wikitext", "disabled").values()
    nats = sum(item.score * item.weight for item in read)
    words = sum(len(re.split(r"\s+", text)) for text in TEXTS)
    num_bytes = sum(len(text.encode()) for text in TEXTS)
    assert (row["texts"], row["words"], row["bytes"], row["tokens"]) == (5, words, num_bytes, 45)
    assert row["token_perplexity"] == pytest.approx(math.exp(nats / 45))
    assert row["word_perplexity"] == pytest.approx(math.exp(nats / words))
    assert row["byte_perplexity"] == pytest.approx(math.exp(nats / num_bytes))


def test_answers_hold_the_calls_as_text_and_how_the_failed_ones_ended(tmp_path: Path) -> None:
    calls = (
        evaluated_call(argument="1]", result="[2"),
        evaluated_call(tool="QA", argument="who?", result="", outcome=Outcome.TIMED_OUT),
    )
    path = built(tmp_path, [evaluated_item(calls=calls), evaluated_item(item_id="none", calls=())])

    rows = query.select(path, "SELECT calls, is_right FROM answers")

    assert rows[0]["calls"] == "[Calculator(1\\]) -> \\[2] [QA(who?)] timed_out"
    assert rows[1]["calls"] == ""


def test_answer_pairs_verdicts_equal_a_plain_loop(path: Path, items: list[EvaluatedItem]) -> None:
    rows = query.select(path, "SELECT * FROM answer_pairs WHERE benchmark = 'asdiv'")

    on, disabled, base = (of(items, "asdiv", arm) for arm in ("on", "disabled", "base"))
    verdicts = {(1, 1): "both", (1, 0): "gained", (0, 1): "lost", (0, 0): "neither"}
    assert {row["item_id"]: row["verdict"] for row in rows} == {
        item_id: verdicts[int(item.score), int(disabled[item_id].score)]
        for item_id, item in on.items()
    }
    assert all(row["answer_disabled"] == disabled[row["item_id"]].answer for row in rows)
    assert all(row["base_is_right"] == (base[row["item_id"]].score == 1) for row in rows)
    assert {row["verdict"] for row in rows} == set(verdicts.values())


def test_answer_pairs_without_arm_base_are_there_all_the_same(tmp_path: Path) -> None:
    path = built(
        tmp_path, [evaluated_item(arm=arm, score=arm == "on") for arm in ("on", "disabled")]
    )

    [row] = query.select(path, "SELECT * FROM answer_pairs")

    assert (row["verdict"], row["answer_base"]) == ("gained", None)


def test_call_split_equals_a_plain_loop(path: Path, items: list[EvaluatedItem]) -> None:
    rows = query.select(path, "SELECT * FROM call_split")

    assert [row["benchmark"] for row in rows] == ["asdiv", "templama_like", "webquestions"]
    for row in rows:
        on, disabled = (of(items, row["benchmark"], arm) for arm in ("on", "disabled"))
        called = [item_id for item_id, item in on.items() if item.num_calls]
        others = [item_id for item_id in on if item_id not in called]
        assert row == {
            "benchmark": row["benchmark"],
            "call_top_k": 10,
            "n": 40,
            "accuracy": pytest.approx(mean([item.score for item in on.values()])),
            "call_rate": len(called) / 40,
            "n_called": len(called),
            "accuracy_called": pytest.approx(mean([on[i].score for i in called])),
            "disabled_called": pytest.approx(mean([disabled[i].score for i in called])),
            "n_not_called": len(others),
            "accuracy_not_called": pytest.approx(mean([on[i].score for i in others])),
            "disabled_not_called": pytest.approx(mean([disabled[i].score for i in others])),
        }


def test_call_split_without_other_arms_has_no_figure_for_them(tmp_path: Path) -> None:
    path = built(tmp_path, [evaluated_item()])

    [row] = query.select(path, "SELECT * FROM call_split")

    assert (row["n_called"], row["disabled_called"], row["accuracy_not_called"]) == (1, None, None)
    assert "calibration" not in evaluation_figures.evaluation_figures(path)


def test_figures_arms_show_the_intervals_of_the_evaluation_table(
    path: Path, items: list[EvaluatedItem]
) -> None:
    drawn = evaluation_figures.evaluation_figures(path)

    assert sorted(drawn) == ["arms_" + name for name in KINDS] + ["calibration"]
    for benchmark in KINDS:
        scores = [score for score in scored(items) if score.benchmark == benchmark]
        (axes,) = drawn[f"arms_{benchmark}"].axes
        assert [label.get_text() for label in axes.get_yticklabels()] == [s.arm for s in scores]
        shown = [bar.lines[2][0].get_segments()[0][:, 0] for bar in axes.containers]
        assert np.allclose(shown, [(score.low, score.high) for score in scores])


def test_figures_calibration_bars_are_the_shares_of_the_view(path: Path) -> None:
    (axes,) = evaluation_figures.evaluation_figures(path)["calibration"].axes

    rows = query.select(path, "SELECT * FROM call_split")
    called, others = (c for c in axes.containers if hasattr(c, "patches"))
    assert [p.get_width() for p in called] == [row["disabled_called"] for row in rows]
    assert [p.get_width() for p in others] == [row["disabled_not_called"] for row in rows]
    assert f"n = {rows[0]['n_called']}" in axes.texts[0].get_text()


def rendered(path: Path, items: list[EvaluatedItem]) -> str:
    table = [asdict(score) for score in scored(items)]
    return evaluation_page.render_evaluation(path, CONFIG, table, {"tuned model": "my model"})


@pytest.fixture(scope="module")
def text(path: Path, items: list[EvaluatedItem]) -> str:
    """The page of the items."""
    return rendered(path, items)


def test_render_evaluation_tables_hold_ours_beside_the_papers(
    text: str, items: list[EvaluatedItem]
) -> None:
    check_safe(text)
    rows = table_rows(text)
    on = next(s for s in scored(items) if (s.benchmark, s.arm) == ("asdiv", "on"))
    ours = f"{100 * on.value:.1f} [{100 * on.low:.1f}, {100 * on.high:.1f}]"
    assert f"Toolformer on 40.4 {ours}" in rows
    assert "OPT (66B) - 6.0 -" in rows
    assert any(row.startswith("the paper, Table 9 k = 10 - 26.3 100.0 - 26.4") for row in rows)
    assert "Table 8 of the paper" in text
    assert any(row.startswith("Toolformer (disabled) disabled 10.3 ") for row in rows)
    assert "Table 7 of the paper" not in text  # templama_like is not TempLAMA


def test_render_evaluation_examples_are_five_each_way_from_all_benchmarks(
    text: str,
) -> None:
    gained, lost = text.split("<h4>Gained</h4>")[1].split("<h4>Lost</h4>")
    tags = [re.findall(r'class="tag">(\w+)<', half) for half in (gained, lost)]
    in_turn = ["asdiv", "templama_like", "webquestions", "asdiv", "templama_like"]
    assert tags == [in_turn, in_turn]


def test_render_evaluation_commands_repeat_the_settings(path: Path, text: str) -> None:
    commands = re.findall(r'class="command"><code>(.*?)</code>', text)

    words = shlex.split(html.unescape(commands[0]))
    assert words[:4] == ["toolformer", "evaluate", "--model", "my model"]
    named = [after for word, after in itertools.pairwise(words) if word == "--benchmark"]
    assert named == list(CONFIG.evaluate.benchmarks)
    assignments = [after for word, after in itertools.pairwise(words) if word == "--set"]
    repeated = edit(pipeline_config("evaluate.decode.max_calls=7"), assignments)
    assert repeated.evaluate.decode == CONFIG.evaluate.decode
    assert (repeated.evaluate.seed, repeated.tools.enabled) == (3, CONFIG.tools.enabled)
    queries = [
        shlex.split(html.unescape(command))[-1] for command in commands if "--sql" in command
    ]
    assert all(query.query(path, sql)[0] for sql in queries)
    assert len(queries) == 4


def test_render_evaluation_by_a_call_threshold_shows_it_and_not_the_papers_k(
    path: Path, items: list[EvaluatedItem]
) -> None:
    config = edit(CONFIG, ["evaluate.decode.call_threshold=0.25"])
    table = [asdict(score) for score in scored(items)]

    text = evaluation_page.render_evaluation(path, config, table, {})

    assert any(row.startswith("webquestions p = 0.25 40 ") for row in table_rows(text))
    assert "Table 9" not in text


def test_evaluate_command_repeats_every_setting_of_an_evaluation() -> None:
    config = pipeline_config(
        "model.name_or_path='1e5'",
        "model.revision=abc",
        "model.dtype=float32",
        "tools.enabled=[Calculator, half]",
        "tools.qa.num_passages=2",
        "tools.own=[{kind: python, function: 'mine:half'}]",
        "execute.timeout_seconds={default: 3, QA: 4}",
        "execute.max_result_chars=17",
        "evaluate.items_per_shard=5",
        "evaluate.arms=[base_c, disabled]",
        "evaluate.control=model of C",
        "evaluate.decode.stop=['\"', \u00e9]",
    )
    words = shlex.split(evaluate_command("model", config, None))

    assignments = [after for word, after in itertools.pairwise(words) if word == "--set"]
    folder = pipeline_config("tools.mt.backend=apertium", "evaluate.decode.max_calls=7")
    repeated = edit(folder, assignments)
    by_options = {"arms": config.evaluate.arms, "control": config.evaluate.control}
    assert repeated.evaluate.model_copy(update=by_options) == config.evaluate
    assert repeated.model_copy(update={"evaluate": config.evaluate}) == config
    assert words[words.index("--control") + 1] == "model of C"
    keys = [assignment.partition("=")[0] for assignment in assignments]
    assert not {"evaluate.arms", "evaluate.control"} & set(keys)


def test_render_evaluation_same_index_gives_the_same_page(
    path: Path, items: list[EvaluatedItem], text: str
) -> None:
    assert rendered(path, items) == text


def test_render_evaluation_hostile_text_is_shown_as_text(tmp_path: Path) -> None:
    hostile = '"><img src=x onerror=alert(1)><script>alert(1)</script>'
    call = evaluated_call(tool=hostile, argument=hostile, result=hostile)
    items = [
        evaluated_item(
            benchmark="asdiv",
            arm=arm,
            score=float(arm == "on"),
            prompt=hostile,
            answer=hostile,
            gold=(hostile,),
            calls=(call,),
        )
        for arm in ("on", "disabled")
    ]
    scores = [asdict(score) for score in score_arms(items, hostile, "answer", 0)]

    links = {"tuned model": hostile, hostile: hostile}
    text = evaluation_page.render_evaluation(built(tmp_path, items), CONFIG, scores, links)

    check_safe(text)
    assert "No item was lost." in text
