"""Step 4b, the steps: transformers' Trainer with our evaluation, checkpoints and stopping rule.

At each evaluation, on the held-out texts:

    dev_loss        nats per token, of the texts as they are trained on
    dev_plain_loss  nats per token, of the same texts without calls: the log of the paper's dev
                    perplexity
    call_recall     share of calls at whose place <API> is among the CALL_TOP_K likeliest tokens
    call_exact      share of calls whose tokens from the name to the arrow are all the likeliest

The chosen checkpoint is the best by `checkpoint_metric`, of equals the earliest; without held-out
texts, the last.
"""

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import TrainOutput

from toolformer_core.config.finetune import FinetuneConfig
from toolformer_core.errors import ConfigError
from toolformer_core.progress import progress
from toolformer_core.training.examples import TrainingExample
from toolformer_core.training.loss import IGNORED

COMPLETE = "complete"  # marks a checkpoint that was written to its end
CALL_TOP_K = 10
"""Source: section 4.2, k in decoding."""

Report = Callable[[int, Mapping[str, float]], None]
"""(step, figures by name)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DevTexts:
    """The held-out texts, as they are trained on and without calls."""

    examples: Sequence[TrainingExample]
    plain: Sequence[TrainingExample]


def ranks_higher(metric: str) -> bool:
    """Whether more of it is better."""
    return not metric.endswith("loss")


def is_exhausted(history: Sequence[Mapping[str, Any]], config: FinetuneConfig) -> bool:
    """Whether early_stopping_patience evaluations have passed since the best one."""
    key = f"eval_{config.checkpoint_metric}"
    sign = -1 if ranks_higher(config.checkpoint_metric) else 1
    values = [sign * row[key] for row in history if key in row]
    if config.early_stopping_patience is None or not values:
        return False
    return len(values) - 1 - values.index(min(values)) >= config.early_stopping_patience


class StepTrainer(Trainer):
    """Trainer for a model with its own loss (see loss.py)."""

    def __init__(
        self,
        *,
        dev: DevTexts | None,
        config: FinetuneConfig,
        report: Report | None,
        **options: Any,  # Any: those of Trainer
    ) -> None:
        callbacks = [_Checkpoints(), _EarlyStop(config)]
        if report is not None:
            callbacks.append(_Reporting(report))
        # Trainer only asks whether there are such texts: `evaluate` is ours.
        eval_dataset = list(dev.examples) if dev else None
        super().__init__(callbacks=callbacks, eval_dataset=eval_dataset, **options)
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = True  # its forward takes num_items_in_batch
        self._dev = dev

    def train(self, *args: Any, **options: Any) -> TrainOutput:  # Any: as in Trainer
        """Train, with a bar; transformers' own printer writes to standard output."""
        is_off = not self.is_world_process_zero()
        steps = self.args.max_steps
        with progress("finetune", unit="step", total=steps, is_off=is_off) as bar:
            self.add_callback(_Steps(bar))
            return super().train(*args, **options)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the figures; all processes have the same ones.

        Raises: ConfigError if the training has diverged.
        """
        # A gradient that is not finite has spoilt the weights, though the loss was none the worse.
        names = {"loss": "loss", "grad_norm": "norm of the gradient"}
        names |= {f"eval_{name}": name for name in ("dev_loss", "dev_plain_loss")}
        for key, name in names.items():
            if not math.isfinite(logs.get(key, 0.0)):
                raise ConfigError(
                    f"finetune: the {name} is {logs[key]} at step {self.state.global_step}; lower "
                    "finetune.learning_rate, or look at the base model's weights"
                )
        super().log(logs, start_time)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:  # Any: as in Trainer
        """The figures of the held-out texts, with Trainer's prefix."""
        assert self._dev is not None
        loss, recall, exact = self._figures(self._dev.examples)
        plain_loss = self._figures(self._dev.plain)[0]
        figures = {
            "dev_loss": loss,
            "dev_plain_loss": plain_loss,
            "call_recall": recall,
            "call_exact": exact,
        }
        metrics = {f"eval_{name}": value for name, value in figures.items() if value is not None}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    @torch.no_grad()
    def _figures(
        self, examples: Sequence[TrainingExample]
    ) -> tuple[float, float | None, float | None]:
        """Loss per token, call_recall and call_exact over the texts of all processes.

        Without calls there are no shares of them.

        All processes make equally many forward passes: a sharded model waits for every one.
        """
        size = self.args.per_device_eval_batch_size
        batches = [examples[first : first + size] for first in range(0, len(examples), size)]
        self.model_wrapped.eval()
        sums = torch.zeros(5, dtype=torch.float64)
        for first in range(0, len(batches), self.args.world_size):
            k = first + self.args.process_index
            rows: Any = [[e] for e in batches[min(k, len(batches) - 1)]]  # Any: for Trainer, dicts
            scores = self.model_wrapped(**self._prepare_inputs(self.data_collator(rows)))
            if k < len(batches):
                sums += _batch_sums(batches[k], scores)
        sums = self.accelerator.reduce(sums.to(self.args.device), reduction="sum")
        nll, tokens, recalled, exact, calls = sums.tolist()
        if not calls:
            return nll / tokens, None, None
        return nll / tokens, recalled / calls, exact / calls


def _batch_sums(
    examples: Sequence[TrainingExample], scores: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """Of a batch: nats, tokens that count, calls recalled, calls exact, calls."""
    places = [(b, *call) for b, example in enumerate(examples) for call in example.calls]
    recalled = sum(float(scores["start_rank"][b, start - 1]) < CALL_TOP_K for b, start, _ in places)
    exact = sum(bool(scores["is_best"][b, start:arrow].all()) for b, start, arrow in places)
    tokens = sum(int((example.labels != IGNORED).sum()) for example in examples)
    nll = float(scores["nll"].double().sum())
    return torch.tensor([nll, tokens, recalled, exact, len(places)], dtype=torch.float64)


class _Checkpoints(TrainerCallback):
    """Marks each checkpoint once it is written, and keeps the newest and the best.

    A checkpoint loses its mark before its files, so that a marked one is always whole.
    """

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Mark the new one, delete those of no more use."""
        if not state.is_world_process_zero:
            return
        folder = Path(str(args.output_dir))
        kept = {f"checkpoint-{step}" for step in (state.global_step, state.best_global_step)}
        (folder / f"checkpoint-{state.global_step}" / COMPLETE).touch()
        for path in folder.glob("checkpoint-*"):
            if path.name not in kept:
                (path / COMPLETE).unlink(missing_ok=True)
                shutil.rmtree(path)


class _EarlyStop(TrainerCallback):
    """Ends the training when `is_exhausted`; looks at the log, which a resumed run still has."""

    def __init__(self, config: FinetuneConfig) -> None:
        self._config = config

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Stop behind this step."""
        if is_exhausted(state.log_history, self._config):
            control.should_training_stop = True


class _Reporting(TrainerCallback):
    """Tells the figures of each step as they come."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Report them under the names of the curves."""
        names = {"loss": "train_loss", "learning_rate": "learning_rate", "grad_norm": "grad_norm"}
        figures = {names[key]: value for key, value in (logs or {}).items() if key in names}
        figures |= {
            key.removeprefix("eval_"): value
            for key, value in (logs or {}).items()
            if key.startswith("eval_")
        }
        if figures and state.is_world_process_zero:
            self._report(state.global_step, figures)


class _Steps(TrainerCallback):
    """Tells a bar of the steps."""

    def __init__(self, bar: "tqdm[Any]") -> None:  # Any: nothing is iterated
        self._bar = bar

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Set it to where a resumed run begins."""
        self._bar.initial = self._bar.n = state.global_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Move it to the present step."""
        self._bar.update(state.global_step - self._bar.n)
