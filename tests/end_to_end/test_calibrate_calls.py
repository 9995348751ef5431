"""toolformer calibrate-calls on a model that calls, and the model card of a finished run."""

import json
import shutil

import pytest
from huggingface_hub import ModelCard

from tasks.index.query import funnel
from tests.end_to_end.test_cli import assert_one_line
from toolformer_core.config.pipeline import DecodeConfig
from toolformer_core.config.tools import ToolsConfig
from toolformer_core.shards import read_manifest


@pytest.fixture
def model(tmp_path, calling_llama_folder):
    """The calling model as a tuned model's folder."""
    folder = tmp_path / "model"
    shutil.copytree(calling_llama_folder, folder)
    description = {
        "base_model": str(calling_llama_folder),
        "dtype": "float32",
        "tools": ToolsConfig(enabled=("Calculator",)).model_dump(mode="json"),
        "decode": DecodeConfig(max_new_tokens=12).model_dump(mode="json"),
        "fingerprint": "0",
    }
    (folder / "toolformer.json").write_text(json.dumps(description))
    return folder


@pytest.fixture
def benchmark(tmp_path):
    """Sums as a file of word problems."""
    path = tmp_path / "sums.jsonl"
    items = [
        {"id": n, "body": f"{n % 9 + 1} + {n % 7 + 2} is", "question": "?", "answer_number": n}
        for n in range(24)
    ]
    path.write_text("".join(f"{json.dumps(item)}\n" for item in items))
    return f"asdiv={path}"


def test_calibrate_calls_help_exits_with_zero(invoke):
    code, output, _ = invoke("calibrate-calls", "--help")
    assert code == 0
    assert "--target-call-rate" in output


def test_calibrate_calls_json_has_every_rule_and_both_halves(invoke, model, benchmark):
    code, output, errors = invoke(
        "calibrate-calls",
        *("--model", model, "--benchmark", benchmark, "--target-call-rate", 0.5, "--json"),
    )
    assert code == 0, errors
    report = json.loads(output)
    before = json.loads((model / "toolformer.json").read_text())["decode"]
    assert report["rules"][0]["value"] == 0
    assert {1, 3, 10} <= {r["value"] for r in report["rules"] if r["setting"] == "call_top_k"}
    for rule in report["rules"]:
        assert rule["deciding"]["num_items"] + rule["checking"]["num_items"] == 24
    assert report["recommended"] in report["rules"]
    assert before["call_threshold"] is None


def test_calibrate_calls_write_changes_the_rule_of_the_model_and_nothing_else(
    invoke, model, benchmark
):
    before = json.loads((model / "toolformer.json").read_text())
    code, output, errors = invoke(
        "calibrate-calls",
        *("--model", model, "--benchmark", benchmark, "--target-call-rate", 0.5, "--write"),
    )
    assert code == 0, errors
    assert "recommended: call_t" in output
    after = json.loads((model / "toolformer.json").read_text())
    changed = {"call_top_k", "call_threshold"}
    assert {k: v for k, v in after["decode"].items() if k not in changed} == {
        k: v for k, v in before["decode"].items() if k not in changed
    }
    rule = after["decode"]["call_threshold"] or after["decode"]["call_top_k"]
    assert f"{rule:g}" in output
    assert after.pop("call_rule")["origin"].startswith("calibrate-calls on ")
    del before["decode"], after["decode"]
    assert after == before


def test_calibrate_calls_of_a_model_without_tools_is_one_line(
    invoke, calling_llama_folder, benchmark
):
    outcome = invoke("calibrate-calls", "--model", calling_llama_folder, "--benchmark", benchmark)
    assert_one_line(outcome, "no toolformer.json", "tuned model")


def test_calibrate_calls_unknown_benchmark_is_one_line(invoke, model):
    outcome = invoke("calibrate-calls", "--model", model, "--benchmark", "riddles")
    assert_one_line(outcome, "unknown benchmark 'riddles'", "asdiv=PATH")


def test_model_card_of_a_finished_run_states_its_facts(finished):
    project, manifests = finished
    card = ModelCard.load(project.root / "model" / "README.md")
    augmented = next(ref for ref in map(read_manifest, manifests) if ref.stage == "augment")
    num_documents = sum(shard.num_rows for shard in augmented.shards)
    num_calls = sum(shard.counts["calls"] for shard in augmented.shards)
    stated = f"{num_documents} texts with {num_calls} calls (fingerprint {augmented.digest})"
    assert stated in card.text
    for tool in funnel(project.root / "calls.duckdb"):
        assert f"| {tool} | " in card.text
    assert {result.dataset_name for result in card.data.eval_results} == {
        "one_step",
        "sums",
        "dateset",
    }
    assert str(project.folder) not in str(card)
