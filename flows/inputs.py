"""What the options of a command mean: its configuration and where it runs."""

import json
from pathlib import Path
from typing import Any

import typer

from flows import settings
from toolformer_core.config import PipelineConfig, Runtime
from toolformer_core.errors import ConfigError
from toolformer_core.overrides import edit, parse_config, parse_yaml
from toolformer_core.presets import preset


def build_config(
    preset_name: str,
    config_file: Path | None,
    assignments: list[str] | None,
    corpus: list[str] | None,
    tools: str | None,
    model: str | None,
) -> PipelineConfig:
    """Preset or file, then --corpus, --tools and --model, then --set.

    How many documents a preset takes belongs to its own corpus: of --corpus all are taken. So do
    the demo's rules which texts are tried; those of the paper are part of its method.
    """
    config = _read_config(config_file) if config_file else preset(preset_name)
    content = config.model_dump(mode="json")
    if corpus:
        content["corpus"]["sources"] = corpus
    if corpus and not config_file:
        content["corpus"] |= {"max_documents": None, "sample_seed": None}
        if preset_name != "paper":
            content["sample"]["document_heuristic"] = "none"
    if tools:
        content["tools"]["enabled"] = split_names(tools)
    if model:
        content["model"]["name_or_path"] = model
    return edit(parse_config(content), assignments or [])


def _read_config(path: Path) -> PipelineConfig:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: cannot be read ({error})") from error
    content = parse_yaml(text, f"--config {path}")
    if not isinstance(content, dict):
        raise ConfigError(f"--config {path}: expected settings, as in corpus: {{sources: [...]}}")
    return parse_config(content)


def build_runtime(
    root: Path,
    device: str,
    *,
    storage: str | None = None,
    **options: Any,  # Any: fields of Runtime
) -> Runtime:
    """Where and how a command runs.

    Shards are referred to by path: a run must be readable from any working directory.

    Raises: ConfigError if the storage cannot be written; TransientStorageError if it is away.
    """
    if storage is not None:
        from toolformer_core.storage import check_storage, normal_folder

        storage = normal_folder(storage)
        check_storage(storage)
    home = settings.home().absolute()
    given = {name: value for name, value in options.items() if value is not None}
    return Runtime(root=root.absolute(), home=home, device=device, storage=storage, **given)


def split_names(text: str | None) -> list[str] | None:
    """The names between commas; None where no option was given."""
    return [name.strip() for name in text.split(",") if name.strip()] if text else None


def print_json(value: Any) -> None:  # Any: anything JSON can hold
    """The value as JSON, for people and programs."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, default=str))
