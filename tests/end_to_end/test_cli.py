"""The command line: bad input gives one clear line and exit code 2; figures come as JSON.

`invoke` runs `main` in this process, as the console script would; one test starts a real process.
"""

import json
import os
import subprocess
import sys

import pytest

from flows.starting.inputs import build_config
from flows.starting.options import Method
from tasks.index.query import funnel
from tests.support.servers import serving
from toolformer_core.config.overrides import parse_config
from toolformer_core.tools.registry import BUILT_IN
from toolformer_core.yaml_text import parse_yaml

COMMANDS = [
    [],
    ["run"],
    ["annotate"],
    ["funnel"],
    ["calls"],
    ["calibrate"],
    ["explain"],
    ["finetune"],
    ["generate"],
    ["serve"],
    ["evaluate"],
    ["sweep"],
    ["harness"],
    ["plan"],
    ["tools"],
    ["tools", "list"],
    ["tools", "call"],
    ["index"],
]


def assert_one_line(outcome, *expected):
    code, output, errors = outcome
    assert code == 2
    assert output == ""
    assert errors.count("\n") == 1
    assert errors.startswith("toolformer: ")
    assert "Traceback" not in errors
    for part in expected:
        assert part in errors


@pytest.fixture
def annotate(invoke, project, tmp_path):
    """`toolformer annotate` on the project's settings, with further arguments."""

    def run(*arguments, out=tmp_path / "out"):
        return invoke("annotate", "--config", project.config_file, "--out", out, *arguments)

    return run


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_exits_with_zero(invoke, command):
    code, output, errors = invoke(*command, "--help")
    assert (code, errors) == (0, "")
    assert "Usage: " in output


def test_missing_corpus_is_one_line(annotate, tmp_path):
    missing = tmp_path / "missing.jsonl"
    assert_one_line(annotate("--corpus", missing), str(missing))


@pytest.mark.parametrize("content", ["", "\n\n", '{"text": "short"}\n', "{oops\n"])
def test_empty_corpus_is_one_line(annotate, tmp_path, content):
    corpus = tmp_path / "empty.jsonl"
    corpus.write_text(content)
    assert_one_line(annotate("--corpus", corpus), "empty.jsonl", "no usable document")


def test_unknown_tool_is_one_line(annotate):
    assert_one_line(annotate("--tools", "Calculator,Oracle"), "'Oracle'", "Calendar")


@pytest.mark.parametrize("key", ["sample.tau", "nothing.seed", "seed"])
def test_unknown_setting_is_one_line(annotate, key):
    unknown = "nothing" if key == "nothing.seed" else key
    assert_one_line(annotate("--set", f"{key}=1"), f"unknown setting {unknown!r}")


def test_unknown_setting_in_a_file_is_one_line(invoke, project, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(project.config_file.read_text() + "colour: red\n")
    outcome = invoke("annotate", "--config", path, "--out", tmp_path / "out")
    assert_one_line(outcome, "colour")


@pytest.mark.parametrize("value", ["99", "-1", "many", "[1]"])
def test_threshold_out_of_range_is_one_line(annotate, value):
    key = "filter.filtering_threshold"
    assert_one_line(annotate("--set", f"{key}={value}"), key)


def test_threshold_below_what_was_sampled_is_one_line(annotate):
    assert_one_line(annotate("--set", "sample.prune_below=0.5"), "prune_below")


def test_setting_without_a_value_is_one_line(annotate):
    assert_one_line(annotate("--set", "sample.seed"), "key=value")


def test_setting_that_is_no_yaml_is_one_line(annotate):
    assert_one_line(annotate("--set", "corpus.sources=[a"), "corpus.sources")


def test_model_folder_without_weights_is_one_line(annotate, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert_one_line(annotate("--model", folder), str(folder), "no weights")


def test_missing_settings_file_is_one_line(invoke, tmp_path):
    outcome = invoke("run", "--config", tmp_path / "missing.yaml", "--out", tmp_path / "out")
    assert_one_line(outcome, "missing.yaml")


def test_unknown_preset_is_one_line(invoke, tmp_path):
    assert_one_line(invoke("run", "--preset", "huge", "--out", tmp_path / "out"), "huge", "demo")


def test_output_that_is_a_file_is_one_line(annotate, tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    assert_one_line(annotate(out=path), str(path), "is a file")


def test_output_of_another_configuration_is_one_line(annotate, finished):
    project, _ = finished
    outcome = annotate("--set", "sample.seed=6", out=project.root)
    assert_one_line(outcome, str(project.root), "sample.seed", "'5'", "'6'")


@pytest.mark.parametrize("command", ["funnel", "calls"])
def test_folder_without_a_run_is_one_line(invoke, tmp_path, command):
    assert_one_line(invoke(command, "--out", tmp_path), str(tmp_path), "toolformer annotate")


def test_annotate_with_a_proposer_records_its_name(annotate, tmp_path, annotating_llama_folder):
    with serving("echoing", annotating_llama_folder) as url:
        code, output, _ = annotate(
            *("--proposer", url, "--tools", "Calculator", "--set", "proposer.num_logprobs=100"),
            *("--set", "corpus.max_documents=4", "--json"),
        )
        assert_one_line(
            annotate("--proposer", url, "--set", "proposer.model=other"), "offers tiny, not other"
        )
    counts = json.loads(output)["funnel"]["Calculator"]
    assert code == 0
    assert counts["scored"] > 0
    assert counts["calls"] == counts["kept"] + sum(counts["dropped"].values())
    settings = json.loads((tmp_path / "out" / "run.json").read_text())["config"]
    assert settings["proposer"]["model"] == "tiny"


@pytest.fixture
def calibrate(invoke, project, prefect_server):
    """`toolformer calibrate` with the project's settings; one half of the texts decides."""

    def run(*arguments):
        return invoke("calibrate", "--config", project.config_file, *arguments)

    return run


def test_calibrate_json_predicts_and_settings_can_be_run(calibrate, tmp_path):
    out = tmp_path / "calibrated.yaml"
    code, output, _ = calibrate(
        *("--documents", "14", "--target", "0", "--out", out, "--json"),
        *("--set", "filter.threshold_sweep=[0]", "--tools", "Calculator,Calendar"),
        *("--set", "sample.look_ahead_guard=false", "--set", "sample.samples_per_position=8"),
    )
    report = json.loads(output)
    assert code == 0
    assert (report["corpus_documents"], report["sample_documents"]) == (14, 14)
    found = next(t for t in report["tools"] if "settings" in t)
    assert found["corpus"]["kept"] == pytest.approx(14 * found["predicted"]["kept"])
    assert report["hours"] == pytest.approx(
        sum(t["corpus"]["hours"] for t in report["tools"] if "settings" in t)
    )
    config = parse_config(parse_yaml(out.read_text(), "out"))
    threshold = config.filter.filtering_threshold[found["tool"]]
    assert threshold == found["settings"]["filtering_threshold"]


def test_calibrate_table_names_every_tool_and_the_error(calibrate):
    code, output, _ = calibrate("--documents", "14", "--tools", "Calculator,Calendar")
    assert code == 0
    for part in ("Calculator", "Calendar", "14 documents in all", "hours on this device"):
        assert part in output


def test_calibrate_into_a_missing_folder_is_one_line(calibrate, tmp_path):
    assert_one_line(calibrate("--out", tmp_path / "missing" / "x.yaml"), "--out", "make it first")


def test_calibrate_of_one_document_says_that_nothing_can_be_judged(calibrate):
    code, output, _ = calibrate("--set", "corpus.max_documents=1", "--tools", "Calculator")
    assert code == 0
    assert "Calculator: not calibrated. Of 0 calls on 0 documents 0 had a result" in output


@pytest.mark.parametrize(("preset_name", "expected"), [("demo", "none"), ("paper", "paper")])
def test_corpus_option_tries_all_texts_but_with_the_preset_of_the_paper(preset_name, expected):
    config = build_config(Method(preset=preset_name, corpus=["texts.jsonl"]))
    assert config.sample.document_heuristic == expected
    assert build_config(Method()).sample.document_heuristic != "none"


def test_corpus_option_takes_all_documents(project, tmp_path):
    config = build_config(Method(corpus=["texts.jsonl"]))
    assert (config.corpus.max_documents, config.corpus.sample_seed) == (None, None)
    path = tmp_path / "settings.yaml"
    path.write_text(
        project.config_file.read_text().replace("sources:", "max_documents: 5\n  sources:")
    )
    config = build_config(Method(config_file=str(path), corpus=["texts.jsonl"]))
    assert (config.corpus.sources, config.corpus.max_documents) == (("texts.jsonl",), 5)


def test_proposer_without_a_server_is_one_line(annotate):
    assert_one_line(annotate("--set", "proposer.model=tiny"), "proposer.model tiny", "--proposer")
    assert_one_line(annotate("--proposer", "http://127.0.0.1:9/v1"), "http://127.0.0.1:9/v1")


def test_wrong_query_is_one_line(invoke, finished):
    outcome = invoke("calls", "--out", finished[0].root, "--sql", "SELECT nothing FROM nowhere")
    assert_one_line(outcome, "nowhere")


@pytest.mark.parametrize(
    "arguments",
    [["Oracle", "1"], ["Calendar", "--date", "yesterday"], ["Calculator", "8 / 0"]],
    ids=" ".join,
)
def test_tool_call_of_a_bad_call_never_raises(invoke, arguments):
    code, output, errors = invoke("tools", "call", *arguments)
    assert "Traceback" not in output + errors
    assert (output + errors).count("\n") == 1
    assert code == (2 if errors else 0)


def test_bad_input_in_a_real_process_is_one_line(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from flows.cli.main import main; main()", "run"),
            *("--preset", "smoke", "--corpus", "missing.jsonl", "--out", str(tmp_path / "out")),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ},
    )
    assert_one_line((done.returncode, done.stdout, done.stderr), "missing.jsonl")
    assert not (tmp_path / "out").exists()


def test_funnel_json_is_that_of_the_index(invoke, finished):
    project, _ = finished
    code, output, _ = invoke("funnel", "--out", project.root, "--json")
    assert code == 0
    assert json.loads(output) == funnel(project.root / "calls.duckdb")


def test_funnel_table_shows_every_tool(invoke, finished):
    code, output, errors = invoke("funnel", "--out", finished[0].root)
    assert (code, errors) == (0, "")
    assert "Calculator" in output
    assert "kept" in output


def test_calls_json_has_one_row_per_call(invoke, finished):
    root = finished[0].root
    code, output, _ = invoke("calls", "--out", root, "--limit", "9999", "--json")
    assert code == 0
    rows = json.loads(output)
    assert len(rows) == sum(row["calls"] for row in funnel(root / "calls.duckdb").values())
    assert set(rows[0]) == {"tool", "argument", "result", "loss_reduction", "kept", "reason"}
    sql = "SELECT count(*) AS n FROM candidates WHERE kept"
    _, output, _ = invoke("calls", "--out", root, "--sql", sql, "--json")
    assert json.loads(output) == [{"n": sum(row["kept"] for row in rows)}]


def test_tools_list_json_names_the_tools(invoke):
    code, output, _ = invoke("tools", "list", "--json")
    assert code == 0
    assert {row["name"] for row in json.loads(output)} == set(BUILT_IN)


def test_index_command_builds_adds_and_is_searched(invoke, tmp_path):
    folder = tmp_path / "index"
    for name, text in (("a", "The mill burned in 1922."), ("b", "Bees make honey in summer.")):
        file = tmp_path / f"{name}.jsonl"
        row = {"text": f"{text} And so on.", "url": f"https://e.org/wiki/{name.upper()}"}
        file.write_text(json.dumps(row))
        build = ("index", "--passages", file, "--out", folder, "--json")
        code, output, _ = invoke(*build)
        assert code == 0
        assert json.loads(output)["num_added"] == 1
    code, output, _ = invoke(*build)
    assert (json.loads(output)["num_passages"], json.loads(output)["num_added"]) == (2, 0)
    searched = ("--set", f"tools.wiki_search.index={folder}")
    _, output, _ = invoke("tools", "call", "WikiSearch", "honey bees", *searched)
    assert output == "B > Bees make honey in summer. And so on.\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--passages", "missing.jsonl", "--out", "x"], "missing.jsonl"),
        (["--set", "tools.wiki_search.passages=[]", "--out", "x"], "sources is empty"),
    ],
)
def test_index_command_bad_passages_are_one_line(invoke, arguments, expected):
    assert_one_line(invoke("index", *arguments), expected)


def test_search_with_an_index_that_is_not_there_is_one_line(invoke, tmp_path):
    searched = ("--set", f"tools.wiki_search.index={tmp_path / 'none'}")
    assert_one_line(invoke("tools", "call", "WikiSearch", "bees", *searched), "toolformer index")


def test_replay_of_a_file_that_is_no_cassette_is_one_line(annotate, tmp_path):
    file = tmp_path / "text"
    file.write_text("text")
    assert_one_line(annotate("--replay", file), "--replay", "cannot be read")


def test_tools_call_json_has_the_result(invoke):
    code, output, _ = invoke("tools", "call", "Calculator", "34 + 57", "--json")
    assert code == 0
    assert json.loads(output)["result"] == "91"


@pytest.fixture
def explain(invoke, calling_llama_folder):
    """`explain` of a call in "3 + 4 is 7." before the 7."""

    def run(call, *arguments, at=8):
        text = ("--text", "3 + 4 is 7.", "--at", at, "--call", call)
        return invoke("explain", *text, "--model", calling_llama_folder, *arguments)

    return run


def test_explain_json_has_losses_verdict_and_tokens(explain):
    code, output, _ = explain("Calculator(3 + 4)", "--json")
    found = json.loads(output)
    assert code == 0
    assert (found["result"], found["char_offset"], found["is_right"]) == ("7", 8, True)
    weighted = sum(t["weight"] * t["nll_without_call"] for t in found["tokens"])
    assert found["loss_without_call"] == pytest.approx(weighted)
    margin = min(found["loss_without_call"], found["loss_with_empty_result"])
    assert found["loss_reduction"] == pytest.approx(margin - found["loss_with_result"])
    assert found["kept"] == (found["loss_reduction"] >= found["filtering_threshold"])
    assert "".join(t["text"] for t in found["tokens"]).startswith(" 7.")


def test_explain_table_shows_a_given_result_and_the_verdict(explain):
    code, output, _ = explain("[Calculator(3 + 4) -> 8]", "--set", "filter.filtering_threshold=9")
    assert code == 0
    assert "[Calculator(3 + 4) -> 8] 7." in output
    assert "< tau_f 9: dropped: below_threshold" in output


def test_explain_bad_call_position_or_answer_is_one_line(explain):
    assert_one_line(explain("Calculator"), "'[Calculator]'", "[Name(argument) -> result]")
    assert_one_line(explain("Oracle(May)"), "Oracle", "Calculator")
    assert_one_line(explain("Calculator(3 +)"), "rejected", "--result")
    assert_one_line(explain("Calculator(3 + 4)", at=99), "--at 99", "expected 0 to 11")


def test_generate_json_has_text_and_calls(invoke, calling_llama_folder):
    arguments = ["--call-top-k", "1", "--max-new-tokens", "24", "--tools", "Calculator", "--json"]
    code, output, _ = invoke("generate", "--model", calling_llama_folder, "3 + 4 is", *arguments)
    assert code == 0
    answer = json.loads(output)
    assert answer["text"].startswith(" [Calculator(3 + 4) -> 7]")
    assert [(c["tool"], c["argument"], c["result"]) for c in answer["calls"]] == [
        ("Calculator", "3 + 4", "7")
    ]


@pytest.mark.parametrize("command", [["generate", "3 + 4 is"], ["evaluate"]], ids=" ".join)
def test_missing_model_is_one_line(invoke, tmp_path, command):
    assert_one_line(invoke(*command, "--model", tmp_path / "missing"), "missing")
