"""The command `toolformer finetune`."""

from pathlib import Path
from typing import Annotated

import typer

from flows.starting import environment as settings
from flows.starting.inputs import build_runtime
from flows.starting.options import ChangesOption, Launch, ModelOption, UpdateOption
from toolformer_core.config.overrides import edit
from toolformer_core.config.runtime import Device
from toolformer_core.errors import ConfigError


def finetune(
    data: Annotated[Path, typer.Option(help="Output folder of toolformer annotate.")],
    out: Annotated[Path, typer.Option(help="Folder for the tuned model.")],
    place: Device,
    launch: Launch,
    model: ModelOption = "",
    changes: ChangesOption = None,
    without_calls: Annotated[
        bool,
        typer.Option("--without-calls", help="The control: the same texts without their calls."),
    ] = False,
    update: UpdateOption = False,
) -> None:
    """Fine-tune a model on the augmented corpus of a run.

    Unless the settings say when its calls start, that is chosen on held-out texts.
    """
    settings.apply_defaults()
    from flows.finetune import finetune_run
    from flows.starting.claim import check_training_device, claim_output, stage_manifest
    from tasks.output.record import read_run

    accelerate_config = _accelerate_config(launch)
    check_training_device(place.device)
    done = read_run(data)
    values: dict[str, str | bool] = {"model.name_or_path": model} if model else {}
    if without_calls:
        values["finetune.without_calls"] = True
    config = edit(done.config, changes or [], values)
    augmented, documents = (stage_manifest(done, s, data) for s in ("augment", "corpus"))
    claim_output(config, out, update=update)
    runtime = build_runtime(out, place, accelerate_config=accelerate_config)
    path = finetune_run(augmented, documents, config, runtime)
    typer.echo(f"model: {path}")


def _accelerate_config(launch: Launch) -> Path | None:
    """The launcher's file, absolute; none where this process trains alone."""
    launcher, config = launch.launcher, launch.launcher_config
    if launcher not in ("", "accelerate"):
        raise ConfigError(f"--launcher {launcher}: unknown launcher; known: accelerate")
    if launcher and not config:
        raise ConfigError(
            f"--launcher {launcher}: no configuration; pass --config FILE, which "
            "`accelerate config --config_file FILE` writes"
        )
    if config and not launcher:
        raise ConfigError(f"--config {config}: of which launcher? pass --launcher accelerate")
    if config and not Path(config).is_file():
        raise ConfigError(f"--config {config}: no such file")
    return Path(config).absolute() if config else None
