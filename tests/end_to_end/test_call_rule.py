"""The stage that chooses when calls start: cached, tracked, and left out where nothing is open."""

import json

import pytest

from flows._stage import Annotated
from flows.call_rule import call_rule, choose_calls
from flows.cli.summary import run_summary
from flows.cli.tables import print_run
from flows.direct.inference import evaluation_config
from flows.starting.options import Asked
from flows.sweep_work import SweepWork
from tasks import call_rule as stage
from tasks.output.manifests import load_stage
from tasks.output.record import read_run
from tasks.running.policies import Location, run_one
from tasks.tracking.journal import Journal
from toolformer_core.call_rule import RULES, choose_call_rule
from toolformer_core.config.overrides import edit
from toolformer_core.models import ModelRef
from toolformer_core.records import AugmentedDocument
from toolformer_core.shards import read_shard
from toolformer_core.training.examples import split_documents
from toolformer_core.transformers_lm.loading import load_model


@pytest.fixture
def inputs(finished, calling_llama_folder):
    """C*, C and a model of which nothing is cached yet."""
    project, manifests = finished
    found = {path.relative_to(project.root).parts[0]: path for path in manifests}
    model = ModelRef(path=str(calling_llama_folder), digest="calls", dtype="float32")
    return found["augment"], found["corpus"], model


@pytest.fixture
def computed(monkeypatch):
    """Whether each stage that was asked for was computed."""
    found = []

    def noting(*arguments, **options):
        result, was_cached = run_one(*arguments, **options)
        found.append(not was_cached)
        return result, was_cached

    monkeypatch.setattr("flows.call_rule.run_one", noting)
    return found


def test_call_rule_is_chosen_on_what_was_held_out_and_cached_by_the_split(
    finished, inputs, computed
):
    project, _ = finished
    settings = project.config.finetune.model_copy(update={"dev_fraction": 0.4})
    first = call_rule(*inputs, settings, project.runtime)
    same = settings.model_copy(update={"num_steps": 7, "learning_rate": 0.5})
    assert call_rule(*inputs, same, project.runtime) == first
    assert computed == [True, False]
    other = call_rule(*inputs, settings.model_copy(update={"seed": 9}), project.runtime)
    assert computed == [True, False, True]

    augmented = [
        row
        for shard in load_stage(inputs[0]).shards
        for row in read_shard(shard, AugmentedDocument)
    ]
    dev = split_documents(augmented, settings)[1]
    expected = choose_call_rule(dev, [], load_model(inputs[2], "cpu", 4096))
    assert first.num_texts == len(dev) > 0
    assert first.rule == expected.rule
    assert [c.num_false for c in first.counts] == [c.num_false for c in expected.counts]
    assert [c.rule for c in first.counts] == list(RULES)
    assert other.num_texts != first.num_texts or other.counts != first.counts


def test_call_rule_of_another_model_is_not_taken_from_the_cache(finished, inputs, computed):
    project, _ = finished
    settings = project.config.finetune.model_copy(update={"dev_fraction": 0.3})
    augmented, documents, model = inputs
    call_rule(augmented, documents, model, settings, project.runtime)
    other = ModelRef(path=model.path, digest="other", dtype="float32")
    call_rule(augmented, documents, other, settings, project.runtime)
    assert computed == [True, True]


@pytest.mark.parametrize(
    "given",
    [
        "evaluate.decode.call_top_k=3",
        "evaluate.decode.call_threshold=0.2",
        "finetune.without_calls=true",
    ],
)
def test_call_rule_that_is_given_or_of_no_use_is_not_chosen(finished, inputs, computed, given):
    project, _ = finished
    config = edit(project.config, [given])
    assert choose_calls(config, *inputs, project.runtime, "run") is None
    assert computed == []


def test_sweep_cells_without_a_rule_have_it_chosen_once_for_their_model(
    finished, inputs, computed, tmp_path
):
    project, _ = finished
    augmented, documents, model = inputs
    work = SweepWork(project.runtime.model_copy(update={"root": tmp_path}))
    annotated = Annotated(model=model, tools=[], documents=documents, scored=[])
    other = ModelRef(path=model.path, digest="of another cell", dtype="float32")
    given = edit(project.config, ["evaluate.decode.call_top_k=10"])

    def chosen(tuned, config=project.config, run="sweep/cell"):
        return work.choose_calls(annotated, augmented, tuned, config, run)

    assert chosen(model, given) is None
    first = chosen(model)
    assert chosen(model, run="sweep/second") is first
    assert computed == [True]
    assert chosen(other).rule == first.rule
    assert computed == [True, True]
    told = [action for action, _ in Journal(tmp_path, "sweep").after()]
    params = {action["run"]: action["params"] for action in told if action.get("params")}
    assert params.keys() == {"sweep/cell", "sweep/second"}
    assert params["sweep/second"]["call_rule"] == str(first.rule).replace(" ", "")


def test_call_rule_in_words_is_a_line_of_the_summary(finished, capsys):
    root = finished[0].root
    print_run(run_summary(root))
    [line] = [line for line in capsys.readouterr().out.splitlines() if "calls start" in line]
    assert line == f"calls start  at {read_run(root).choice}"


def test_finetune_leaves_a_model_with_its_call_rule_and_a_given_one_as_given(
    invoke, finished, tmp_path
):
    options = ("finetune", "--data", finished[0].root)
    assert invoke(*options, "--out", tmp_path / "open")[0] == 0
    rest = ("--out", tmp_path / "given", "--set", "evaluate.decode.call_top_k=10")
    assert invoke(*options, *rest)[0] == 0
    chosen, given = (
        json.loads((tmp_path / name / "model" / "toolformer.json").read_text())
        for name in ("open", "given")
    )
    assert chosen["call_rule"]["origin"].startswith("chosen on ")
    setting, value = chosen["call_rule"]["rule"].values()
    assert chosen["decode"][setting] == value
    assert given["call_rule"] == {"origin": "given"}
    assert given["decode"]["call_top_k"] == 10


@pytest.mark.parametrize(
    ("decode", "assignments", "expected"),
    [
        ({"call_top_k": 3}, [], (3, None)),
        ({"call_top_k": 3}, ["evaluate.decode.call_top_k=10"], (10, None)),
        ({"call_threshold": 0.3}, [], (None, 0.3)),
        ({"call_threshold": 0.3}, ["evaluate.decode.call_top_k=10"], (10, None)),
        ({"call_top_k": 3}, ["evaluate.decode.call_threshold=0.2"], (3, 0.2)),
        (
            {"call_threshold": 0.3},
            ["evaluate.decode.call_top_k=10", "evaluate.decode.call_threshold=0.2"],
            (10, 0.2),
        ),
    ],
)
def test_evaluate_takes_the_call_rule_of_the_model_unless_one_is_given(
    tmp_path, decode, assignments, expected
):
    content = {"base_model": "m", "dtype": "float32", "tools": {}, "decode": decode}
    (tmp_path / "toolformer.json").write_text(json.dumps(content))
    found = evaluation_config(tmp_path, Asked(), assignments).evaluate.decode
    assert (found.call_top_k, found.call_threshold) == expected


def test_task_reads_its_shards_and_counts_held_out_plain_texts(finished, inputs):
    project, _ = finished
    augmented, documents, model = inputs
    found = stage.call_rule_shards.fn(
        list(load_stage(augmented).shards),
        list(load_stage(documents).shards),
        model,
        project.config.finetune.model_copy(update={"dev_fraction": 0.5}),
        Location(folder="", runtime=project.runtime),
    )
    assert 0 <= found.num_plain_texts <= found.num_texts
