"""A run rebuilt from its cassette, with no tool there."""

import pytest

from flows.pipeline import annotate
from tests.end_to_end.test_pipeline import augmented_bytes
from toolformer_core.config.runtime import Runtime
from toolformer_core.errors import ConfigError
from toolformer_core.tools import registry

CASSETTE = "cassette.parquet"


@pytest.fixture
def without_tools(finished, tmp_path, monkeypatch):
    """Where a replay runs: no search index, and nothing that builds a tool."""
    monkeypatch.setattr(registry, "_BUILDERS", {})
    cassette = finished[0].root / CASSETTE
    return Runtime(root=tmp_path / "replayed", home=tmp_path / "home", replay=cassette)


def test_replay_without_tools_gives_the_same_bytes(finished, without_tools):
    project, manifests = finished
    again = annotate(project.config, without_tools)
    assert augmented_bytes(again) == augmented_bytes(manifests)
    assert not (without_tools.home / "indexes").exists()


def test_replay_records_the_same_cassette(finished, without_tools):
    project, _ = finished
    annotate(project.config, without_tools)
    assert (without_tools.root / CASSETTE).read_bytes() == without_tools.replay.read_bytes()


def test_replay_of_other_calls_is_refused(finished, without_tools):
    project, _ = finished
    sample = project.config.sample.model_copy(update={"seed": 6, "temperature": 3.0})
    with pytest.raises(ConfigError, match="run without --replay"):
        annotate(project.config.model_copy(update={"sample": sample}), without_tools)


def test_run_without_tools_and_without_replay_is_refused(finished, without_tools):
    config = finished[0].config
    with pytest.raises(ConfigError, match="unknown tool"):
        annotate(config, without_tools.model_copy(update={"replay": None}))
