"""What a run leaves for others: manifests, its own record, what is said of its tuned model."""

import functools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tasks.output.json_file import _whole_file, write_whole
from tasks.output.model_folder import CALL_RULE
from tasks.running.locks import LOCKS, file_lock
from toolformer_core.call_rule import CHOICE, CallChoice
from toolformer_core.config.overrides import parse_config
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.errors import ConfigError

RUN_FILE = "run.json"
PICTURES = "figures"
"""Folder of a report's figures as pictures, beside it."""


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
