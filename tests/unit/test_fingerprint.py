"""Equal settings have equal fingerprints in every process; where a run goes has none."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import BaseModel

from tests.support.builders import pipeline_config
from toolformer_core.config.pipeline import FilterConfig, PipelineConfig
from toolformer_core.config.presets import PRESETS, demo
from toolformer_core.config.runtime import Runtime
from toolformer_core.fingerprint import canonical, fingerprint
from toolformer_core.shards import ShardRef, StageRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A dataclass as tasks take them."""

    name: str
    sizes: tuple[int, ...]


def fingerprints_in_new_process(hash_seed):
    code = (
        "from toolformer_core.fingerprint import fingerprint\n"
        "from toolformer_core.config.presets import PRESETS\n"
        "print(*(fingerprint(make()) for make in PRESETS.values()))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_fingerprint_is_equal_in_another_process(hash_seed):
    here = [fingerprint(make()) for make in PRESETS.values()]
    assert fingerprints_in_new_process(hash_seed) == here


def test_fingerprint_of_presets_differ():
    assert len({fingerprint(make()) for make in PRESETS.values()}) == len(PRESETS)


def test_fingerprint_ignores_the_order_of_keys():
    one = FilterConfig(filtering_threshold={"default": 1.0, "Calculator": 0.5})
    other = FilterConfig(filtering_threshold={"Calculator": 0.5, "default": 1.0})
    assert fingerprint(one) == fingerprint(other)


def test_fingerprint_ignores_how_a_number_was_written():
    assert fingerprint(FilterConfig(filtering_threshold=1)) == fingerprint(
        FilterConfig(filtering_threshold="1.0")
    )


@pytest.mark.parametrize(
    "assignment",
    [
        "sample.seed=1",
        "filter.filtering_threshold.Calculator=0.9",
        "model.dtype=float32",
        "corpus.max_documents=5",
        "tools.enabled=[Calendar, Calculator]",
        "evaluate.decode.call_top_k=9",
    ],
)
def test_fingerprint_changes_with_every_setting(assignment):
    assert fingerprint(pipeline_config(assignment)) != fingerprint(pipeline_config())


def test_fingerprint_of_a_setting_edited_back_is_the_old_one():
    assert fingerprint(pipeline_config("sample.seed=1", "sample.seed=0")) == fingerprint(
        pipeline_config()
    )


def settings_within(model: type[BaseModel]):
    yield model
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings_within(field.annotation)


def test_fingerprint_of_a_run_holds_no_runtime():
    models = list(settings_within(PipelineConfig))
    assert len(models) == 18
    assert Runtime not in models
    names = {name for model in models for name in model.model_fields}
    # Of the proposer the settings say which model it is, the runtime where it answers.
    assert names & Runtime.model_fields.keys() == {"proposer"}


def shard(path="a", digest="d1", shard_index=0):
    return ShardRef(path=path, digest=digest, num_rows=1, shard_index=shard_index, counts={})


def test_fingerprint_of_a_reference_ignores_where_it_lies():
    assert fingerprint([shard("a")]) == fingerprint([shard("b")])


@pytest.mark.parametrize("other", [shard(digest="d2"), shard(shard_index=1)])
def test_fingerprint_of_a_reference_changes_with_content_and_index(other):
    assert fingerprint([other]) != fingerprint([shard()])


def test_fingerprint_of_a_stage_ignores_where_it_lies():
    stages = [
        StageRef(stage="sample", tool="QA", fingerprint="f", shards=(shard(path),))
        for path in ("a", "b")
    ]
    assert fingerprint(stages[0]) == fingerprint(stages[1])


def test_canonical_dataclass_is_its_fields():
    assert canonical(Setting(name="a", sizes=(1, 2))) == {"name": "a", "sizes": [1, 2]}


@pytest.mark.parametrize(("one", "other"), [(1, True), (1, "1"), (None, "None"), ([1, 2], [2, 1])])
def test_fingerprint_tells_values_apart(one, other):
    assert fingerprint(one) != fingerprint(other)


def test_fingerprint_parts_cannot_run_into_one_another():
    assert fingerprint("ab", "c") != fingerprint("a", "bc")


@pytest.mark.parametrize("value", [{1, 2}, object(), Path("a"), b"a", Setting])
def test_canonical_value_without_stable_order_is_refused(value):
    with pytest.raises(TypeError, match="no canonical form"):
        canonical({"a": [value]})


def test_fingerprint_is_16_hexadecimal_characters():
    assert len(fingerprint(demo())) == 16
    int(fingerprint(demo()), 16)
