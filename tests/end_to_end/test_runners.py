"""Shards computed by the workers of a cluster: the same as in threads."""

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.pipeline import annotate
from flows.sample import sample
from tasks.prepare import tool_refs
from tasks.running.runners import check_runner, close_cluster
from tests.end_to_end.test_pipeline import NUM_SHARDS, augmented_bytes, stages
from toolformer_core.config.runtime import Runtime
from toolformer_core.errors import ConfigError
from toolformer_core.transformers_lm.loading import resolve_model


@pytest.fixture
def cluster_runtime(finished, tmp_path):
    """A runtime with a folder of its own, by runner."""

    def build(runner):
        update = {"root": tmp_path / "run", "runner": runner}
        return finished[0].runtime.model_copy(update=update)

    yield build
    close_cluster()


def test_workers_make_the_same_shards_and_only_those_that_are_missing(finished, cluster_runtime):
    project, manifests = finished
    runtime = cluster_runtime("dask")
    expected = stages(manifests)["sample", "Calculator"]
    tools = tool_refs(project.config.tools, project.runtime)[:1]
    model = resolve_model(project.config.model, project.runtime.home, "cpu")
    first, again = (
        stages(sample(manifests[0], tools, model, project.config, runtime))["sample", "Calculator"]
        for _ in range(2)
    )
    assert first.digest == again.digest == expected.digest
    assert (first.num_cached, again.num_cached) == (0, NUM_SHARDS)


@pytest.mark.services
@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_cluster_makes_the_same_augmented_corpus(finished, cluster_runtime, runner, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # whose cluster was not asked for
    project, manifests = finished
    found = annotate(project.config, cluster_runtime(runner))
    assert augmented_bytes(found) == augmented_bytes(manifests)
    expected = stages(manifests)
    for name, ref in stages(found).items():
        assert ref.digest == expected[name].digest
        assert ref.num_cached == 0


@pytest.mark.parametrize(
    ("settings", "server", "message"),
    [
        ({"runner_address": "tcp://127.0.0.1:1"}, None, "pass --runner dask or ray"),
        ({"runner": "dask", "runner_address": "tcp://127.0.0.1:1"}, None, "PREFECT_API_URL"),
        ({"runner": "dask", "runner_address": "tcp://127.0.0.1:1"}, "http://h/api", "refused"),
        ({"runner": "ray", "runner_address": "127.0.0.1:1"}, "http://h/api", "ray://HOST:10001"),
        ({"runner": "ray", "runner_address": "ray://h:port"}, "http://h/api", "nothing answers"),
    ],
)
def test_runner_that_cannot_work_is_refused(settings, server, message):
    with (
        temporary_settings({PREFECT_API_URL: server}),
        pytest.raises(ConfigError, match="--runner-address") as refused,
    ):
        check_runner(Runtime(**settings))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_runner_without_its_package_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "toolformer-prefect\[ray\]"'):
        check_runner(Runtime(runner="ray"))
