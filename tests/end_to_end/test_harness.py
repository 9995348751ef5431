"""A tuned model under lm-evaluation-harness: `toolformer harness`, and against its own "hf"."""

import json
import math
import sys

import pytest
import yaml
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from tasks.harness import ToolformerLM, decoding_changes
from tests.end_to_end.test_cli import assert_one_line
from tests.support import tiny_model
from tests.support.tuned_folder import tuned_folder
from toolformer_core.errors import ConfigError

WINDOW = 32
QUESTIONS = [("3 + 4 is", "7"), ("5 + 6 is", "11"), ("8 + 9 is", "17")]
TASKS = {
    "own_sums": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["."], "max_gen_toks": 24},
        "filter_list": [
            {
                "name": "answer",
                "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}],
            }
        ],
        "metric_list": [{"metric": "exact_match"}],
    },
    "own_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}} [Calculator({{question[:5]}}) -> {{answer}}]",
        "doc_to_choice": ["7.", "11.", "17."],
        "doc_to_target": "{{answer}}.",
        "metric_list": [{"metric": "acc"}],
    },
    "own_text": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "byte_perplexity"}, {"metric": "word_perplexity"}],
    },
}


@pytest.fixture(scope="module")
def folder(calling_llama_folder, tmp_path_factory):
    return tuned_folder(calling_llama_folder, tmp_path_factory.mktemp("harness") / "model")


@pytest.fixture(scope="module")
def lm(folder, home):
    return ToolformerLM(str(folder), context_tokens=WINDOW, home=str(home))


@pytest.fixture(scope="module")
def hf(lm):
    """The harness's own model of the same weights, window and start."""
    return HFLM(
        pretrained=lm._lm.model,
        tokenizer=lm._lm.tokenizer,
        max_length=WINDOW,
        prefix_token_id=lm.prefix_token_id,
        batch_size=4,
    )


def requests(kind, *arguments, row=None):
    return [Instance(request_type=kind, doc=row or {}, arguments=a, idx=0) for a in arguments]


def generated(lm, *prompts, row=None, **kwargs):
    kwargs = {"until": ["."], "max_gen_toks": 24} | kwargs
    asked = requests("generate_until", *[(prompt, kwargs) for prompt in prompts], row=row)
    return lm.generate_until(asked, disable_tqdm=True)


def written_tasks(folder):
    """The tasks and their rows as files of a user's own."""
    texts = [tiny_model.SENTENCES[1], " ".join(tiny_model.SENTENCES)]
    rows = {
        "questions": [{"question": q, "answer": a} for q, a in QUESTIONS],
        "texts": [{"text": text} for text in texts],
    }
    for name, content in rows.items():
        lines = "".join(f"{json.dumps(row)}\n" for row in content)
        (folder / f"{name}.jsonl").write_text(lines)
    for name, task in TASKS.items():
        data = folder / ("texts.jsonl" if name == "own_text" else "questions.jsonl")
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            **task,
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
    return texts


def test_harness_runs_tasks_of_ones_own_with_tools(invoke, lm, folder, tmp_path):
    texts = written_tasks(tmp_path)
    arguments = ["--tasks", "own_sums,own_choice,own_text", "--include_path", tmp_path]
    arguments += ["--context-tokens", WINDOW, "--output_path", tmp_path / "out.json"]
    code, output, errors = invoke("harness", "--model", folder, *arguments)
    assert code == 0, errors
    assert "own_sums" in output
    [file] = tmp_path.glob("out*.json")
    found = json.loads(file.read_text())
    assert found["config"]["toolformer"] == {
        "texts": 3,
        "with an answered call": 3,
        "calls answered": 3,
        "calls taken back": 0,
    }
    assert found["results"]["own_sums"]["exact_match,answer"] == 1
    assert found["results"]["own_choice"]["acc,none"] == 1
    asked = requests("loglikelihood_rolling", *[(text,) for text in texts])
    nats = -sum(lm.loglikelihood_rolling(asked))
    num_bytes = sum(len(text.encode()) for text in texts)
    expected = math.exp(nats / num_bytes)
    assert found["results"]["own_text"]["byte_perplexity,none"] == pytest.approx(expected)


def test_harness_what_lm_eval_refuses_is_one_line(invoke, folder):
    outcome = invoke("harness", "--model", folder, "--config", "missing.yaml")
    assert_one_line(outcome, "lm-eval", "missing.yaml")


def test_harness_without_lm_eval_says_what_to_install(invoke, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert_one_line(invoke("harness", "--model", folder, "--tasks", "x"), "toolformer-prefect[")


def test_harness_likelihoods_equal_those_of_the_harness_hf_model(lm, hf):
    long = " ".join(tiny_model.SENTENCES)
    assert len(lm._lm.encode(long)) > 2 * WINDOW
    pairs = [("3 + 4 is", " 7."), ("3 + 4 is ", "7."), ("", "The mill"), (long, " 7.")]
    asked = requests("loglikelihood", *pairs)
    expected = hf.loglikelihood(asked, disable_tqdm=True)
    for found, reference in zip(lm.loglikelihood(asked, disable_tqdm=True), expected, strict=True):
        assert found[0] == pytest.approx(reference[0], rel=1e-4)
        assert found[1] == reference[1]
    rolling = requests("loglikelihood_rolling", (long,), ("3 + 4 is",), ("",))
    assert lm.loglikelihood_rolling(rolling, disable_tqdm=True) == pytest.approx(
        hf.loglikelihood_rolling(rolling, disable_tqdm=True), rel=1e-4
    )


def test_harness_continuation_beyond_the_window_is_refused(lm):
    asked = requests("loglikelihood", ("x", " ".join(tiny_model.SENTENCES)))
    with pytest.raises(ConfigError, match="window takes 32"):
        lm.loglikelihood(asked, disable_tqdm=True)


def test_harness_answers_have_no_calls_and_end_before_the_stop_text(lm):
    assert generated(lm, "3 + 4 is", "5 + 6 is") == [" 7", " 11"]
    assert generated(lm, "3 + 4 is", until=[" 7"]) == [""]


@pytest.mark.parametrize("forbidden", [{"disable_calls": True}, {"call_top_k": 0}], ids=str)
def test_harness_calls_can_be_forbidden(folder, home, forbidden):
    lm = ToolformerLM(str(folder), home=str(home), **forbidden)
    generated(lm, "3 + 4 is")
    assert lm.get_model_info()["toolformer"]["calls answered"] == 0


def test_harness_repeated_requests_are_drawn_apart(lm):
    drawn = {"do_sample": True, "temperature": 3.0, "until": []}
    first, second = generated(lm, "The mill", "The mill", **drawn)
    assert first != second
    assert generated(lm, "The mill", "The mill", **drawn) == [first, second]


class Overheard:
    """A caller, and the dates its calls were made on."""

    def __init__(self, caller):
        self.caller, self.dates = caller, []

    def answers(self, calls):
        self.dates += [context.date for _, context in calls]
        return self.caller.answers(calls)


def test_harness_a_rows_date_reaches_the_tools(folder, home):
    lm = ToolformerLM(str(folder), home=str(home))
    callers = lm._tuned.callers
    callers["Calculator"] = caller = Overheard(callers["Calculator"])
    generated(lm, "3 + 4 is", row={"date": "2014-03-04"})
    generated(lm, "3 + 4 is", row={"date": 1914})
    assert caller.dates == ["2014-03-04", None]


def test_harness_settings_of_a_task_become_ours():
    changes = decoding_changes({"until": ["\n", ""], "do_sample": False, "num_beams": 1})
    assert changes == {
        "stop": ("\n",),
        "max_new_tokens": 256,
        "temperature": 0.0,
        "top_p": None,
    }
    with pytest.raises(ConfigError, match="repetition_penalty = 2"):
        decoding_changes({"until": "x", "repetition_penalty": 2})
