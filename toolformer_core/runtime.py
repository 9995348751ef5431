"""Where and how fast a run goes: the settings that decide no result."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from toolformer_core.settings import Settings


class Runtime(Settings):
    """Where and how fast a run goes; never part of a fingerprint."""

    root: Path = Field(
        default=Path(".toolformer/run"), description="Output folder: shards, index, report, model."
    )
    home: Path = Field(
        default=Path(".toolformer"),
        description="Folder shared by runs: converted models, search indexes, servers' state.",
    )
    storage: str | None = Field(
        default=None,
        description="Folder of shards and task results, which machines may share: a path or URL, "
        "as in s3://BUCKET/PREFIX. None: the output folder.",
    )
    device: str = Field(default="cpu", description="torch device of the model.")
    token_budget: int = Field(
        default=4096, ge=64, description="Tokens in one forward pass, padding included."
    )
    proposer_url: str | None = Field(
        default=None, description="Address of the proposer's server, as in http://HOST:8000/v1."
    )
    proposer_requests: int = Field(
        default=8, ge=1, le=1000, description="Requests to the proposer at a time."
    )
    tool_calls: int = Field(
        default=4, ge=1, le=1000, description="Calls of one tool at a time, in this process."
    )
    runner: Literal["threads", "dask", "ray"] = Field(
        default="threads", description="What computes shards: this process, or a cluster."
    )
    runner_workers: int = Field(
        default=2, ge=1, le=1000, description="Processes of a cluster that is started here."
    )
    runner_address: str | None = Field(
        default=None, description="Scheduler of a cluster; none: one is started on this machine."
    )
    replay: Path | None = Field(
        default=None,
        description="Cassette of an earlier run, whose answers take the place of the tools.",
    )
    accelerate_config: Path | None = Field(
        default=None,
        description="YAML of accelerate, whose processes fine-tune together; none: this process.",
    )
    tracking_uri: str | None = Field(
        default=None, description="MLflow tracking store; none: a SQLite file in home."
    )

    @property
    def shard_root(self) -> str:
        """The folder or URL below which shards lie."""
        return self.storage or str(self.root)
