"""How a command ends when something around it is not there: one line, exit code 1."""

import socket

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from flows.cli.endings import ending
from tasks.index.build import build_index
from tasks.output.json_file import write_whole
from tasks.tracking.journal import Journal, closing, measuring, opening
from tests.support.builders import CallStory, document, pipeline_config, write_annotation
from tests.support.full_disk import files_no_larger_than
from toolformer_core.errors import ConfigError, ShardIntegrityError, TransientStorageError


def error_of(act):
    with pytest.raises(Exception) as raised:  # noqa: PT011 - of every library its own
        act()
    return raised.value


@pytest.mark.parametrize("library", ["python", "parquet", "safetensors", "torch"])
def test_ending_full_disk_is_one_line_whoever_met_it(tmp_path, library):
    table = pa.table({"n": list(range(9999))})
    weights = {"w": torch.zeros(9999)}
    write = {
        "python": lambda: write_whole(tmp_path / "text", "x" * 9999),
        "parquet": lambda: pq.write_table(table, tmp_path / "rows.parquet"),
        "safetensors": lambda: save_file(weights, tmp_path / "w.safetensors"),
        "torch": lambda: torch.save(weights, tmp_path / "w.pt"),
    }
    with files_no_larger_than(5000):
        line, code = ending(error_of(write[library]))
    assert code == 1
    assert line.startswith("no space left on the disk of ")
    assert not (tmp_path / "text").exists()


def test_ending_full_disk_while_the_index_is_built_names_no_shard(tmp_path):
    config = pipeline_config("tools.enabled=[Calculator]")
    stories = [CallStory(candidate_id="one")]
    stages = write_annotation(tmp_path / "shards", [document()], stories)
    with files_no_larger_than(100_000):
        error = error_of(lambda: build_index(stages, config, tmp_path / "calls.duckdb"))
    line, code = ending(error)
    assert (line.partition(" of ")[0], code) == ("no space left on the disk", 1)
    assert not list(tmp_path.glob("*calls*"))


def test_ending_prefect_server_that_does_not_answer():
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    line, code = ending(error_of(lambda: httpx.get(address)))
    assert code == 1
    assert line.startswith("Prefect's server does not answer")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConfigError("a setting"), ("a setting", 2)),
        (ShardIntegrityError("a shard"), ("a shard", 2)),
        (TransientStorageError("an outage"), ("an outage", 1)),
        (ValueError("a mistake of ours"), None),
    ],
)
def test_ending_of_other_errors(error, expected):
    assert ending(error) == expected


def test_journal_that_a_full_disk_has_cut_goes_on_when_there_is_space(tmp_path):
    journal = Journal(tmp_path, "run")
    journal.append(opening("run", "a run"))
    with files_no_larger_than(journal.after()[-1][1] + 20), pytest.raises(OSError, match="File"):
        journal.append(measuring("run", {"loss": 1.0}))
    journal.append(closing("run"))
    assert [action["do"] for action, _ in journal.after()] == ["open", "close"]
