"""A disk that is full in the middle of a run: one line, and the next run goes on."""

import json

import pyarrow.parquet as pq

from tasks import track_store
from tasks.index import funnel
from tests.end_to_end.test_pipeline import augmented_bytes
from tests.support.full_disk import files_no_larger_than


def test_annotate_on_a_full_disk_ends_with_one_line_and_goes_on_later(
    finished, tmp_path, invoke, monkeypatch
):
    monkeypatch.setattr(track_store, "_ask_again", {})
    project, manifests = finished
    root = tmp_path / "run"
    command = ("annotate", "--config", project.config_file, "--out", root, "--json")
    with files_no_larger_than(5000):
        code, output, errors = invoke(*command)
    assert (code, output) == (1, "")
    assert errors.splitlines()[-1].startswith("toolformer: no space left on the disk of ")
    shards = list(root.glob("*/*/*/*.parquet"))
    assert shards
    for shard in shards:
        pq.read_table(shard)

    code, output, errors = invoke(*command)
    assert code == 0, errors
    assert augmented_bytes(root.glob("augment/*/*/manifest.json")) == augmented_bytes(manifests)
    assert json.loads(output)["funnel"] == funnel(project.root / "calls.duckdb")
    assert not list((root / "tracking").glob("*/"))  # the failed run is recorded as well
