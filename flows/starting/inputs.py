"""What the options of a command or form mean: a configuration, and where it runs."""

import json
from pathlib import Path
from typing import Any

import typer

from flows.starting import environment as settings
from flows.starting.options import Method, Varied
from toolformer_core.config import variations
from toolformer_core.config.overrides import edit, parse_config
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.config.presets import preset
from toolformer_core.config.runtime import Device, Runtime
from toolformer_core.errors import ConfigError
from toolformer_core.yaml_text import parse_yaml


def build_config(method: Method) -> PipelineConfig:
    """Preset or file, then corpus, tools and model, then the single changes.

    How many documents a preset takes belongs to its own corpus: of another all are taken. So do
    the demo's rules which texts are tried; those of the paper are part of its method.
    """
    values: dict[str, Any] = {}
    if method.corpus:
        values["corpus.sources"] = method.corpus
    if method.corpus and not method.config_file:
        values |= {"corpus.max_documents": None, "corpus.sample_seed": None}
        if method.preset != "paper":
            values["sample.document_heuristic"] = "none"
    if method.tools:
        values["tools.enabled"] = method.tools
    if method.model:
        values["model.name_or_path"] = method.model
    file = method.config_file
    start = _read_config(Path(file)) if file else preset(method.preset)
    return edit(start, method.changes, values)


def _read_config(path: Path) -> PipelineConfig:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: cannot be read ({error})") from error
    content = parse_yaml(text, f"--config {path}")
    if not isinstance(content, dict):
        raise ConfigError(f"--config {path}: expected settings, as in corpus: {{sources: [...]}}")
    return parse_config(content)


def varied_settings(varied: Varied) -> list[variations.Variation]:
    """What varies; of one model all cells come together, then of one tau_f."""
    first = ((varied.models, variations.vary_model), (varied.seeds, variations.vary_seed))
    last = (
        (varied.filtering_threshold, variations.vary_threshold),
        (varied.call_top_k, variations.vary_top_k),
    )
    return [
        *(vary(list(map(_label, values))) for values, vary in first if values),
        *map(variations.vary_setting, varied.others),
        *(vary(list(map(_label, values))) for values, vary in last if values),
    ]


def _label(value: float | str) -> str:
    """The value as people write it: 1 for 1.0."""
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def build_runtime(
    root: Path,
    place: Device,
    **more: Any,  # Any: fields of Runtime
) -> Runtime:
    """Where and how a command runs.

    Shards are referred to by path: a run must be readable from any working directory.

    Raises: ConfigError if the storage cannot be written; TransientStorageError if it is away.
    """
    given = {name: value for name, value in place if name in Runtime.model_fields}
    if given.get("storage"):
        from toolformer_core.storage import check_storage, normal_folder

        given["storage"] = normal_folder(given["storage"])
        check_storage(given["storage"])
    home = settings.home().absolute()
    return Runtime(**{**given, "root": root.absolute(), "home": home, **more})


def preset_folder(method: Method, out: Path | None) -> Path:
    """The output folder; without --out that of the preset or file."""
    file = method.config_file
    return out or settings.home() / (Path(file).stem if file else method.preset)


def split_names(text: str) -> list[str] | None:
    """The names between commas; None where no option was given."""
    return [name.strip() for name in text.split(",") if name.strip()] or None


def print_json(value: Any) -> None:  # Any: anything JSON can hold
    """The value as JSON, for people and programs."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, default=str))
