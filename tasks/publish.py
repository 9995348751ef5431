"""What a run leaves for others: manifests, its own record, what is said of its tuned model."""

import functools
import json
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tasks._policies import effect_task
from tasks.assets import describe_asset
from tasks.locks import LOCKS, file_lock
from toolformer_core.call_rule import CHOICE, CallChoice
from toolformer_core.config import DecodeConfig, PipelineConfig
from toolformer_core.config_tools import ToolsConfig
from toolformer_core.errors import ConfigError
from toolformer_core.fingerprint import canonical
from toolformer_core.overrides import parse_config
from toolformer_core.settings import ModelConfig
from toolformer_core.shards import (
    ShardRef,
    StageRef,
    read_manifest,
    stage_path,
    total_counts,
    write_manifest,
)
from toolformer_core.storage import temporary_path


@effect_task
def publish_stage(
    stage: str,
    tool: str,
    fingerprint: str,
    shards: Sequence[ShardRef],
    num_cached: int,
    details: dict[str, Any],  # Any: settings of every kind
    root: Path,
) -> Path:
    """Write the manifest of a stage; its path stands for the stage from here on."""
    ref = StageRef(
        stage=stage,
        tool=tool,
        fingerprint=fingerprint,
        shards=tuple(shards),
        num_cached=num_cached,
    )
    describe_asset({"digest": ref.digest, "shards": len(shards), **total_counts(ref)})
    described = {name: canonical(value) for name, value in details.items()}
    return write_manifest(ref, root, {**described, "git_commit": git_commit()})


def input_folders(value: Any, root: Path) -> set[str]:  # Any: inputs of a stage, of every kind
    """Where below ROOT the shards and models among some inputs lie: STAGE/TOOL/FINGERPRINT.

    A shard is known by the end of its path, wherever the folder was when it was written.
    """
    if isinstance(value, ShardRef):
        return {stage_path(value)}
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return {folder for item in value for folder in input_folders(item, root)}
    path = Path(getattr(value, "path", ""))  # of a model
    return {"/".join(path.relative_to(root).parts[:3])} if path.is_relative_to(root) else set()


def made_from(folders: Iterable[str], root: Path) -> set[str]:
    """These folders of stages and all that they were made from, as their manifests say.

    Raises: ConfigError as read_origin does.
    """
    pending, found = list(folders), set[str]()
    while pending:
        folder = pending.pop()
        manifest = root / folder / "manifest.json"
        if folder not in found and manifest.is_file():
            pending += read_origin(manifest, "inputs")
        found.add(folder)
    return found


def load_stage(manifest: Path) -> StageRef:
    """The stage behind a manifest's path."""
    return read_manifest(manifest)


def git_commit() -> str:
    """The commit of the code that runs, or "unknown" outside a checkout."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


RUN_FILE = "run.json"
MODEL_FILE = "toolformer.json"
CALL_RULE = "call_rule"
"""Key in both: when calls start, and who says so."""


def record_run(config: PipelineConfig, manifests: Sequence[Path], root: Path) -> None:
    """Write run.json: the settings, and the manifests of the stages that are complete."""
    relative = [str(Path(manifest).relative_to(root)) for manifest in manifests]
    content = {"config": config.model_dump(mode="json"), "manifests": relative}
    with file_lock(root / LOCKS, RUN_FILE):
        write_whole(root / RUN_FILE, json.dumps(content, indent=1))


def record_seconds(root: Path) -> None:
    """Add to run.json how long this process has lived: what the run took, its start included."""
    _add_to_record(root, seconds=round(time.time() - psutil.Process().create_time(), 1))


def record_others(manifests: Sequence[Path], root: Path) -> None:
    """Add to run.json the stages of other runs that this one has made use of, for gc to keep."""
    _add_to_record(root, others=[str(manifest.relative_to(root)) for manifest in manifests])


def record_links(links: Mapping[str, str], root: Path) -> None:
    """Add to run.json the facts that the report shows, for one that is made anew."""
    _add_to_record(root, links=dict(links))


def record_call_rule(choice: CallChoice, root: Path) -> None:
    """Add to run.json when calls start, as chosen."""
    _add_to_record(root, **{CALL_RULE: CHOICE.dump_python(choice, mode="json")})


def _add_to_record(root: Path, **facts: Any) -> None:  # Any: JSON
    path = root / RUN_FILE
    with file_lock(root / LOCKS, RUN_FILE):  # two runs may end at once
        content = json.loads(path.read_text(encoding="utf-8")) | facts
        write_whole(path, json.dumps(content, indent=1))


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What run.json says."""

    settings: Mapping[str, Any]  # Any: settings of every kind, perhaps of an older version
    manifests: list[Path]
    seconds: float | None  # what the run took; None if that was not recorded
    links: dict[str, str]  # empty where no report was written
    choice: CallChoice | None  # None where it was not chosen when calls start

    @functools.cached_property
    def config(self) -> PipelineConfig:
        """The settings, parsed on first use.

        Raises: ConfigError if an older version had others.
        """
        return parse_config(self.settings)


def read_run(root: Path) -> RunRecord:
    """The record of the run in a folder.

    Raises: ConfigError if the folder holds no run, or its record is broken.
    """
    path = root / RUN_FILE
    if not path.is_file():
        raise ConfigError(
            f"{root} holds no run (no {RUN_FILE}); expected an output folder of "
            "toolformer run or toolformer annotate"
        )
    with _whole_file(path, "delete it, or pass another folder"):
        content = json.loads(path.read_text(encoding="utf-8"))
        settings = dict(content["config"])
        seconds, choice = content.get("seconds"), content.get(CALL_RULE)
        return RunRecord(
            settings=settings,
            manifests=[root / manifest for manifest in content["manifests"]],
            seconds=None if seconds is None else float(seconds),
            links=dict(content.get("links", {})),
            choice=None if choice is None else CHOICE.validate_python(choice),
        )


def read_model_description(folder: Path) -> tuple[ModelConfig, ToolsConfig, DecodeConfig] | None:
    """Base model (and dtype), tools and decoding; None for a model that knows no tools.

    A model that was made in bfloat16 runs elsewhere in what the device there multiplies: its dtype
    is auto. Only float32 is left as it was set.

    Raises: ConfigError if the file is broken.
    """
    path = folder / MODEL_FILE
    if not path.is_file():
        return None
    with _whole_file(path, "restore it, or fine-tune again, which writes it"):
        content = json.loads(path.read_text(encoding="utf-8"))
        taken = content["dtype"]  # an older version wrote no other, and took what was set
        base = ModelConfig(
            name_or_path=content["base_model"], dtype=content.get("dtype_setting", taken)
        )
        return (
            base.model_copy(update={"dtype": "auto"}) if base.dtype == "bfloat16" else base,
            ToolsConfig.model_validate(content["tools"]),
            DecodeConfig.model_validate(content["decode"]),
        )


def read_json(path: Path, cure: str) -> dict[str, Any]:  # Any: settings of every kind
    """The object in a JSON file of ours.

    Raises: ConfigError with the cure if it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); {cure}") from error
    with _whole_file(path, cure):
        return dict(json.loads(text))


def read_origin(path: Path, key: str) -> Any:  # Any: folders, or a path
    """What a manifest or toolformer.json says of what it was made from.

    Raises: ConfigError if it cannot be read, or an older version wrote it.
    """
    content = read_json(path, "run again, which writes it")
    if key not in content:
        raise ConfigError(
            f"{path} does not say what it was made from (no {key!r}): an older version wrote it; "
            "run again, which takes all shards from the cache and writes it anew; a manifest that "
            "is still the same then may be deleted"
        )
    return content[key]


@contextmanager
def _whole_file(path: Path, cure: str) -> Iterator[None]:
    """For reading a file of ours; what it lacks becomes a line with the cure."""
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is broken ({type(error).__name__}: {reason}); {cure}") from error


def write_decoding(folder: Path, decode: DecodeConfig, origin: str) -> None:
    """Put decoding settings into toolformer.json of a tuned model, and where they come from."""
    path = folder / MODEL_FILE
    content = json.loads(path.read_text())
    content |= {"decode": decode.model_dump(mode="json"), CALL_RULE: {"origin": origin}}
    write_whole(path, json.dumps(content, indent=1))


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there as a whole or not at all."""
    temporary = temporary_path(path)
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
