"""Step 4b, fine-tuning M on C* (paper, section 2 "Model Finetuning" and Appendix B).

A plain language modelling loss over the augmented texts. With `train_on_results` False the tokens
a tool wrote are left out of the loss, so that the model is not taught to invent results.
transformers' Trainer runs the steps; the data and their order are in examples.py, the loss in
loss.py. It may be one of several processes that accelerate has started: the batch is then
shared among them, and the loss is the mean over the tokens of all.

Weights and optimiser are float32; products have the dtype taken for the base model, and with LoRA
the base model stays as it is.
A checkpoint counts once it is marked complete. A run that was killed goes on from the newest one
and ends with the same curves and the same weights.
Departs: the optimiser and the decay are transformers' defaults (AdamW, linear); the paper names
neither.
"""

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerState, TrainingArguments
from transformers.utils import logging as transformers_logging

from toolformer_core.config.finetune import FinetuneConfig
from toolformer_core.errors import ConfigError, CorpusError
from toolformer_core.models import ModelRef, folder_digest
from toolformer_core.records import AugmentedDocument
from toolformer_core.training.examples import (
    TrainingExample,
    TrainingRows,
    collate,
    split_documents,
    training_example,
    training_rows,
)
from toolformer_core.training.loss import give_own_loss, has_plain_head, keeps_packed_texts_apart
from toolformer_core.training.steps import (
    COMPLETE,
    DevTexts,
    Report,
    StepTrainer,
    is_exhausted,
    ranks_higher,
)
from toolformer_core.transformers_lm.adapter import HFLanguageModel
from toolformer_core.transformers_lm.arithmetic import warn_if_emulated

STAGE_VERSION = 5
_SHORT_ROW = 256
"""Tokens up to which plain products are the faster attention on a CPU: at 200, a step of SmolLM2
takes 13% less time than with torch's flash kernel. They keep all attention weights in memory."""

logger = logging.getLogger(__name__)

Curve = tuple[tuple[int, float], ...]  # (step, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneResult:
    """The tuned model, the step of its checkpoint, and the curves.

    Curves: train_loss, dev_loss and dev_plain_loss in nats per token, dev_plain_loss on the same
    held-out texts without their calls; call_recall, call_exact (see steps.py).
    """

    model: ModelRef
    num_train: int
    num_dev: int
    chosen_step: int
    curves: dict[str, Curve]


def finetune_model(  # noqa: PLR0913  # the last two are optional
    augmented: Sequence[AugmentedDocument],
    base: ModelRef,
    config: FinetuneConfig,
    folder: Path,
    device: str,
    report: Report | None = None,
    plain: Sequence[AugmentedDocument] = (),
) -> FinetuneResult:
    """Fine-tune the base model; resumes from the newest complete checkpoint in the folder.

    `report` is told the figures of each step as they come, in the main process. `plain` are texts
    without calls that are trained on besides; none of them is held out.

    Raises: CorpusError if C* is empty; ConfigError if a setting does not fit the model or the data,
        or the training diverges.
    """
    if not augmented:
        raise CorpusError("the augmented corpus is empty: no call was kept, nothing to train on")
    newest = newest_checkpoint(folder)
    num_steps = _steps_to_train(newest, config)
    with_calls, dev = split_documents(augmented, config)
    train = [*with_calls, *plain]
    arguments = _arguments(config, folder, device, num_steps, dtype=base.dtype, has_dev=bool(dev))
    trainer = _trainer(train, dev, _loaded(base, config, device), config, arguments, report)
    trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    state = trainer.state
    chosen_step = int(state.best_global_step or state.global_step)
    output = folder / "model"
    if trainer.is_world_process_zero():
        _save(folder / f"checkpoint-{chosen_step}", base, config, output)
    trainer.accelerator.wait_for_everyone()
    return FinetuneResult(
        model=ModelRef(
            path=str(output), digest=folder_digest(output, base.dtype), dtype=base.dtype
        ),
        num_train=len(train),
        num_dev=len(dev),
        chosen_step=chosen_step,
        curves=curves(state.log_history),
    )


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end."""
    complete = [path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def curves(history: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    """The curves in Trainer's log."""
    keys = {"train_loss": "loss"} | {
        name: f"eval_{name}" for name in ("dev_loss", "dev_plain_loss", "call_recall", "call_exact")
    }
    found = {
        name: tuple((int(row["step"]), float(row[key])) for row in history if key in row)
        for name, key in keys.items()
    }
    return {name: curve for name, curve in found.items() if curve}


def _steps_to_train(newest: Path | None, config: FinetuneConfig) -> int:
    """Steps in all; no more than are done where they had ended early before the process did."""
    if newest is not None and config.early_stopping_patience is not None:
        state = TrainerState.load_from_json(str(newest / "trainer_state.json"))
        if is_exhausted(state.log_history, config):
            return int(state.global_step)
    return config.num_steps


def _arguments(
    config: FinetuneConfig, folder: Path, device: str, num_steps: int, *, dtype: str, has_dev: bool
) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=num_steps,
        learning_rate=config.learning_rate,
        warmup_steps=math.ceil(config.warmup_fraction * config.num_steps),
        optim="adamw_torch_fused",
        activation_checkpointing=config.activation_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        bf16=dtype == "bfloat16",
        use_cpu=device == "cpu",
        seed=config.seed,
        data_seed=config.seed,
        train_sampling_strategy="sequential",
        eval_strategy="steps" if has_dev else "no",
        eval_steps=config.eval_every_steps,
        save_strategy="steps",
        save_steps=config.eval_every_steps,
        metric_for_best_model=f"eval_{config.checkpoint_metric}" if has_dev else None,
        greater_is_better=ranks_higher(config.checkpoint_metric) if has_dev else None,
        logging_nan_inf_filter=False,  # it would log a loss of nan as 0
        logging_steps=1,  # a mean over several steps would begin anew where a run is resumed
        average_tokens_across_devices=True,
        ddp_find_unused_parameters=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=device != "cpu",
    )
    # Not what the launcher's configuration says: the model's dtype alone decides.
    arguments.mixed_precision = "bf16" if arguments.bf16 else "no"
    _share_batch(arguments, config)
    return arguments


def _share_batch(arguments: TrainingArguments, config: FinetuneConfig) -> None:
    """Set the micro-batches, by which a step has batch_size rows over all processes."""
    if arguments.n_gpu > 1:
        arguments._n_gpu = (
            1  # Trainer would take all GPUs that it sees, and the batch times as many
        )
    per_process, rest = divmod(config.batch_size, arguments.world_size)
    if rest:
        raise ConfigError(
            f"finetune.batch_size {config.batch_size} cannot be shared by "
            f"{arguments.world_size} processes; make it a multiple of them"
        )
    micro = max(n for n in range(1, config.micro_batch_size + 1) if per_process % n == 0)
    if micro < min(config.micro_batch_size, per_process) and arguments.process_index == 0:
        logger.warning(
            "micro-batches of %d rows, not %d: the %d rows of a step must divide evenly",
            *(micro, config.micro_batch_size, per_process),
        )
    arguments.per_device_train_batch_size = arguments.per_device_eval_batch_size = micro
    arguments.gradient_accumulation_steps = per_process // micro


def _loaded(base: ModelRef, config: FinetuneConfig, device: str) -> HFLanguageModel:
    """The base model and its tokenizer; weights that are trained are float32."""
    warn_if_emulated(base.dtype, device)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # our bar is enough
    is_short = config.max_sequence_tokens <= _SHORT_ROW
    load: Callable[..., Any] = AutoModelForCausalLM.from_pretrained  # Any: as in model.py
    model = load(
        base.path,
        dtype=getattr(torch, base.dtype) if config.lora_rank else torch.float32,
        attn_implementation="eager" if is_short and device == "cpu" else None,
    )
    return HFLanguageModel(model, AutoTokenizer.from_pretrained(base.path))


def _trainer(
    train: Sequence[AugmentedDocument],
    dev: Sequence[AugmentedDocument],
    lm: HFLanguageModel,
    config: FinetuneConfig,
    arguments: TrainingArguments,
    report: Report | None,
) -> StepTrainer:
    examples = [training_example(document, lm, config) for document in train]
    lengths = _lengths(train, examples, lm, config)
    rows = training_rows(train, lengths, config, arguments.max_steps)
    trainer = StepTrainer(
        model=_trainable(lm, config, is_main=arguments.process_index == 0),
        args=arguments,
        train_dataset=TrainingRows(examples, rows),
        data_collator=partial(collate, pad_id=lm.document_start_id, is_packed=config.packing),
        dev=_dev_texts(dev, lm, config),
        config=config,
        report=report,
    )
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if plugin is not None and "FULL_STATE_DICT" not in str(plugin.state_dict_type):
        raise ConfigError(
            "fsdp_state_dict_type of the launcher's configuration: expected FULL_STATE_DICT, by "
            "which a checkpoint is a model that transformers loads"
        )
    return trainer


def _trainable(
    lm: HFLanguageModel, config: FinetuneConfig, *, is_main: bool
) -> Any:  # Any: as in model.py
    """The model with its own loss, and with LoRA weights if asked for."""
    model = lm.model
    ids_BT = torch.tensor([[lm.document_start_id, *lm.encode("In the morning it is cold.")]])
    # One process looks: of a model that is loaded to be sharded, the others have no weights.
    found = [False, False]
    if is_main:
        found = [
            has_plain_head(model, ids_BT),
            not config.packing or keeps_packed_texts_apart(model, ids_BT),
        ]
    if torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(found)
    is_plain, keeps_apart = found
    if not keeps_apart:
        raise ConfigError(
            "finetune.packing: in this model's attention packed texts see one another; set it false"
        )
    if not is_plain:
        logger.warning("the model changes its logits: all of a micro-batch's are held in memory")
    give_own_loss(model, lm.start_ids, has_plain_head=is_plain)
    if not config.lora_rank:
        return model
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(config.seed)  # LoRA's first weights are drawn
    with _quiet_peft():
        return get_peft_model(model, lora)


def _lengths(
    train: Sequence[AugmentedDocument],
    examples: Sequence[TrainingExample],
    lm: HFLanguageModel,
    config: FinetuneConfig,
) -> list[int]:
    """Tokens of each text with its calls; so that the control without calls is packed alike."""
    if not config.packing:
        return []
    if config.without_calls:
        with_calls = config.model_copy(update={"without_calls": False})
        examples = [training_example(document, lm, with_calls) for document in train]
    return [len(example.input_ids) for example in examples]


def _dev_texts(
    dev: Sequence[AugmentedDocument], lm: HFLanguageModel, config: FinetuneConfig
) -> DevTexts | None:
    if not dev:
        return None
    without_calls = config.model_copy(update={"without_calls": True})

    def by_length(settings: FinetuneConfig) -> list[TrainingExample]:
        examples = [training_example(document, lm, settings) for document in dev]
        return sorted(examples, key=lambda example: len(example.input_ids))

    texts = DevTexts(examples=by_length(config), plain=by_length(without_calls))
    if config.checkpoint_metric == "call_exact" and not any(e.calls for e in texts.examples):
        raise ConfigError(
            "finetune.checkpoint_metric call_exact: no held-out text has a call; choose "
            "dev_plain_loss, for the control too"
        )
    return texts


def _save(checkpoint: Path, base: ModelRef, config: FinetuneConfig, output: Path) -> None:
    """The checkpoint's model in the base model's dtype, LoRA merged in float32."""
    dtype = getattr(torch, base.dtype)
    load: Callable[..., Any] = AutoModelForCausalLM.from_pretrained  # Any: as in model.py
    if config.lora_rank:
        with _quiet_peft():
            tuned = PeftModel.from_pretrained(load(base.path, dtype=torch.float32), checkpoint)
        tuned.merge_and_unload().to(dtype).save_pretrained(output)
    else:
        load(checkpoint, dtype=dtype).save_pretrained(output)
    AutoTokenizer.from_pretrained(base.path).save_pretrained(output)


@contextmanager
def _quiet_peft() -> Iterator[None]:
    """For peft, which asks a model by a name that transformers is giving up."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield
