"""The command `toolformer finetune`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows import settings
from flows.inputs import build_runtime
from flows.options import DeviceOption, ModelOption, SetOption, UpdateOption
from toolformer_core.config import PipelineConfig
from toolformer_core.errors import ConfigError
from toolformer_core.overrides import edit, parse_config


class Launcher(StrEnum):
    """What starts the processes that train."""

    ACCELERATE = "accelerate"


def finetune(
    data: Annotated[Path, typer.Option(help="Output folder of toolformer annotate.")],
    out: Annotated[Path, typer.Option(help="Folder for the tuned model.")],
    model: ModelOption = None,
    assignments: SetOption = None,
    without_calls: Annotated[
        bool,
        typer.Option("--without-calls", help="The control: the same texts without their calls."),
    ] = False,
    launcher: Annotated[
        Launcher | None, typer.Option(help="Train in several processes, on several GPUs.")
    ] = None,
    launcher_config: Annotated[
        Path | None, typer.Option("--config", help="YAML file of the launcher: how many, FSDP ...")
    ] = None,
    update: UpdateOption = False,
    device: DeviceOption = "cpu",
) -> None:
    """Fine-tune a model on the augmented corpus of a run.

    Unless the settings say when its calls start, that is chosen on held-out texts.
    """
    settings.apply_defaults()
    from flows.finetune import finetune_run
    from flows.output import check_training_device, claim_output, stage_manifest
    from tasks.publish import read_run

    _check_launcher(launcher, launcher_config)
    check_training_device(device)
    content, manifests = read_run(data)
    config = edit(parse_config(content), assignments or [])
    config = _with_options(config, model, without_calls=without_calls)
    augmented, documents = (stage_manifest(manifests, s, data) for s in ("augment", "corpus"))
    claim_output(config, out, update=update)
    runtime = build_runtime(
        out, device, accelerate_config=launcher_config and launcher_config.absolute()
    )
    path = finetune_run(augmented, documents, config, runtime)
    typer.echo(f"model: {path}")


def _with_options(
    config: PipelineConfig, model: str | None, *, without_calls: bool
) -> PipelineConfig:
    content = config.model_dump(mode="json")
    if model:
        content["model"]["name_or_path"] = model
    if without_calls:
        content["finetune"]["without_calls"] = True
    return parse_config(content)


def _check_launcher(launcher: Launcher | None, config: Path | None) -> None:
    if launcher and config is None:
        raise ConfigError(
            f"--launcher {launcher}: no configuration; pass --config FILE, which "
            "`accelerate config --config_file FILE` writes"
        )
    if config and launcher is None:
        raise ConfigError(f"--config {config}: of which launcher? pass --launcher accelerate")
    if config and not config.is_file():
        raise ConfigError(f"--config {config}: no such file")
