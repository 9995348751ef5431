"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from toolformer_core.presets import PRESETS

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="YAML file of settings, in place of a preset.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="One setting, as in filter.filtering_threshold=0.5; repeatable."),
]
CorpusOption = Annotated[
    list[str] | None,
    typer.Option("--corpus", help="Corpus path, glob, URL or hf: name; repeatable."),
]
ToolsOption = Annotated[
    str | None, typer.Option("--tools", help="Tool names, separated by commas.")
]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="Model folder, hub id or GGUF file.")
]
OutOption = Annotated[Path | None, typer.Option("--out", help="Output folder.")]
UpdateOption = Annotated[
    bool, typer.Option("--update", help="Go on in a folder that holds another configuration.")
]
AddOption = Annotated[
    bool, typer.Option("--add", help="Keep the folder's documents and add those that are new.")
]
ProposerOption = Annotated[
    str | None,
    typer.Option(
        "--proposer", help="Address of a model server that proposes calls: http://HOST:PORT/v1"
    ),
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="Folder or URL, as in s3://BUCKET/PREFIX, of the shards; machines may share it.",
    ),
]
ToolCallsOption = Annotated[
    int, typer.Option("--tool-calls", min=1, help="Calls of one tool at a time.")
]
RunnerOption = Annotated[
    Literal["threads", "dask", "ray"],
    typer.Option("--runner", help="What computes shards: this process, or a cluster's workers."),
]
RunnerWorkersOption = Annotated[
    int, typer.Option("--runner-workers", min=1, help="Processes of a cluster started here.")
]
RunnerAddressOption = Annotated[
    str | None,
    typer.Option("--runner-address", help="Scheduler of a cluster, in place of one started here."),
]
ReplayOption = Annotated[
    Path | None,
    typer.Option(
        "--replay", help="cassette.parquet of an earlier run: its answers replace the tools."
    ),
]
DeviceOption = Annotated[str, typer.Option(help="torch device: cpu, cuda, cuda:1 ...")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print figures as JSON.")]
RunOption = Annotated[Path, typer.Option("--out", help="Output folder of a run.")]
TunedOption = Annotated[Path, typer.Option("--model", help="Folder of a tuned model.")]
PresetOption = Annotated[str, typer.Option("--preset", help=", ".join(PRESETS))]
