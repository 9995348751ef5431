"""toolformer evaluate on a model that calls: every arm, repeated, and with one benchmark more."""

import json

import pytest

from tasks.index.query import query
from tests.end_to_end.test_cli import assert_one_line
from tests.support.tiny_model import SUMS
from tests.support.tuned_folder import tuned_folder

ARMS = "base,disabled,on,wrong,few_shot"


@pytest.fixture(scope="module")
def model(tmp_path_factory, calling_llama_folder):
    return tuned_folder(calling_llama_folder, tmp_path_factory.mktemp("evaluate") / "model")


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory):
    """Sums that the model knows, a text, and a question of another set."""
    folder = tmp_path_factory.mktemp("benchmarks")
    problems = [
        {"id": f"{a}+{b}", "body": f"{a} + {b} is", "question": "?", "answer_number": a + b}
        for a, b in SUMS
    ]
    texts = [{"id": "1", "title": "Mill", "text": "The mill is closed. It opens in May."}]
    questions = [{"id": "1", "question": "what opens in may", "answers": ["the mill"]}]
    sets = {"asdiv": problems, "wikitext": texts, "webquestions": questions}
    for name, rows in sets.items():
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return {name: f"{name}={folder / f'{name}.jsonl'}" for name in sets}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("out") / "evaluation"


def run(invoke, model, folder, specs, *more):
    given = [part for spec in specs for part in ("--benchmark", spec)]
    settings = ("--set", "evaluate.items_per_shard=4", "--set", "evaluate.context_tokens=16")
    code, output, errors = invoke(
        *("evaluate", "--model", model, "--out", folder, "--arms", ARMS, "--json"),
        *(*given, *settings, *more),
    )
    assert code == 0, errors
    return {(row["benchmark"], row["arm"]): row for row in json.loads(output)}


def answered_files(folder):
    """Inode of every file of answers: a new one is a computed one."""
    return {path.name: path.stat().st_ino for path in folder.glob("evaluate/**/*.parquet")}


def test_evaluate_first_and_again_and_with_one_benchmark_more(
    invoke, prefect_server, model, benchmarks, folder
):
    two = [benchmarks["asdiv"], benchmarks["wikitext"]]
    table = run(invoke, model, folder, two)
    assert {arm for name, arm in table if name == "asdiv"} == set(ARMS.split(","))
    assert {arm for name, arm in table if name == "wikitext"} == {"base", "disabled"}
    keys = "metric value low high n call_rate malformed_rate calls_per_item p_value difference"
    assert set(keys.split()) < set(table["asdiv", "on"])
    assert table["asdiv", "on"]["n"] == len(SUMS)
    before = answered_files(folder)
    # 6 items in parts of 4 for 5 arms, and one text for 2.
    assert len(before) == 2 * 5 + 2

    assert run(invoke, model, folder, two) == table
    assert answered_files(folder) == before

    more = run(invoke, model, folder, [*two, benchmarks["webquestions"]], "--update")
    assert {key: row for key, row in more.items() if key in table} == table
    new = answered_files(folder).items() - before.items()
    assert {name.partition("-")[0] for name, _ in new} == {"webquestions"}
    assert len(new) == 5

    _, rows = query(
        folder / "calls.duckdb",
        "SELECT benchmark, arm, avg(score) FROM evaluated_items GROUP BY ALL",
    )
    means = {(name, arm): mean for name, arm, mean in rows if name == "asdiv"}
    assert means == {key: more[key]["value"] for key in means}
    assert "webquestions" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("--arms", "base_c"), "pass it with --control"),
        (("--arms", "wrong"), "add on"),
        (("--arms", "off"), "evaluate.arms"),
        (("--benchmark", "asdiv=no.jsonl"), "asdiv"),
        (("--benchmark", "oracle"), "oracle"),
    ],
)
def test_evaluate_bad_input_is_one_line(invoke, model, tmp_path, given, expected):
    outcome = invoke("evaluate", "--model", model, "--out", tmp_path / "out", *given)
    assert_one_line(outcome, expected)
