"""A disk that is full in the middle of a run: one line, and the next run goes on."""

import json

import pyarrow.parquet as pq

from tasks.index.query import funnel
from tasks.tracking import store as track_store
from tests.support.full_disk import files_no_larger_than


def bytes_of(shards):
    return {path.name: path.read_bytes() for path in shards}


def test_annotate_on_a_full_disk_ends_with_one_line_and_goes_on_later(
    finished, tmp_path, invoke, monkeypatch
):
    monkeypatch.setattr(track_store, "_ask_again", {})
    project, manifests = finished
    root = tmp_path / "run"
    command = ("annotate", "--config", project.config_file, "--out", root, "--json")
    command += ("--tools", "Calendar")
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
    counts = funnel(project.root / "calls.duckdb")["Calendar"]
    assert json.loads(output)["funnel"] == {"Calendar": counts}
    [first] = [path for path in manifests if path.parts[-4:-2] == ("filter", "Calendar")]
    assert bytes_of(root.glob("filter/Calendar/*/*.parquet")) == bytes_of(
        first.parent.glob("*.parquet")
    )
    assert not list((root / "tracking").glob("*/"))  # the failed run is recorded as well
