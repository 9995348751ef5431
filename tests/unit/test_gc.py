"""What toolformer gc deletes, and what it must never delete."""

import json
import os
import sys
from dataclasses import asdict

import pytest
from filelock import FileLock

from flows.cli import main as cli
from tasks.gc import delete, find_garbage
from tasks.output.model_folder import MODEL_FILE
from tasks.output.record import RUN_FILE, record_others, record_run
from tasks.tracking.journal import Journal, opening, registering
from tests.support.builders import document, pipeline_config
from toolformer_core.errors import ConfigError
from toolformer_core.models import ModelRef
from toolformer_core.records import Document
from toolformer_core.shards import StageRef, stage_folder, write_manifest, write_shard

LONG_AGO, LAST_RUN, LATER, NOW = 1000.0, 2000.0, 3000.0, 4000.0


def write_stage(root, stage, fingerprint, *, shards=None, **details):
    """The manifest of a stage with one shard of its own, or with those given."""
    folder = stage_folder(root, stage, "all", fingerprint)
    if shards is None:
        path = folder / "part-00000.parquet"
        shards = [write_shard([document()], Document, path, shard_index=0, counts={})]
    ref = StageRef(stage=stage, tool="all", fingerprint=fingerprint, shards=tuple(shards))
    return ref, write_manifest(ref, root, {"inputs": [], **details})


def store_result(root, key, ref):
    """A result as Prefect stores it."""
    content = {"__class__": "toolformer_core.shards.ShardRef", "data": asdict(ref)}
    path = root / "results" / key
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"metadata": {}, "result": json.dumps(content)}))


def files(root):
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def set_time(root, seconds):
    for path in root.rglob("*"):
        os.utime(path, (seconds, seconds), follow_symlinks=False)


def finish(root, *manifests):
    """Everything so far is of long ago, and the run that needs these manifests has ended."""
    record_run(pipeline_config(), manifests, root)
    set_time(root, LONG_AGO)
    os.utime(root / RUN_FILE, (LAST_RUN, LAST_RUN))


def collected(root, before=NOW):
    """Files that went, by kind; each deletion does what was announced."""
    garbage = find_garbage(root, before)
    old = files(root)
    delete(garbage, root)
    gone = old - files(root)
    assert sum(one.num_bytes for one in garbage) >= 0
    named = [one.path.relative_to(root).as_posix() for one in garbage]
    assert all(any(name == n or name.startswith(f"{n}/") for n in named) for name in gone)
    assert not any((root / name).exists() for name in named)
    return gone


@pytest.fixture
def run(tmp_path):
    """A folder whose run needs the stages "new"; "old" ones are of earlier settings."""
    root = tmp_path / "run"
    old, _ = write_stage(root, "filter", "old")
    new, needed = write_stage(root, "filter", "new")
    store_result(root, "filter-old", old.shards[0])
    store_result(root, "filter-new", new.shards[0])
    finish(root, needed)
    return root


OLD_STAGE = {
    "filter/all/old/part-00000.parquet",
    "filter/all/old/manifest.json",
    "results/filter-old",
}


def test_gc_stage_of_earlier_settings_goes_with_its_results(run):
    assert collected(run) == OLD_STAGE
    assert not (run / "filter/all/old").exists()
    assert collected(run) == set()


def test_gc_files_of_other_kinds_stay(run):
    others = ["notes.txt", "filter/all/old/notes.txt", "mine/a/b/part-00000.parquet", "results/x"]
    for name in others:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("mine")
        os.utime(run / name, (LONG_AGO, LONG_AGO))
    assert collected(run) == OLD_STAGE
    assert set(others) <= files(run)


def test_gc_what_was_touched_since_the_last_run_was_recorded_stays(run):
    os.utime(run / "filter/all/old/part-00000.parquet", (LATER, LATER))
    assert collected(run) == set()


def test_gc_training_that_ended_after_the_run_was_recorded_ends_what_trainings_left_alone(run):
    link_model(run, "../elsewhere/augment/all/x/manifest.json")
    for path in ("filter/all/old", "finetune/all/tuned", "finetune/all/other"):
        set_time(run / path, LATER)
    os.utime(run / "model" / MODEL_FILE, (NOW, NOW))  # as calibrate-calls --write does
    os.utime(run / "model", (LAST_RUN, LAST_RUN), follow_symlinks=False)
    assert collected(run) == set()
    os.utime(run / "model", (NOW, NOW), follow_symlinks=False)
    gone = collected(run)
    assert "finetune/all/other/model/config.json" in gone
    assert all(name.startswith("finetune/") for name in gone)


def test_gc_what_is_younger_than_asked_for_stays(run):
    assert collected(run, before=LONG_AGO - 1) == set()
    assert collected(run, before=LONG_AGO + 1) == OLD_STAGE


def test_gc_shards_of_earlier_nights_stay(run):
    earlier, _ = write_stage(run, "corpus", "night1")
    later, needed = write_stage(run, "corpus", "night2")
    _, needed = write_stage(run, "corpus", "night2", shards=[*earlier.shards, *later.shards])
    store_result(run, "corpus-night1", earlier.shards[0])
    finish(run, needed)
    assert collected(run) == {name.replace("old", k) for k in ("old", "new") for name in OLD_STAGE}


def link_model(root, augmented):
    """ROOT/model, tuned on a C*, with a checkpoint beside it and a model that nobody links."""
    for fingerprint in ("tuned", "other"):
        folder = root / f"finetune/all/{fingerprint}"
        for name in ("model/config.json", "checkpoint-2/weights", "checkpoint-2/.weights.tmp"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("{}")
    described = root / "finetune/all/tuned/model" / MODEL_FILE
    described.write_text(json.dumps({"augmented": augmented}))
    (root / "model").symlink_to("finetune/all/tuned/model")


def test_gc_linked_model_stays_with_its_answers_its_corpus_and_what_that_was_made_from(run):
    write_stage(run, "augment", "tuned-on", inputs=["filter/all/old"])
    link_model(run, "augment/all/tuned-on/manifest.json")
    write_stage(run, "evaluate", "its-answers", inputs=["finetune/all/tuned"])
    finish(run, run / "filter/all/new/manifest.json")
    assert collected(run) == {
        "finetune/all/tuned/checkpoint-2/weights",
        "finetune/all/tuned/checkpoint-2/.weights.tmp",
        "finetune/all/other/checkpoint-2/weights",
        "finetune/all/other/checkpoint-2/.weights.tmp",
        "finetune/all/other/model/config.json",
    }


def test_gc_model_that_mlflow_has_yet_to_register_stays(run):
    link_model(run, "../elsewhere/augment/all/x/manifest.json")
    other = ModelRef(path=str(run / "finetune/all/other/model"), digest="d", dtype="float32")
    Journal(run, "session").append(registering("session", other, run))
    finish(run, run / "filter/all/new/manifest.json")
    assert not any("/other/model/" in name for name in collected(run))


def test_gc_linked_model_that_was_tuned_on_another_folders_corpus_stays(run):
    link_model(run, "../elsewhere/augment/all/x/manifest.json")
    finish(run, run / "filter/all/new/manifest.json")
    assert not any(name.startswith("finetune/all/tuned/model") for name in collected(run))


def test_gc_stages_of_a_sweep_stay_as_long_as_its_folder(run):
    sweep = run / "sweeps/one/sweep.json"
    sweep.parent.mkdir(parents=True)
    sweep.write_text(json.dumps({"folders": ["filter/all/old"]}))
    assert collected(run) == set()
    sweep.unlink()
    assert collected(run) == OLD_STAGE


def test_gc_champion_that_was_compared_with_stays_and_earlier_ones_go(run):
    for version in ("3", "4"):
        (run / "champion" / version / "data").mkdir(parents=True)
        (run / "champion" / version / "data/config.json").write_text("{}")
    _, rival = write_stage(run, "evaluate", "rival", inputs=["champion/4/data"])
    record_run(pipeline_config(), [run / "filter/all/new/manifest.json"], run)
    record_others([rival], run)
    set_time(run, LONG_AGO)
    os.utime(run / RUN_FILE, (LAST_RUN, LAST_RUN))
    assert collected(run) == OLD_STAGE | {"champion/3/data/config.json"}


def test_gc_what_killed_processes_left_goes(run):
    left = [
        "filter/all/new/.part-00001.parquet.12.tmp",
        ".cassette.parquet.tmp",
        ".index-abc/calls.duckdb",
        "locks/filter-x.lock",
    ]
    for name in left:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("")
    finish(run, run / "filter/all/new/manifest.json")
    (run / ".model.12.tmp").symlink_to("finetune/all/gone/model")
    (run / ".model.13.tmp").symlink_to("filter/all/new")
    finish(run, run / "filter/all/new/manifest.json")
    assert collected(run) >= OLD_STAGE | set(left)
    assert not list(run.glob(".model.*"))
    assert (run / "filter/all/new/manifest.json").is_file()


def test_gc_temporary_files_are_told_once_and_those_in_other_folders_stay(run):
    mine = ["mine/.notes.tmp", "mine/a/b/.x.tmp", "corpus/.mine.tmp", "a/.index-mine/x"]
    link_model(run, "../elsewhere/augment/all/x/manifest.json")
    for name in (*mine, "sweeps/one/.index-a/.x.tmp"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("x")
    finish(run, run / "filter/all/new/manifest.json")
    told = [one.path.relative_to(run).as_posix() for one in find_garbage(run, NOW)]
    assert [name for name in told if name.endswith(".tmp")] == []
    assert [name for name in told if ".index-" in name] == ["sweeps/one/.index-a"]
    assert collected(run) > OLD_STAGE
    assert set(mine) <= files(run)


def test_gc_beside_a_run_at_work_is_refused(run):
    (run / "locks").mkdir(exist_ok=True)
    with (
        FileLock(run / "locks/filter-x.lock"),
        pytest.raises(ConfigError, match=r"a run is at work in .*wait for its end"),
    ):
        find_garbage(run, NOW)
    assert files(run) >= OLD_STAGE


def test_gc_beside_a_flow_between_its_shards_is_refused(run):
    journal = Journal(run, "session")
    journal.begin("store")
    journal.append(opening("session", "annotate"))
    with pytest.raises(ConfigError, match=r"a run is at work in .*wait for its end"):
        find_garbage(run, NOW)
    journal.leave(is_recorded=False)  # what MLflow has not been told waits there
    assert collected(run) == OLD_STAGE


def test_gc_records_that_do_not_say_what_they_need_are_refused(run):
    manifest = run / "filter/all/new/manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({k: v for k, v in content.items() if k != "inputs"}))
    with pytest.raises(ConfigError, match="an older version wrote it; run again"):
        find_garbage(run, NOW)
    manifest.write_text(json.dumps(content))
    sweep = run / "sweeps/one/sweep.json"
    sweep.parent.mkdir(parents=True)
    sweep.write_text("{}")
    with pytest.raises(ConfigError, match=r"repeat the sweep, .* or delete"):
        find_garbage(run, NOW)
    sweep.write_text("{")
    with pytest.raises(ConfigError, match="is broken"):
        find_garbage(run, NOW)
    manifest.unlink()
    with pytest.raises(ConfigError, match=r"manifest\.json cannot be read"):
        find_garbage(run, NOW)


def test_gc_model_or_lineage_of_an_older_version_is_refused(run):
    _, manifest = write_stage(run, "augment", "tuned-on", inputs=["filter/all/old"])
    link_model(run, "augment/all/tuned-on/manifest.json")
    for record, key in ((run / "model" / MODEL_FILE, "augmented"), (manifest, "inputs")):
        content = json.loads(record.read_text())
        record.write_text(json.dumps({k: v for k, v in content.items() if k != key}))
        with pytest.raises(ConfigError, match=f"no '{key}'.*an older version wrote it; run again"):
            find_garbage(run, NOW)
        record.write_text(json.dumps(content))
    find_garbage(run, NOW)


@pytest.fixture
def command(monkeypatch, capsys):
    """(exit code, standard output, standard error) of toolformer gc."""

    def invoke(*arguments):
        monkeypatch.setattr(sys, "argv", ["toolformer", "gc", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return (ended.value.code or 0, *capsys.readouterr())

    return invoke


def test_gc_command_tells_what_it_would_delete_and_then_deletes_it(run, command):
    before = files(run)
    code, output, _ = command("--out", run, "--dry-run", "--json")
    told = json.loads(output)
    assert (code, told["deleted"], set(told["paths"])) == (0, False, OLD_STAGE)
    assert told["bytes"] == sum((run / name).stat().st_size for name in OLD_STAGE)
    assert told["kinds"]["stages"]["entries"] == 2
    assert files(run) == before
    assert command("--out", run, "--older-than", "5000w")[1].split()[:2] == ["deleted", "0"]
    code, output, _ = command("--out", run)
    assert (code, files(run)) == (0, before - OLD_STAGE)
    assert f"{told['bytes']:,} bytes" in output


@pytest.mark.parametrize(
    ("options", "expected"),
    [(("--older-than", "soon"), "--older-than soon: expected a number and s, m, h, d or w")],
)
def test_gc_command_refuses_bad_input_in_one_line(run, command, options, expected):
    code, _, errors = command("--out", run, *options)
    assert (code, errors.count("\n")) == (2, 1)
    assert expected in errors


def test_gc_command_folder_without_a_run_is_one_line(tmp_path, command):
    code, _, errors = command("--out", tmp_path)
    assert (code, errors.count("\n")) == (2, 1)
    assert "holds no run" in errors
