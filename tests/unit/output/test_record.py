"""The records that a run leaves, when they are broken."""

import json

import pytest

from tasks.output.model_folder import MODEL_FILE, read_model_description
from tasks.output.record import RUN_FILE, read_run, record_run
from toolformer_core.config.presets import smoke
from toolformer_core.errors import ConfigError

BROKEN = ["", "{", "[]", "null", "{}", b"\xff"]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def assert_one_line(caught, path):
    message = str(caught.value)
    assert str(path) in message
    assert "is broken" in message
    assert "\n" not in message


@pytest.mark.parametrize("content", [*BROKEN, '{"config": 3, "manifests": []}'])
def test_read_run_broken_record_names_file_and_cure(tmp_path, content):
    write(tmp_path / RUN_FILE, content)
    with pytest.raises(ConfigError, match="delete it, or pass another folder") as caught:
        read_run(tmp_path)
    assert_one_line(caught, tmp_path / RUN_FILE)


def test_read_run_gives_what_was_recorded(tmp_path):
    record_run(smoke(), [tmp_path / "corpus" / "manifest.json"], tmp_path)
    run = read_run(tmp_path)
    assert run.config == smoke()
    assert run.manifests == [tmp_path / "corpus" / "manifest.json"]
    assert (run.seconds, run.links, run.choice) == (None, {}, None)


@pytest.mark.parametrize(
    "content",
    [
        *BROKEN,
        json.dumps({"base_model": "m", "dtype": "float32", "tools": {}, "decode": {"x": 1}}),
        json.dumps({"base_model": "m", "dtype": "float7", "tools": {}, "decode": {}}),
    ],
)
def test_read_model_description_broken_file_names_file_and_cure(tmp_path, content):
    write(tmp_path / MODEL_FILE, content)
    with pytest.raises(ConfigError, match="restore it, or fine-tune again") as caught:
        read_model_description(tmp_path)
    assert_one_line(caught, tmp_path / MODEL_FILE)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"dtype": "bfloat16", "dtype_setting": "auto"}, "auto"),
        ({"dtype": "float32", "dtype_setting": "auto"}, "auto"),
        ({"dtype": "bfloat16", "dtype_setting": "bfloat16"}, "auto"),
        ({"dtype": "float32", "dtype_setting": "float32"}, "float32"),
        ({"dtype": "bfloat16"}, "auto"),  # of an older version
        ({"dtype": "float32"}, "float32"),
    ],
)
def test_read_model_description_dtype_is_left_to_the_machine_unless_float32_was_set(
    tmp_path, told, expected
):
    content = {"base_model": "m", "tools": {}, "decode": {}, **told}
    write(tmp_path / MODEL_FILE, json.dumps(content))
    assert read_model_description(tmp_path)[0].dtype == expected


def test_read_model_description_of_a_plain_model_is_none(tmp_path):
    assert read_model_description(tmp_path) is None
