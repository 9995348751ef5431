"""Step 4b, fine-tuning M on C* (paper, section 2 "Model Finetuning" and Appendix B).

A plain language modelling loss over the augmented texts. With `train_on_results` False the tokens
a tool wrote are left out of the loss, so that the model is not taught to invent results.
The loss goes through the vocabulary in chunks that are recomputed in the backward pass: the full
float32 logits of 16 x 200 tokens alone would take gigabytes.
Departs: the optimiser and the decay are transformers' defaults (AdamW, linear); the paper names
neither.

Shape legend: B batch, T tokens, N tokens that count, H hidden, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from toolformer_core.config import FinetuneConfig
from toolformer_core.errors import CorpusError
from toolformer_core.hf_lm import HFLanguageModel
from toolformer_core.models import ModelRef, folder_digest
from toolformer_core.records import AugmentedDocument, digest

STAGE_VERSION = 2
IGNORED = -100
_LOSS_CHUNK = 512  # tokens per pass through the vocabulary head
_COMPLETE = "complete"  # marks a checkpoint that was written to its end


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingExample:
    """One augmented text as tokens; labels are IGNORED where the loss does not count."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneResult:
    """The tuned model and its loss curves: (step, nats per token)."""

    model: ModelRef
    num_train: int
    num_dev: int
    train_loss: tuple[tuple[int, float], ...]
    dev_loss: tuple[tuple[int, float], ...]


def finetune_model(
    augmented: Sequence[AugmentedDocument],
    base: ModelRef,
    config: FinetuneConfig,
    folder: Path,
    device: str,
) -> FinetuneResult:
    """Fine-tune the base model; resumes from the newest complete checkpoint in the folder.

    Raises: CorpusError if C* is empty.
    """
    if not augmented:
        raise CorpusError("the augmented corpus is empty: no call was kept, nothing to train on")
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    lm = HFLanguageModel(model, AutoTokenizer.from_pretrained(base.path))
    train, dev = split_documents(augmented, config)
    trainer = _ChunkedLossTrainer(
        model=model,
        args=_arguments(config, folder, device, has_dev=bool(dev)),
        train_dataset=_Rows([training_example(d, lm, config) for d in train]),
        eval_dataset=_Rows([training_example(d, lm, config) for d in dev]) if dev else None,
        data_collator=_Collator(lm.document_start_id),
        callbacks=[_MarkComplete(), _Progress()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.model_accepts_loss_kwargs = True  # compute_loss divides by num_items_in_batch itself
    newest = newest_checkpoint(folder)
    trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    output = folder / "model"
    model.to(getattr(torch, base.dtype)).save_pretrained(output)
    lm.tokenizer.save_pretrained(output)
    history = trainer.state.log_history
    return FinetuneResult(
        model=ModelRef(
            path=str(output), digest=folder_digest(output, base.dtype), dtype=base.dtype
        ),
        num_train=len(train),
        num_dev=len(dev),
        train_loss=_curve(history, "loss"),
        dev_loss=_curve(history, "eval_loss"),
    )


def split_documents(
    augmented: Sequence[AugmentedDocument], config: FinetuneConfig
) -> tuple[list[AugmentedDocument], list[AugmentedDocument]]:
    """Train and dev texts; a document's side depends on its id and the seed alone."""
    train: list[AugmentedDocument] = []
    dev: list[AugmentedDocument] = []
    for document in augmented:
        draw = int(digest(config.seed, "dev", document.document_id), 16) / 2**64
        (dev if draw < config.dev_fraction else train).append(document)
    return (train, dev) if train else (dev, [])


def training_example(
    document: AugmentedDocument, lm: HFLanguageModel, config: FinetuneConfig
) -> TrainingExample:
    """Tokens and labels of one text between two document-start tokens, cut to the length."""
    tokens = lm.tokenize(document.augmented_text)
    offsets = tokens.char_offsets
    results = [] if config.train_on_results else document.calls
    # A token counts as the tool's where any of its characters is: " Today" starts a space early.
    masked = {
        k
        for k in range(len(tokens.token_ids))
        if any(offsets[k] < c.result_end and offsets[k + 1] > c.result_start for c in results)
    }
    kept = [IGNORED if k in masked else token for k, token in enumerate(tokens.token_ids)]
    ids = [lm.document_start_id, *tokens.token_ids, lm.document_start_id]
    labels = [lm.document_start_id, *kept, lm.document_start_id]
    length = config.max_sequence_tokens
    return TrainingExample(input_ids=tuple(ids[:length]), labels=tuple(labels[:length]))


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end."""
    complete = [path.parent for path in folder.glob(f"checkpoint-*/{_COMPLETE}")]
    return max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def chunked_loss(
    hidden_BTH: torch.Tensor, head: torch.nn.Module, labels_BT: torch.Tensor
) -> torch.Tensor:
    """Sum of the negative log-likelihoods of the labels, in nats; IGNORED labels do not count.

    Position t predicts label t + 1. Equal to the full cross-entropy; peak memory is that of
    one chunk of logits.
    """
    hidden_NH = hidden_BTH[:, :-1][labels_BT[:, 1:] != IGNORED]
    labels_N = labels_BT[:, 1:][labels_BT[:, 1:] != IGNORED]

    def one_chunk(hidden_CH: torch.Tensor, labels_C: torch.Tensor) -> torch.Tensor:
        logits_CV = head(hidden_CH).float()
        return torch.nn.functional.cross_entropy(logits_CV, labels_C, reduction="sum")

    total = hidden_NH.new_zeros((), dtype=torch.float32)
    chunks = zip(
        torch.split(hidden_NH, _LOSS_CHUNK), torch.split(labels_N, _LOSS_CHUNK), strict=True
    )
    for hidden_CH, labels_C in chunks:
        total = total + checkpoint(one_chunk, hidden_CH, labels_C, use_reentrant=False)
    return total


class _ChunkedLossTrainer(Trainer):
    """transformers' Trainer with `chunked_loss`."""

    def compute_loss(
        self,
        model: Any,  # Any: a model, possibly wrapped by accelerate
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:  # Any: as in Trainer
        """Loss per label of the batch (of the whole accumulated batch in training)."""
        causal = self.accelerator.unwrap_model(model)
        # Autocast is put on the wrapped model's own forward, which is not called here.
        with self.accelerator.autocast():
            hidden_BTH = causal.base_model(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
            ).last_hidden_state
            total = chunked_loss(hidden_BTH, causal.get_output_embeddings(), inputs["labels"])
        count = num_items_in_batch or (inputs["labels"][:, 1:] != IGNORED).sum()
        loss = total / count
        return (loss, {"loss": loss}) if return_outputs else loss


class _Rows(torch.utils.data.Dataset[TrainingExample]):
    """Training examples as a torch data set."""

    def __init__(self, examples: Sequence[TrainingExample]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> TrainingExample:
        return self._examples[index]


class _Collator:
    """Pads a batch on the right."""

    def __init__(self, pad_id: int) -> None:
        self._pad_id = pad_id

    def __call__(self, batch: Sequence[TrainingExample]) -> dict[str, torch.Tensor]:
        longest = max(len(example.input_ids) for example in batch)

        def padded(values: tuple[int, ...], pad: int) -> list[int]:
            return [*values, *[pad] * (longest - len(values))]

        return {
            "input_ids": torch.tensor([padded(e.input_ids, self._pad_id) for e in batch]),
            "labels": torch.tensor([padded(e.labels, IGNORED) for e in batch]),
            "attention_mask": torch.tensor([padded((1,) * len(e.input_ids), 0) for e in batch]),
        }


class _Progress(TrainerCallback):
    """A bar on standard error; transformers' own printer writes to standard output."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Open the bar."""
        self._bar = tqdm(total=state.max_steps, desc="finetune", unit="step", disable=None)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Move it to the present step."""
        self._bar.update(state.global_step - self._bar.n)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Close it."""
        self._bar.close()


class _MarkComplete(TrainerCallback):
    """Marks each checkpoint once it is written; an interrupted one stays unmarked."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Write the marker."""
        (Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / _COMPLETE).touch()


def _arguments(
    config: FinetuneConfig, folder: Path, device: str, *, has_dev: bool
) -> TrainingArguments:
    micro = min(config.micro_batch_size, config.batch_size)
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=config.num_steps,
        learning_rate=config.learning_rate,
        warmup_steps=math.ceil(config.warmup_fraction * config.num_steps),
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=micro,
        gradient_accumulation_steps=max(1, config.batch_size // micro),
        bf16=True,
        use_cpu=device == "cpu",
        seed=config.seed,
        data_seed=config.seed,
        eval_strategy="steps" if has_dev else "no",
        eval_steps=config.eval_every_steps,
        save_strategy="steps",
        save_steps=config.eval_every_steps,
        save_total_limit=2,
        load_best_model_at_end=has_dev,
        metric_for_best_model="eval_loss" if has_dev else None,
        logging_steps=max(1, config.num_steps // 20),
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        prediction_loss_only=True,
        dataloader_pin_memory=device != "cpu",
    )


def _curve(history: Sequence[dict[str, Any]], key: str) -> tuple[tuple[int, float], ...]:
    return tuple((int(row["step"]), float(row[key])) for row in history if key in row)
