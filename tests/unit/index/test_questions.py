"""The questions in QUERIES.md, on an index of stories whose answers are counted by hand."""

import re
from pathlib import Path
from typing import Any

import pytest

from tasks.index import build, query
from tests.support.builders import CallStory, document, pipeline_config, write_annotation
from toolformer_core.records import DropReason, Outcome

QUERIES = Path(__file__).parents[3] / "tasks" / "index" / "QUERIES.md"
CONFIG = pipeline_config(
    "tools.enabled=[Calculator, Calendar]",
    "filter.filtering_threshold=1.0",
    "filter.threshold_sweep=[0.25, 1.0, 2.0]",
)


def questions() -> dict[str, str]:
    """Question to SQL."""
    (block,) = re.findall(r"```sql\n(.*?)```", QUERIES.read_text(encoding="utf-8"), re.DOTALL)
    found = re.findall(r"-- (.*?)\n([^-].*?;)\n", block, re.DOTALL)
    return dict(found)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Question to rows: five calls to Calculator, of which two are kept, and one to Calendar."""
    root = tmp_path_factory.mktemp("questions")
    stories = [
        CallStory(candidate_id="best", losses=(4.0, 4.0, 1.0), is_right=True),
        CallStory(candidate_id="again", losses=(3.0, 3.0, 1.5), is_right=False),
        CallStory(candidate_id="near", losses=(2.0, 2.0, 1.5), is_right=True),
        CallStory(candidate_id="open", dropped=DropReason.NOT_CLOSED),
        CallStory(candidate_id="failed", outcome=Outcome.FAILED),
        CallStory(candidate_id="day", tool="Calendar", losses=(3.0, 3.0, 1.0)),
    ]
    path = root / "calls.duckdb"
    build.build_index(write_annotation(root / "shards", [document()], stories), CONFIG, path)
    return {question: query.select(path, sql) for question, sql in questions().items()}


def rows_of(answers: dict[str, list[dict[str, Any]]], beginning: str) -> list[dict[str, Any]]:
    (rows,) = [rows for question, rows in answers.items() if question.startswith(beginning)]
    return rows


def test_questions_are_ten_and_each_has_an_answer(answers: dict[str, Any]) -> None:
    assert len(answers) == 10
    assert all(answers.values())


def test_questions_yield_and_drops_are_counted(answers: dict[str, Any]) -> None:
    calculator, calendar = rows_of(answers, "Which tool yields")
    assert (calculator["tool"], calculator["kept"], calculator["share"]) == ("Calculator", 2, 0.4)
    assert (calendar["kept"], calendar["per_document"]) == (1, 1.0)
    drops = {row["reason"]: row["share"] for row in rows_of(answers, "Where do calls fail")}
    assert drops == pytest.approx(dict.fromkeys(("below_threshold", "failed", "not_closed"), 1 / 3))


def test_questions_threshold_for_so_many_examples_is_their_lowest(answers: dict[str, Any]) -> None:
    rows = rows_of(answers, "Which tau_f gives")
    assert [(r["tool"], r["tau_f"], r["n"]) for r in rows] == [
        ("Calculator", 0.5, 3),
        ("Calendar", 2.0, 1),
    ]
    more = {
        (r["tool"], r["filtering_threshold"]): r["more"] for r in rows_of(answers, "What would")
    }
    assert more["Calculator", 0.25] == 1
    assert more["Calculator", 1.0] == 0
    assert more["Calculator", 2.0] == -1


def test_questions_what_repeats_and_what_was_lost_is_named(answers: dict[str, Any]) -> None:
    assert [row["kept"] for row in rows_of(answers, "Which documents")] == [3]
    (again,) = rows_of(answers, "Which calls come again")
    assert (again["tool"], again["n"], again["documents"]) == ("Calculator", 2, 1)
    (lost,) = rows_of(answers, "Which calls were right")
    assert (lost["reason"], lost["loss_reduction"]) == ("below_threshold", 0.5)
    assert sum(row["kept"] for row in rows_of(answers, "Where in a text")) == 3
    assert sum(row["kept"] for row in rows_of(answers, "Which sources")) == 3
