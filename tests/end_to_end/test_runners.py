"""Shards computed by the workers of a cluster: the same C* as in threads."""

import pytest

from flows.pipeline import annotate
from tasks.runners import close_cluster
from tests.end_to_end.test_pipeline import augmented_bytes, stages


@pytest.mark.parametrize("runner", ["dask", pytest.param("ray", marks=pytest.mark.services)])
def test_cluster_makes_the_same_augmented_corpus(finished, tmp_path, runner):
    project, manifests = finished
    runtime = project.runtime.model_copy(update={"root": tmp_path / "run", "runner": runner})
    try:
        found = annotate(project.config, runtime)
    finally:
        close_cluster()
    assert augmented_bytes(found) == augmented_bytes(manifests)
    expected = stages(manifests)
    for name, ref in stages(found).items():
        assert ref.digest == expected[name].digest
        assert ref.num_cached == 0
