"""What makes a task run anew and what does not: on a small task, and on the keys of the real ones.

The small task is made with `shard_task` like the real ones and runs on a test server.
"""

import dataclasses
import importlib
import pkgutil
import types
import typing
from pathlib import Path

import pytest
from prefect import Task, flow
from prefect.task_runners import ThreadPoolTaskRunner

import tasks
from tasks.evaluate import ContestantRef, Part
from tasks.loaded_models import AnnotatorRef
from tasks.loaded_tools import ToolRef
from tasks.running.policies import (
    ContentKey,
    Location,
    is_transient,
    run_one,
    run_shards,
    shard_task,
)
from tests.support.builders import document
from tests.support.progress_lines import listen
from toolformer_core.call_rule import CallChoice
from toolformer_core.config.finetune import FinetuneConfig
from toolformer_core.config.pipeline import (
    AugmentConfig,
    CorpusConfig,
    DecodeConfig,
    ExecuteConfig,
    ProposerConfig,
    SampleConfig,
    ScoreConfig,
)
from toolformer_core.config.runtime import Runtime
from toolformer_core.config.tools import ToolsConfig
from toolformer_core.corpus import CorpusShards
from toolformer_core.errors import ConfigError, DataError, TransientStorageError, TransientToolError
from toolformer_core.finetune import FinetuneResult
from toolformer_core.models import ModelRef
from toolformer_core.records import Document
from toolformer_core.shards import ShardRef, is_intact, read_shard, write_shard

RUNS: list[tuple[str, int]] = []  # (task, shard_index) of every execution
FAULTS: dict[int, list[Exception]] = {}  # shard_index -> what the next executions raise


def _copy(name: str, documents: ShardRef, folder: Path) -> ShardRef:
    RUNS.append((name, documents.shard_index))
    if FAULTS.get(documents.shard_index):
        raise FAULTS[documents.shard_index].pop(0)
    rows = read_shard(documents, Document)
    path = folder / f"{name}-{documents.shard_index}.parquet"
    return write_shard(
        rows, Document, path, shard_index=documents.shard_index, counts={"documents": len(rows)}
    )


@shard_task("copy", 1)
def copy_shard(documents: ShardRef, config: SampleConfig, location: Location) -> ShardRef:
    return _copy("copy", documents, Path(location.folder))


@shard_task("copy", 1)
def copy_again(documents: ShardRef, config: SampleConfig, location: Location) -> ShardRef:
    return _copy("again", documents, Path(location.folder))


def at_once(task):
    """The task without pauses between its tries."""
    return task.with_options(retry_delay_seconds=0, retry_jitter_factor=None)


@pytest.fixture(autouse=True)
def _clean():
    RUNS.clear()
    FAULTS.clear()


def shard(folder, shard_index, text="Some words that are long enough.") -> ShardRef:
    rows = [document(document_id=f"document-{shard_index}", text=text)]
    path = folder / "in" / f"part-{shard_index}.parquet"
    return write_shard(rows, Document, path, shard_index=shard_index, counts={})


def call(root, documents, **changed):
    location = Location(folder=str(root / "out"), runtime=Runtime(root=root))
    return {"documents": documents, "config": SampleConfig(), "location": location, **changed}


@pytest.fixture
def root(tmp_path, prefect_server):
    return tmp_path


@pytest.fixture
def calls(root):
    return [call(root, shard(root, k)) for k in range(3)]


def run(task, calls, root, max_workers=1):
    """(results, number cached, shards executed)."""
    names = [f"copy-{k:05d}" for k in range(len(calls))]

    @flow(name="copy", task_runner=ThreadPoolTaskRunner(max_workers=max_workers))
    def copy_flow():
        return run_shards(task, calls, runtime=Runtime(root=root), names=names, is_intact=is_intact)

    RUNS.clear()
    results, num_cached = copy_flow()
    return results, num_cached, [shard_index for _, shard_index in RUNS]


def test_second_run_is_all_hits_and_gives_equal_refs(calls, root):
    first, num_cached, executed = run(copy_shard, calls, root)
    assert (num_cached, executed) == (0, [0, 1, 2])
    assert all(isinstance(result, ShardRef) for result in first)
    second, num_cached, executed = run(copy_shard, calls, root)
    assert (num_cached, executed) == (3, [])
    assert second == first


def test_equal_calls_at_once_are_computed_once(calls, root):
    results, num_cached, executed = run(copy_shard, calls * 3, root, max_workers=8)
    assert (num_cached, sorted(executed)) == (6, [0, 1, 2])
    assert results == results[:3] * 3


def test_equal_calls_at_once_that_fail_are_retried_one_at_a_time(calls, root):
    FAULTS[1] = [TransientToolError("refused")] * 2
    results, num_cached, executed = run(at_once(copy_shard), calls * 3, root, max_workers=8)
    assert (num_cached, sorted(executed)) == (6, [0, 1, 1, 1, 2])
    assert results == results[:3] * 3


def test_changed_runtime_and_input_path_are_still_hits(calls, root):
    first, _, _ = run(copy_shard, calls, root)
    elsewhere = [
        {
            **one,
            "documents": shard(root / "moved", k),
            "location": Location(
                folder=str(root / "other"),
                runtime=Runtime(root=root / "other", device="cuda", token_budget=64),
            ),
        }
        for k, one in enumerate(calls)
    ]
    again, num_cached, executed = run(copy_shard, elsewhere, root)
    assert (num_cached, executed, again) == (3, [], first)


def test_changed_config_is_a_miss(calls, root):
    run(copy_shard, calls, root)
    changed = [{**one, "config": SampleConfig(seed=1)} for one in calls]
    assert run(copy_shard, changed, root)[1:] == (0, [0, 1, 2])


def test_changed_input_content_is_a_miss_for_that_shard_alone(calls, root):
    run(copy_shard, calls, root)
    calls[1] = call(root, shard(root, 1, "Other words that are long enough."))
    assert run(copy_shard, calls, root)[1:] == (2, [1])


def test_changed_stage_version_is_a_miss(calls, root):
    run(copy_shard, calls, root)
    newer = copy_shard.with_options(cache_policy=ContentKey(stage="copy", version=2))
    assert run(newer, calls, root)[1:] == (0, [0, 1, 2])


def test_two_tasks_with_equal_arguments_do_not_share_a_result(calls, root):
    copied, _, _ = run(copy_shard, calls, root)
    again, num_cached, executed = run(copy_again, calls, root)
    assert (num_cached, executed) == (0, [0, 1, 2])
    assert [ref.path for ref in again] != [ref.path for ref in copied]


def test_cached_result_without_its_file_is_computed_anew(calls, root):
    first, _, _ = run(copy_shard, calls, root)
    Path(first[1].path).unlink()
    second, num_cached, executed = run(copy_shard, calls, root)
    assert (num_cached, executed, second) == (2, [1], first)
    assert all(is_intact(ref) for ref in second)
    assert run(copy_shard, calls, root)[1:] == (3, [])


def test_cached_result_with_a_damaged_file_is_computed_anew(calls, root):
    first, _, _ = run(copy_shard, calls, root)
    Path(first[2].path).write_bytes(b"no Parquet")
    assert run(copy_shard, calls, root)[1:] == (2, [2])


def test_cached_result_that_was_cut_is_computed_anew(calls, root):
    first, _, _ = run(copy_shard, calls, root)
    record = sorted((root / "results").iterdir())[0]
    record.write_bytes(record.read_bytes()[:-9])
    second, num_cached, executed = run(copy_shard, calls, root)
    assert (num_cached, len(executed), second) == (2, 1, first)


@pytest.mark.parametrize(
    "error", [TransientToolError("refused"), TransientStorageError("lost"), ConnectionError()]
)
def test_transient_error_is_retried(calls, root, error):
    FAULTS[1] = [error, error]
    results, _, executed = run(at_once(copy_shard), calls, root)
    assert executed == [0, 1, 1, 1, 2]
    assert [ref.shard_index for ref in results] == [0, 1, 2]


@pytest.mark.parametrize("error", [ConfigError("bad"), DataError("bad"), ValueError("bad")])
def test_lasting_error_is_not_retried_and_the_other_shards_run(calls, root, error):
    FAULTS[0] = [error]
    with pytest.raises(type(error), match="bad"):
        run(at_once(copy_shard), calls, root)
    assert [shard_index for _, shard_index in RUNS] == [0, 1, 2]
    results, num_cached, executed = run(copy_shard, calls, root)
    assert (num_cached, executed) == (2, [0])
    assert [ref.shard_index for ref in results] == [0, 1, 2]


def test_shards_that_end_before_the_first_are_counted(calls, root, monkeypatch):
    """The first one ends when a line has told of the two others."""
    lines = listen(monkeypatch)

    @shard_task("waits", 1)
    def first_waits(documents, config, location) -> ShardRef:
        if documents.shard_index == 0:
            while not lines.get(timeout=60).startswith("copy                 2 of 3 shards"):
                pass
        return _copy("waits", documents, Path(location.folder))

    _, _, executed = run(first_waits, calls, root, max_workers=3)
    assert executed[-1] == 0


def test_transient_error_is_given_up_after_three_retries(calls, root):
    FAULTS[2] = [TransientToolError("refused")] * 9
    with pytest.raises(TransientToolError):
        run(at_once(copy_shard), calls, root)
    assert [shard_index for _, shard_index in RUNS] == [0, 1, 2, 2, 2, 2]


def test_result_of_another_class_is_computed_anew(calls, root):
    """As Prefect gives back a result whose class has been moved: as a dict of its fields."""

    def as_dict(documents: ShardRef, config: SampleConfig, location: Location) -> dict:
        return dataclasses.asdict(_copy("older", documents, Path(location.folder)))

    def as_reference(documents: ShardRef, config: SampleConfig, location: Location) -> ShardRef:
        return _copy("newer", documents, Path(location.folder))

    as_dict.__name__ = as_reference.__name__ = "moved_shard"
    older, newer = shard_task("copy", 1)(as_dict), shard_task("copy", 1)(as_reference)

    @flow(name="older")
    def run_older():
        names = [f"copy-{k}" for k in range(len(calls))]
        anything = {"runtime": Runtime(root=root), "is_intact": lambda _: True}
        return run_shards(older, calls, names=names, **anything)

    assert run_older()[1] == 0
    assert run_older()[1] == len(calls)
    results, num_cached, executed = run(newer, calls, root)
    assert (num_cached, executed) == (0, [0, 1, 2])
    assert all(isinstance(result, ShardRef) for result in results)
    assert run(newer, calls, root) == (results, 3, [])


def test_run_one_is_cached_and_repaired(calls, root):
    @flow(name="copy-one")
    def copy_one():
        return run_one(
            copy_shard,
            calls[0],
            runtime=Runtime(root=root),
            name="copy-00000",
            is_intact=is_intact,
        )

    first, was_cached = copy_one()
    assert not was_cached
    assert copy_one() == (first, True)
    Path(first.path).unlink()
    assert copy_one() == (first, False)
    assert [shard_index for _, shard_index in RUNS] == [0, 0]


def test_results_are_stored_below_the_root(calls, root):
    run(copy_shard, calls, root)
    assert len(list((root / "results").iterdir())) == 3


# The real tasks: keys are computed, nothing runs.


def real_tasks() -> dict[str, Task]:
    modules = [
        importlib.import_module(f"tasks.{module.name}")
        for module in pkgutil.iter_modules(tasks.__path__)
    ]
    found = [value for module in modules for value in vars(module).values()]
    shards = [
        task
        for task in found
        if isinstance(task, Task) and isinstance(task.cache_policy, ContentKey)
    ]
    return {task.name: task for task in shards}


REAL = real_tasks()
RESULT_TYPES = {ShardRef, CorpusShards, FinetuneResult, CallChoice}


def shard_ref(digest="a", path="one.parquet"):
    return ShardRef(path=path, digest=digest, num_rows=1, shard_index=0, counts={})


def model_ref(digest="m", path="/one"):
    return ModelRef(path=path, digest=digest, dtype="float32")


def tool_ref(digest="t", index_folder=None):
    return ToolRef(
        name="Calculator",
        digest=digest,
        config=ToolsConfig(),
        index_folder=index_folder,
        runtime=Runtime(),
    )


def part(**fields):
    defaults = {"spec": "asdiv=/one/asdiv.jsonl", "digest": "d", "seed": 0, "first": 0, "last": 4}
    return Part(**{**defaults, **fields})


def contestant(**fields):
    defaults = {
        "model": model_ref(),
        "tools": [tool_ref()],
        "decode": DecodeConfig(),
        "execute": ExecuteConfig(),
        "context_tokens": 64,
    }
    return ContestantRef(**{**defaults, **fields})


# Parameter name -> (a value, one that gives the same result, others that do not).
SHARD = (shard_ref(), shard_ref(path="two.parquet"), [shard_ref("b")])
SHARDS = ([shard_ref()], [shard_ref(path="two.parquet")], [[shard_ref("b")], [shard_ref()] * 2])
MODEL = (model_ref(), model_ref(path="/two"), [model_ref("n")])
VALUES = {
    "documents": SHARD,
    "proposed": SHARD,
    "executed": SHARD,
    "scored": SHARD,
    "decisions": SHARDS,
    "augmented": SHARDS,
    "earlier": SHARDS,
    "model": MODEL,
    "base": MODEL,
    "annotator": (
        AnnotatorRef(model=model_ref(), proposer=ProposerConfig()),
        AnnotatorRef(model=model_ref(path="/two"), proposer=ProposerConfig()),
        [
            AnnotatorRef(model=model_ref("n"), proposer=ProposerConfig()),
            AnnotatorRef(model=model_ref(), proposer=ProposerConfig(model="served")),
            AnnotatorRef(model=model_ref(), proposer=ProposerConfig(num_logprobs=50)),
        ],
    ),
    "contestant": (
        contestant(),
        contestant(model=model_ref(path="/two"), tools=[tool_ref(index_folder=Path("/two"))]),
        [
            contestant(model=model_ref("n")),
            contestant(tools=[]),
            contestant(tools=[tool_ref("u")]),
            contestant(decode=DecodeConfig(call_top_k=3)),
            contestant(execute=ExecuteConfig(max_result_chars=9)),
            contestant(context_tokens=65),
        ],
    ),
    "tool": (tool_ref(), tool_ref(index_folder=Path("/two")), [tool_ref("u")]),
    "content_digest": ("c", "c", ["d"]),
    "part": (part(), part(spec="asdiv=/two/asdiv.jsonl"), [part(last=9), part(digest="e")]),
    "answered": SHARDS,
    "arm": ("on", "on", ["base", "disabled"]),
    "num_scored_tokens": (5, 5, [4]),
    "token_weights": ("linear", "linear", ["flat"]),
    "heuristic_digest": ("", "", ["source"]),
    "prune_below": (0.1, 0.1, [0.2]),
    "wrong_results": (("7", "91"), ("7", "91"), [("7",), ()]),
    "filtering_threshold": (0.5, 0.5, [0.6]),
    "cutoffs": ({"a": 1.0, "b": 2.0}, {"b": 2.0, "a": 1.0}, [{"a": 1.5, "b": 2.0}, {}]),
    "location": (
        Location(folder="/one", runtime=Runtime()),
        Location(
            folder="/two",
            runtime=Runtime(device="cuda", token_budget=99, root=Path("/r"), proposer="http://two"),
            tracking="run",
        ),
        [],
    ),
}
CONFIGS = {
    "corpus_shards": (CorpusConfig(), CorpusConfig(max_documents=3)),
    "sample_shard": (SampleConfig(), SampleConfig(temperature=0.3)),
    "execute_shard": (ExecuteConfig(), ExecuteConfig(timeout_seconds=3)),
    "score_shard": (ScoreConfig(), ScoreConfig(prefix_separator=" ")),
    "augment_shard": (AugmentConfig(), AugmentConfig(max_calls_per_document=1)),
    "finetune_shards": (FinetuneConfig(), FinetuneConfig(seed=5)),
    "call_rule_shards": (FinetuneConfig(), FinetuneConfig(seed=5)),
}


def values_of(name, parameter):
    if parameter == "config":
        value, other = CONFIGS[name]
        return value, value.model_copy(), [other]
    return VALUES[parameter]


def parameters_of(task):
    return [name for name in typing.get_type_hints(task.fn) if name != "return"]


def key_of(task, inputs):
    context = types.SimpleNamespace(task=task)
    return task.cache_policy.compute_key(context, inputs, {})


def base_inputs(task):
    return {name: values_of(task.name, name)[0] for name in parameters_of(task)}


PARAMETERS = [(name, parameter) for name in REAL for parameter in parameters_of(REAL[name])]


def test_every_stage_has_its_cached_task():
    stages = {"corpus", "sample", "execute", "score", "filter", "augment", "finetune", "evaluate"}
    stages.add("call_rule")
    assert {task.cache_policy.stage for task in REAL.values()} == stages


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS)
def test_real_task_key_changes_with_content_alone(name, parameter):
    task = REAL[name]
    inputs = base_inputs(task)
    key = key_of(task, inputs)
    _, same, others = values_of(name, parameter)
    assert key_of(task, {**inputs, parameter: same}) == key
    keys = {key, *(key_of(task, {**inputs, parameter: other}) for other in others)}
    assert len(keys) == 1 + len(others)


def test_real_task_keys_are_those_of_the_folders_that_users_have():
    """A key changes with its STAGE_VERSION, or with a new setting; never with the code's shape."""
    assert {name: key_of(task, base_inputs(task)) for name, task in REAL.items()} == KEYS


KEYS = {
    "augment_shard": "augment-v1-augment_shard-bc89ce00e1570bd9a24df4cab031a768",
    "call_rule_shards": "call_rule-v1-call_rule_shards-728f364601274bb4a44b30f33e919525",
    "corpus_shards": "corpus-v2-corpus_shards-c562a144fc1a9f0f3b4b4957dbfaa6d6",
    "evaluate_shard": "evaluate-v5-evaluate_shard-c4ef5ab092a09d8f38d94875987fb776",
    "execute_shard": "execute-v3-execute_shard-b9d7f1b066b6dacd797c4ba80747890c",
    "score_shard": "score-v3-score_shard-bf6093c8f1e4727c7537ca1861f64d45",
    "filter_shard": "filter-v3-filter_shard-d92747d6aafbfc1f2fd2f39058d359e2",
    "finetune_shards": "finetune-v5-finetune_shards-fd0b313e6ebc1b9c3343b8243304e17f",
    "sample_shard": "sample-v3-sample_shard-fd1bed34f2f576d8ee89fbe65308c612",
}


@pytest.mark.parametrize("name", REAL)
def test_real_task_key_changes_with_the_stage_version(name):
    task = REAL[name]
    policy = dataclasses.replace(task.cache_policy, version=task.cache_policy.version + 1)
    newer = task.with_options(cache_policy=policy)
    assert key_of(newer, base_inputs(task)) != key_of(task, base_inputs(task))


@pytest.mark.parametrize("name", REAL)
def test_real_task_takes_its_version_from_the_core(name):
    policy = REAL[name].cache_policy
    stage = "filter" if policy.stage == "score" else policy.stage
    core = importlib.import_module(f"toolformer_core.{stage}")
    assert policy.version == core.STAGE_VERSION


@pytest.mark.parametrize("name", REAL)
def test_real_task_is_stored_and_returns_a_reference(name):
    task = REAL[name]
    assert task.persist_result
    assert task.retries == 3
    assert task.retry_condition_fn is is_transient
    assert typing.get_type_hints(task.fn)["return"] in RESULT_TYPES
