"""Where and how fast a run goes: the settings that decide no result.

The command line and Prefect's forms draw the models below, each as far as a command has use for
it: an option that is declared here is one there.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from toolformer_core.config.base import Settings


class Device(Settings):
    """What a model runs on."""

    device: str = Field(
        default="cpu", title="Device", description="torch device: cpu, cuda, cuda:1 ..."
    )


class ProposerPlace(Device):
    """Where calls are proposed, besides."""

    proposer: str = Field(
        default="",
        title="Proposer",
        description="Address of a model server that proposes calls, as in http://HOST:PORT/v1; if "
        "none is given, the base model does.",
    )


class Place(Device):
    """Where shards lie and what computes them."""

    storage: str = Field(
        default="",
        title="Storage",
        description="Folder or URL, as in s3://BUCKET/PREFIX, of shards and task results, which "
        "machines may share; if none is given, the output folder.",
    )
    runner: Literal["threads", "dask", "ray"] = Field(
        default="threads",
        title="Runner",
        description="What computes shards: this process, or a cluster's workers.",
    )
    runner_workers: int = Field(
        default=2,
        ge=1,
        le=1000,
        title="Workers",
        description="Processes of a cluster that is started here.",
    )
    runner_address: str = Field(
        default="",
        title="Cluster",
        description="Scheduler of a cluster, in place of one started here.",
    )


class AnnotationPlace(Place, ProposerPlace):
    """Where a corpus is annotated."""

    tool_calls: int = Field(
        default=4,
        ge=1,
        le=1000,
        title="Calls of one tool at a time",
        description="Calls of one tool at a time, in each process.",
    )


class Runtime(AnnotationPlace):
    """Where and how fast a run goes; never part of a fingerprint."""

    root: Path = Field(
        default=Path(".toolformer/run"), description="Output folder: shards, index, report, model."
    )
    home: Path = Field(
        default=Path(".toolformer"),
        description="Folder shared by runs: converted models, search indexes, servers' state.",
    )
    token_budget: int = Field(
        default=4096, ge=64, description="Tokens in one forward pass, padding included."
    )
    proposer_requests: int = Field(
        default=8, ge=1, le=1000, description="Requests to the proposer at a time."
    )
    replay: Path | None = Field(
        default=None,
        description="Cassette of an earlier run, whose answers take the place of the tools.",
    )
    accelerate_config: Path | None = Field(
        default=None,
        description="YAML of accelerate, whose processes fine-tune together; none: this process.",
    )
    tracking: str = Field(
        default="", description="MLflow tracking store; if none is given, a SQLite file in home."
    )

    @property
    def shard_root(self) -> str:
        """The folder or URL below which shards lie."""
        return self.storage or str(self.root)
