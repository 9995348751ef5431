"""Prefect's assets: C, C* and M* of a folder, each with what it was made from.

An asset is told apart by its folder's name, not by where that lies, and stays the same from run to
run; what its content is, is told by the digests in the metadata of each materialisation.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from prefect.assets import Asset, AssetProperties
from prefect.context import AssetContext
from prefect.tasks import MaterializingTask

Result = TypeVar("Result")

_NAMES = {
    "corpus": ("C", "The corpus: documents in shards."),
    "augment": ("C*", "The augmented corpus: documents with the calls that were kept."),
    "model": ("M*", "The model that was fine-tuned on C*."),
}
_UPSTREAM = {"augment": "corpus", "model": "augment"}


def as_asset(
    task: MaterializingTask[..., Result], name: str, root: Path, made_in: Path | None = None
) -> MaterializingTask[..., Result]:
    """The task as one that makes C, C* or M* of the folder; for any other name as it is.

    `made_in`: the folder that holds what it is made from, if that is another one.
    """
    if name not in _NAMES:
        return task
    source = _UPSTREAM.get(name)
    return task.with_options(
        assets=[_asset(name, root)],
        asset_deps=[_asset(source, made_in or root)] if source else [],
    )


def describe_asset(facts: Mapping[str, Any]) -> None:  # Any: anything JSON can hold
    """Put facts beside the asset that the task at work makes; without one, nothing."""
    context = AssetContext.get()
    for asset in context.downstream_assets if context else ():
        asset.add_metadata(dict(facts))


def _asset(name: str, root: Path) -> Asset:
    folder = re.sub(r"[^\w.-]+", "-", root.absolute().name)
    title, description = _NAMES[name]
    return Asset(
        key=f"toolformer://{folder}/{name}",
        properties=AssetProperties(name=f"{title} of {folder}", description=description),
    )
