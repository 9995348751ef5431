"""What a tuned model says of itself: toolformer.json for programs, the model card for people."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from tasks.execute import CASSETTE
from tasks.output.json_file import write_whole
from tasks.output.model_folder import CALL_RULE, MODEL_FILE
from tasks.running.assets import as_asset, describe_asset
from tasks.running.policies import effect_task
from toolformer_core.call_rule import CallChoice, with_choice
from toolformer_core.calling.cassette import read_descriptions
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.finetune import FinetuneResult
from toolformer_core.fingerprint import fingerprint
from toolformer_core.models import ModelRef
from toolformer_core.provenance.model_card import CARD, count_texts, model_card, public_name
from toolformer_core.records import AugmentedDocument
from toolformer_core.shards import read_manifest, read_shard
from toolformer_core.storage import temporary_path


def describe_model(
    tuned: FinetuneResult,
    base: ModelRef,
    config: PipelineConfig,
    augmented: Path,
    root: Path,
    scores: Sequence[Mapping[str, Any]] = (),  # Any: rows of ArmScore
    choice: CallChoice | None = None,
) -> Path:
    """Write toolformer.json and the model card beside the tuned model; link it as ROOT/model.

    `augmented` is the manifest of its C*. With scores the card shows the evaluation; `choice` is
    when its calls start, None where the settings say so. Where it is called from a flow, the model
    becomes the asset M*, made from that C*.
    """
    # The manifest lies in ROOT/augment/all/FINGERPRINT.
    describe = as_asset(write_description, "model", root, made_in=augmented.absolute().parents[3])
    return describe(tuned, base, config, augmented, root, scores, choice)


@effect_task
def write_description(
    tuned: FinetuneResult,
    base: ModelRef,
    config: PipelineConfig,
    augmented: Path,
    root: Path,
    scores: Sequence[Mapping[str, Any]],  # Any: as above
    choice: CallChoice | None,
) -> Path:
    """See describe_model."""
    describe_asset(
        {
            "digest": tuned.model.digest,
            "base model": public_name(config.model.name_or_path),
            "base digest": base.digest,
            "augmented digest": read_manifest(augmented).digest,
            "without calls": config.finetune.without_calls,
            **_training_figures(tuned),
        }
    )
    folder = Path(tuned.model.path)
    decode = with_choice(config, choice).evaluate.decode
    origin = {"origin": "none" if decode.is_open else "given"}
    if choice is not None:
        origin = {"origin": f"chosen on {choice.num_texts} held-out texts", **asdict(choice)}
    content = {
        "base_model": base.path,
        "base_name": public_name(config.model.name_or_path),  # the path of a download tells little
        "dtype": tuned.model.dtype,  # that was taken
        "dtype_setting": config.model.dtype,
        "tools": config.tools.model_dump(mode="json"),
        "decode": decode.model_dump(mode="json"),
        CALL_RULE: origin,
        "fingerprint": fingerprint(config),
        # Where C* lies, as seen from ROOT: toolformer trace goes on from there, gc keeps it.
        "augmented": os.path.relpath(augmented, root),
    }
    write_whole(folder / MODEL_FILE, json.dumps(content, indent=1))
    write_whole(folder / CARD, str(_card(tuned, base, config, augmented, scores)))
    link = root / "model"
    new = temporary_path(link)
    new.symlink_to(folder.absolute().relative_to(root.absolute()))
    new.replace(link)
    return link


def _card(
    tuned: FinetuneResult,
    base: ModelRef,
    config: PipelineConfig,
    augmented: Path,
    scores: Sequence[Mapping[str, Any]],  # Any: as above
) -> ModelCard:
    """The model card, with the versions of the tools that answered in the run that made C*."""
    stage = read_manifest(augmented)
    rows = (row for ref in stage.shards for row in read_shard(ref, AugmentedDocument))
    cassette = augmented.absolute().parents[3] / CASSETTE
    tools = read_descriptions(cassette) if cassette.is_file() else {}
    return model_card(
        config,
        Path(base.path),
        count_texts(stage.digest, rows),
        {name: tool.version for name, tool in tools.items()},
        _training_figures(tuned),
        scores,
    )


def _training_figures(tuned: FinetuneResult) -> dict[str, float]:
    """Sizes of the two parts of C*, and every curve at the chosen checkpoint."""
    figures = {
        "training texts": tuned.num_train,
        "dev texts": tuned.num_dev,
        "chosen step": tuned.chosen_step,
    }
    reached = {
        name: value
        for name, curve in tuned.curves.items()
        for step, value in curve
        if step <= tuned.chosen_step
    }
    return {**figures, **reached}
