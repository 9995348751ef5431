"""The command that frees disk: toolformer gc."""

import re
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.starting import environment as settings
from flows.starting.inputs import print_json
from flows.starting.options import JsonOption, RunOption
from toolformer_core.errors import ConfigError

if TYPE_CHECKING:
    from tasks.gc import Garbage

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def gc(
    out: RunOption,
    older_than: Annotated[
        str, typer.Option(help="Only what nothing has written to for so long, as in 12h or 30d.")
    ] = "0d",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be deleted, and delete nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete what the folder's run, its model and its sweeps do not need.

    These are stages and cached results of earlier settings, checkpoints of finished trainings,
    copies of earlier champions, and what killed processes left. The same run again finds all its
    shards. Nothing goes that is younger than the folder's last run.
    """
    settings.apply_defaults()
    from tasks.gc import delete, find_garbage

    garbage = find_garbage(out, time.time() - _seconds(older_than))
    if not dry_run:
        delete(garbage, out)
    summary = _summary(garbage, out, dry_run=dry_run)
    print_json(summary) if as_json else _print(summary)


def _seconds(text: str) -> float:
    """A span of time, as in 90s, 12h or 30d."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if found is None:
        raise ConfigError(f"--older-than {text}: expected a number and s, m, h, d or w, as in 30d")
    return float(found[1]) * _SECONDS[found[2]]


def _summary(
    garbage: "list[Garbage]", root: Path, *, dry_run: bool
) -> dict[str, Any]:  # Any: figures and paths
    files, sizes = Counter[str](), Counter[str]()
    for one in garbage:
        files[one.kind] += 1
        sizes[one.kind] += one.num_bytes
    return {
        "deleted": not dry_run,
        "bytes": sizes.total(),
        "kinds": {kind: {"entries": files[kind], "bytes": sizes[kind]} for kind in files},
        "paths": [one.path.relative_to(root).as_posix() for one in garbage],
    }


def _print(summary: dict[str, Any]) -> None:  # Any: as above
    from flows.cli.tables import print_plain

    for kind, figures in summary["kinds"].items():
        print_plain(f"{kind:11} {figures['entries']:7,}  {figures['bytes']:15,} bytes")
    done = "deleted" if summary["deleted"] else "could be deleted"
    print_plain(f"{done:11} {len(summary['paths']):7,}  {summary['bytes']:15,} bytes")
