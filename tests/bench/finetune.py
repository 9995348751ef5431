"""Fine-tuning: a training step against transformers' Trainer as one writes it by hand.

All train SmolLM2 on the same texts, cut to 200 tokens, in batches of 16, with float32 weights, each
in a process of its own. `default` is Trainer as it comes, with float32 products; `plain` has those
of the dtype that the machine takes, as ours. `recompute` is ours with `activation_checkpointing`,
`lora` ours with LoRA. Rounds alternate between the ways; figures are medians, those of time over
the steps after the first, ratios are to `plain`.

CPU seconds are those of the process: on a shared machine they are the steadier figure. The last
column leaves out what no way can do without: imports, and weights, gradients and both moments of
AdamW in float32 (with LoRA, the base model alone).
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from flows.starting import environment as settings
from toolformer_core.config.base import ModelConfig
from toolformer_core.config.finetune import FinetuneConfig
from toolformer_core.config.pipeline import CorpusConfig
from toolformer_core.config.tools import WIKIPEDIA_SAMPLE
from toolformer_core.corpus import read_corpus
from toolformer_core.finetune import finetune_model
from toolformer_core.records import AugmentedDocument, Document
from toolformer_core.transformers_lm.loading import resolve_model

Figures = dict[str, Any]
TOKENS, BATCH = 200, 16
OURS = {
    "ours": {},
    "recompute": {"micro_batch_size": 16, "activation_checkpointing": True},
    "lora": {"lora_rank": 16},
}
PLAIN = ("default", "plain")
WAYS = (*PLAIN, *OURS)


class Stopwatch:
    """Seconds, CPU seconds and peak memory at the end of every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def __call__(self, step: int, figures: Mapping[str, float]) -> None:
        self.steps.append(
            {
                "wall": time.perf_counter(),
                "cpu": time.process_time(),
                "peak_mb": peak_mb(),
                "loss": figures.get("train_loss", figures.get("loss", 0.0)),
            }
        )

    def figures(self) -> Figures:
        """Median seconds of a step after the first, its peak memory, and the losses."""
        found: Figures = {
            name: statistics.median(
                after[name] - before[name]
                for before, after in zip(self.steps, self.steps[1:], strict=False)
            )
            for name in ("wall", "cpu")
        }
        return {
            **found,
            "peak_mb": self.steps[-1]["peak_mb"],
            "losses": [step["loss"] for step in self.steps],
        }


def peak_mb() -> float:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def texts(count: int) -> list[AugmentedDocument]:
    """Encyclopedia texts of more than 200 tokens, most of them."""
    config = CorpusConfig(
        sources=(WIKIPEDIA_SAMPLE,),
        max_documents=2 * count,
        sample_seed=7,
        min_document_chars=1200,
        max_document_chars=2000,
    )
    rows = [row for row in read_corpus(config) if isinstance(row, Document)][:count]
    return [
        AugmentedDocument(
            document_id=row.document_id,
            source=row.source,
            original_text=row.text,
            augmented_text=row.text,
            calls=(),
        )
        for row in rows
    ]


def run_ours(way: str, num_steps: int, base: Any, folder: Path) -> Figures:
    """The product."""
    config = FinetuneConfig(
        num_steps=num_steps,
        batch_size=BATCH,
        max_sequence_tokens=TOKENS,
        dev_fraction=0,
        eval_every_steps=num_steps,
        **OURS[way],
    )
    watch = Stopwatch()
    finetune_model(texts(BATCH * num_steps), base, config, folder, "cpu", watch)
    return watch.figures()


class Told(TrainerCallback):
    """Trainer's log, to the stopwatch."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def on_log(self, args, state, control, logs=None, **_) -> None:
        if "loss" in logs:
            self.watch(state.global_step, logs)


def run_plain(way: str, num_steps: int, base: Any, folder: Path) -> Figures:
    """What one writes by hand."""
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    watch = Stopwatch()
    trainer = Trainer(
        model=AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32),
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=num_steps,
            per_device_train_batch_size=BATCH,
            bf16=way == "plain" and base.dtype == "bfloat16",
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=[
            tokenizer(text.original_text, truncation=True, max_length=TOKENS)
            for text in texts(BATCH * num_steps)
        ],
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        callbacks=[Told(watch)],
    )
    trainer.train()
    return watch.figures()


def one(way: str, num_steps: int) -> Figures:
    """One way, measured in this process."""
    settings.apply_defaults()
    base = resolve_model(ModelConfig(), settings.home(), "cpu")
    before = peak_mb()
    weights_mb = folder_mb(Path(base.path))
    held_mb = before + (weights_mb if way == "lora" else 8 * weights_mb)
    with tempfile.TemporaryDirectory() as folder:
        if way in PLAIN:
            figures = run_plain(way, num_steps, base, Path(folder))
        else:
            figures = run_ours(way, num_steps, base, Path(folder))
    return {**figures, "step_mb": figures["peak_mb"] - held_mb}


def folder_mb(folder: Path) -> float:
    """Size of the weights, which are bfloat16 there."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 2**20


def in_child(way: str, num_steps: int) -> Figures:
    """One way in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "tests.bench.finetune", way, str(num_steps), str(out)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        figures: Figures = json.loads(out.read_text())
    return figures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)


def main(arguments: argparse.Namespace) -> Figures:
    """Print the table; medians by way."""
    rounds = [
        {way: in_child(way, arguments.steps) for way in WAYS} for _ in range(arguments.rounds)
    ]
    medians = {
        way: {
            name: statistics.median(each[way][name] for each in rounds)
            for name in ("wall", "cpu", "peak_mb", "step_mb")
        }
        for way in WAYS
    }
    show(medians)
    return {"medians": medians, "rounds": rounds}


def show(medians: Figures) -> None:
    """The table: seconds of a step, peak memory, and their ratios to Trainer's."""
    table = Table(title=f"A step of {BATCH} x {TOKENS} tokens, SmolLM2", title_justify="left")
    plain = medians["plain"]
    for name in ("", "s/step", "CPU s/step", "peak MB", "speed", "by CPU", "memory", "step"):
        table.add_column(name, justify="right" if name else "left")
    for way, f in medians.items():
        table.add_row(
            way,
            *(f"{f['wall']:.1f}", f"{f['cpu']:.1f}", f"{f['peak_mb']:.0f}"),
            *(f"{plain['wall'] / f['wall']:.2f}", f"{plain['cpu'] / f['cpu']:.2f}"),
            *(f"{f[name] / plain[name]:.2f}" for name in ("peak_mb", "step_mb")),
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    Path(sys.argv[3]).write_text(json.dumps(one(sys.argv[1], int(sys.argv[2]))))
