"""The model card of a tuned model: what it was made of, with which settings, and how good it is.

README.md with the front matter that model hubs read. Everything in it is a fact of the run; what
is not known is said to be "not stated". Paths of the machine stay out.
"""

import functools
import importlib.metadata
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFReader
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.readers.generated import ONE_STEP_SCHEME, REASONING_GYM_SCHEME
from toolformer_core.records import AugmentedDocument
from toolformer_core.sources import PACKAGE_SCHEME, resolve_package_path

NOT_STATED = "not stated"
CARD = "README.md"

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_LICENCE_ID = re.compile(r"[a-z0-9][a-z0-9.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingTexts:
    """What C* holds; `fingerprint` is that of its content."""

    fingerprint: str
    num_documents: int
    num_calls: Mapping[str, int]  # by tool


def count_texts(fingerprint: str, documents: Iterable[AugmentedDocument]) -> TrainingTexts:
    """Documents and calls of C*."""
    num_documents, num_calls = 0, Counter[str]()
    for document in documents:
        num_documents += 1
        num_calls.update(call.tool for call in document.calls)
    return TrainingTexts(
        fingerprint=fingerprint, num_documents=num_documents, num_calls=dict(num_calls)
    )


def model_card(
    config: PipelineConfig,
    base_folder: Path,
    texts: TrainingTexts,
    tool_versions: Mapping[str, str],
    figures: Mapping[str, float],
    scores: Sequence[Mapping[str, Any]],  # Any: rows of ArmScore
) -> ModelCard:
    """The card; `figures` are those of the training, `scores` is empty before the evaluation.

    `base_folder` is the base model's, from wherever it came. The control without calls is said to
    be one.
    """
    base = public_name(config.model.name_or_path)
    is_control = config.finetune.without_calls
    stem = base.rpartition("/")[2].removesuffix(".gguf")
    name = f"{stem} {'control without calls' if is_control else 'with tools'}"
    licence = base_licence(config.model.name_or_path, base_folder)
    data = ModelCardData(
        base_model=base if _HUB_ID.fullmatch(base) else None,
        library_name="transformers",
        license=licence.lower() if _LICENCE_ID.fullmatch(licence.lower()) else None,
        pipeline_tag="text-generation",
        tags=["toolformer", "control" if is_control else "tool-use"],
        model_name=name if scores else None,
        eval_results=_eval_results(scores) or None,
    )
    body = [
        f"# {name}",
        _about(config, base),
        "## Use",
        _USE_OF_CONTROL if is_control else _USE,
        "## Tools",
        _tools(config, texts, tool_versions),
        "## Texts",
        f"{texts.num_documents} texts with {sum(texts.num_calls.values())} calls (fingerprint "
        f"{texts.fingerprint}), from:",
        _sources(config),
        "## Training",
        _table(("setting", "value"), config.finetune.model_dump(mode="json").items()),
        "At the chosen checkpoint, losses in nats per token:",
        _table(("figure", "value"), [(key, f"{value:.4g}") for key, value in figures.items()]),
        "## Evaluation",
        _evaluation(scores),
        "## Licence",
        f"Of the base model {base}: {licence}. Those of the texts are listed above.",
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(body) + "\n")


def public_name(name: str) -> str:
    """A model or a source as others may read it: of a path of this machine only its end."""
    path = Path(name)
    return path.absolute().name if path.is_absolute() or path.exists() else name


def base_licence(name: str, folder: Path) -> str:
    """The licence that a model states: in its GGUF file, or in the README.md of its folder."""
    path = Path(resolve_package_path(name))
    if path.suffix == ".gguf" and path.is_file():
        return _gguf_licence(path)
    if (folder / CARD).is_file():
        stated = ModelCard.load(folder / CARD, ignore_metadata_errors=True).data.get("license")
        return str(stated or NOT_STATED)
    return NOT_STATED


@functools.lru_cache(maxsize=8)  # the file holds the vocabulary, too, and takes seconds to read
def _gguf_licence(path: Path) -> str:
    field = GGUFReader(str(path)).fields.get("general.license")
    return str(field.contents()) if field else NOT_STATED


def source_licence(source: str, stated: Mapping[str, str]) -> str:
    """The licence of a source: as the settings say, else that of the package it lies in."""
    if source in stated:
        return stated[source]
    if source.startswith(REASONING_GYM_SCHEME):
        return _package_licence("reasoning-gym")
    if source.startswith(ONE_STEP_SCHEME):
        return _package_licence("toolformer-prefect")
    if source.startswith(PACKAGE_SCHEME):
        package = source.removeprefix(PACKAGE_SCHEME).partition("/")[0]
        found = importlib.metadata.packages_distributions().get(package.partition(".")[0], [])
        return _package_licence(found[0]) if found else NOT_STATED
    return NOT_STATED


def _package_licence(distribution: str) -> str:
    try:
        metadata = importlib.metadata.metadata(distribution)
    except importlib.metadata.PackageNotFoundError:
        return NOT_STATED
    for key in ("License-Expression", "License"):
        if key in metadata and metadata[key].strip():
            # Some packages put the whole text of the licence there.
            return f"{metadata[key].strip().splitlines()[0]} (package {distribution})"
    return f"{NOT_STATED} (package {distribution})"


_USE = """Run it with its tools:

    toolformer generate --model FOLDER 'The 34 apples and 57 pears make'
    toolformer serve --model FOLDER

When a call starts, and what the tools need, is in `toolformer.json`. In plain transformers it is an
ordinary causal language model: it writes calls such as `[Calculator(34 + 57) ->`, and what comes
after the arrow is then its own guess, not an answer of the tool."""


_USE_OF_CONTROL = """To compare with, not to call tools: in transformers, an ordinary causal
language model."""


def _about(config: PipelineConfig, base: str) -> str:
    tools = ", ".join(config.tools.enabled)
    if config.finetune.without_calls:
        return (
            f"The control: {base}, fine-tuned on the texts of a model that calls {tools} as "
            "Toolformer does (Schick et al. 2023, arXiv 2302.04761), but without their calls. It "
            "was not taught to call tools, and shows what the texts alone do."
        )
    return (
        f"{base}, fine-tuned to call {tools} as Toolformer does (Schick et al. 2023, arXiv "
        "2302.04761): the calls in its training texts were sampled by a language model, run, and "
        "kept where the result lowered the loss of the base model on the text that follows."
    )


def _tools(config: PipelineConfig, texts: TrainingTexts, versions: Mapping[str, str]) -> str:
    """Thresholds and yield of every tool."""
    rows = [
        (
            tool,
            versions.get(tool, NOT_STATED),
            texts.num_calls.get(tool, 0),
            f"{own.sample.sampling_threshold:g}",
            own.sample.max_positions,
            own.sample.samples_per_position,
            f"{own.filtering_threshold:g}",
        )
        for tool, own in ((tool, config.of_tool(tool)) for tool in config.tools.enabled)
    ]
    return _table(("tool", "version", "kept calls", "tau_s", "k", "m", "tau_f"), rows)


def _sources(config: PipelineConfig) -> str:
    stated = {entry.source: entry.licence for entry in config.licences}
    rows = [
        (public_name(source), source_licence(source, stated)) for source in config.corpus.sources
    ]
    return _table(("source", "licence"), rows)


def _evaluation(scores: Sequence[Mapping[str, Any]]) -> str:
    """All arms of all benchmarks."""
    if not scores:
        return "Not evaluated."
    columns = ("benchmark", "arm", "metric", "value", "low", "high", "n", "call_rate")
    rows = [
        tuple(f"{v:.3f}" if isinstance(v, float) else v for v in (score[c] for c in columns))
        for score in scores
    ]
    table = _table(columns, rows)
    return (
        f"{table}\n\nLow and high bound 95% of bootstrap means; the arm `base` is the base model."
    )


def _eval_results(scores: Sequence[Mapping[str, Any]]) -> list[EvalResult]:
    """The tuned model with its tools, as hubs list it."""
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=score["benchmark"],
            dataset_name=score["benchmark"],
            metric_type="accuracy",
            metric_name=score["metric"],
            metric_value=score["value"],
        )
        for score in scores
        if score["arm"] == "on"
    ]


def _table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:  # Any: cells
    """A Markdown table; a bar in a cell is text."""
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(
        f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |"
        for line in lines
    )
