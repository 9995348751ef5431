"""Variations of a run's settings, and the cells that they make: the grid of a sweep.

The paper varies tau_f (Table 2), k (Table 9) and the model (Figure 4) one at a time; here anything
may vary, and the cells are all combinations. Nothing runs here.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from pydantic import Field

from toolformer_core.config.base import Settings
from toolformer_core.config.overrides import edit
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.errors import ConfigError
from toolformer_core.fingerprint import fingerprint
from toolformer_core.yaml_text import parse_yaml

FILTERING_THRESHOLD, CALL_TOP_K, SEED, MODEL = "tau_f", "k", "seed", "model"
"""Names of the variations that have an option of their own."""

_SEEDS = ("sample.seed", "finetune.seed", "evaluate.seed")
_AFTER_FILTER = ("augment", "finetune", "evaluate")  # sections that no stored loss depends on


class Variation(Settings):
    """One thing that varies: its name, and the settings that each of its values stands for."""

    name: str = Field(description="tau_f, k, seed, model, or the key of a setting.")
    values: dict[str, tuple[str, ...]] = Field(
        description="Each value as text, with its settings as in --set."
    )

    @property
    def settings(self) -> tuple[str, ...]:
        """Keys of the settings that it changes.

        Not named `keys`: what has that is a mapping to Prefect, which takes parameters apart.
        """
        assignments = itertools.chain.from_iterable(self.values.values())
        return tuple(dict.fromkeys(text.partition("=")[0] for text in assignments))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One combination: the value of each variation by name, and the settings that it makes."""

    values: Mapping[str, float | str]
    config: PipelineConfig

    @property
    def name(self) -> str:
        """As in "tau_f 0.5, k 3"."""
        return ", ".join(f"{name} {value}" for name, value in self.values.items())


def vary_threshold(values: Sequence[str]) -> Variation:
    """tau_f of all tools."""
    return _varied(FILTERING_THRESHOLD, values, ["filter.filtering_threshold={}"])


def vary_top_k(values: Sequence[str]) -> Variation:
    """Decoding's k; a threshold on p(<API>) gives way to it."""
    rule = ["evaluate.decode.call_top_k={}", "evaluate.decode.call_threshold=null"]
    return _varied(CALL_TOP_K, values, rule)


def vary_seed(values: Sequence[str]) -> Variation:
    """The seeds of sampling, fine-tuning and evaluation together."""
    return _varied(SEED, values, [f"{key}={{}}" for key in _SEEDS])


def vary_model(names: Sequence[str]) -> Variation:
    """The base model, from folders or hub ids; its value is the last part.

    A revision that is set is another model's, and left out.
    """
    _refuse_twice(names, "--models")
    shorts = [PurePath(name).name for name in names]
    labels = shorts if len(set(shorts)) == len(names) else names
    # As JSON: a path may look like a number or hold a colon.
    values: dict[str, tuple[str, ...]] = {
        label: (f"model.name_or_path={json.dumps(name)}", "model.revision=null")
        for label, name in zip(labels, names, strict=True)
    }
    return Variation(name=MODEL, values=values)


def vary_setting(text: str) -> Variation:
    """Any setting, from KEY=VALUE|VALUE."""
    key, separator, values = text.partition("=")
    if not separator:
        raise ConfigError(
            f"--vary {text!r}: expected KEY=VALUE|VALUE, as in score.token_weights=linear|flat"
        )
    return _varied(key, [value.strip() for value in values.split("|")], [f"{key}={{}}"])


def as_options(variation: Variation) -> list[str]:
    """The words of the command line that make this variation."""
    texts = [given[0].partition("=")[2] for given in variation.values.values()]
    if variation.name == MODEL:
        texts = [json.loads(text) for text in texts]
    options = {
        FILTERING_THRESHOLD: "--filtering-threshold",
        CALL_TOP_K: "--call-top-k",
        SEED: "--seed",
        MODEL: "--models",
    }
    if variation.name in options:
        return [options[variation.name], ",".join(texts)]
    return ["--vary", f"{variation.name}={'|'.join(texts)}"]


def _varied(name: str, labels: Sequence[str], assignments: Sequence[str]) -> Variation:
    """Each label with its assignments, in which {} stands for it."""
    _refuse_twice(labels, name)
    values = {label: tuple(text.replace("{}", label) for text in assignments) for label in labels}
    return Variation(name=name, values=values)


def _refuse_twice(values: Sequence[str], name: str) -> None:
    """Refuse a value that is empty, or there twice: 0.5 and 0.50 are one."""
    read = [parse_yaml(value, name) for value in values]
    for number, value in enumerate(values):
        if not value.strip():
            raise ConfigError(f"{name} {','.join(values)!r}: a value is empty; leave it out")
        if read[number] in read[:number]:
            raise ConfigError(f"{name} {','.join(values)!r}: {value} is there twice")


def needs_training(variations: Sequence[Variation]) -> bool:
    """Whether something varies that stored losses cannot tell.

    That is a setting of augment, finetune or evaluate; not the seed, which is also one of sampling.
    """
    return any(
        all(key.partition(".")[0] in _AFTER_FILTER for key in variation.settings)
        for variation in variations
    )


def cells(config: PipelineConfig, variations: Sequence[Variation]) -> list[Cell]:
    """All combinations, the last variation changing fastest.

    All of them are sampled and scored down to the lowest threshold of any, so that they share what
    is measured, and every count is complete.

    Raises: ConfigError for a sweep of nothing, two variations of one setting, an unknown setting
        or a value that is not allowed.
    """
    if not variations:
        raise ConfigError(
            "nothing to sweep; pass --filtering-threshold, --call-top-k, --seed, --models or --vary"
        )
    _refuse_overlaps(variations)
    choices = itertools.product(*(variation.values.items() for variation in variations))
    made = []
    for choice in choices:
        assignments = [text for _, given in choice for text in given]
        labels = [label for label, _ in choice]
        values = {v.name: _value(v, text) for v, text in zip(variations, labels, strict=True)}
        made.append((values, edit(config, assignments)))
    thresholds = sorted({t for _, one in made for t in _thresholds(one)})
    return [Cell(values=values, config=_with_sweep(one, tuple(thresholds))) for values, one in made]


def _refuse_overlaps(variations: Sequence[Variation]) -> None:
    """Refuse two variations where one would overwrite the other."""
    for one, other in itertools.combinations(variations, 2):
        for first, second in itertools.product(one.settings, other.settings):
            if f"{first}.".startswith(f"{second}.") or f"{second}.".startswith(f"{first}."):
                raise ConfigError(
                    f"{one.name} and {other.name} both vary {max(first, second)}; pass one of them"
                )


def _value(variation: Variation, label: str) -> float | str:
    """The label as a number, if it is one; a model's name is none."""
    value = parse_yaml(label, variation.name)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and variation.name != MODEL else label


def _thresholds(config: PipelineConfig) -> set[float]:
    """Every tau_f that matters to a run."""
    in_force = {config.of_tool(tool).filtering_threshold for tool in config.tools.enabled}
    return in_force | set(config.filter.threshold_sweep)


def _with_sweep(config: PipelineConfig, thresholds: tuple[float, ...]) -> PipelineConfig:
    swept = config.filter.model_copy(update={"threshold_sweep": thresholds})
    return config.model_copy(update={"filter": swept})


def sweep_name(grid: Sequence[Cell], *, trains: bool) -> str:
    """Eight characters that stand for a sweep: equal sweeps share a folder."""
    return fingerprint([cell.config for cell in grid], trains)[:8]
