"""Settings of fine-tuning; see pipeline.py."""

from typing import Literal

from pydantic import Field

from toolformer_core.config.base import Settings

CheckpointMetric = Literal["dev_loss", "dev_plain_loss", "call_exact"]


class FinetuneConfig(Settings):
    """Step 4b, fine-tuning M on C*."""

    learning_rate: float = Field(default=1e-5, gt=0, le=1, description="Peak (App. B: 1e-5).")
    num_steps: int = Field(default=2000, ge=1, description="Optimiser steps (App. B: up to 2000).")
    batch_size: int = Field(
        default=128,
        ge=1,
        le=10_000,
        strict=True,
        description="Effective batch, in texts (App. B: 128).",
    )
    micro_batch_size: int = Field(
        default=2,
        ge=1,
        le=10_000,
        strict=True,
        description="Most texts per forward pass; the rest is gradient accumulation. No matter to "
        "the loss, but for rounding: as many as memory allows.",
    )
    activation_checkpointing: bool = Field(
        default=False,
        description="Compute activations a second time in the backward pass instead of keeping "
        "them: less memory, a fifth more time. Same weights.",
    )
    max_sequence_tokens: int = Field(
        default=1024, ge=8, description="Longer texts are cut (App. B: 1024)."
    )
    warmup_fraction: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Linear warm-up over this share of the steps (App. B: 0.1).",
    )
    train_on_results: bool = Field(
        default=True, description="Whether tool results count in the loss (paper: yes)."
    )
    without_calls: bool = Field(
        default=False,
        description="Train on the same texts in the same order, but without their calls: the "
        "control that tells what the calls do (paper: GPT-J + CC).",
    )
    plain_text_share: float = Field(
        default=0.0,
        ge=0,
        le=0.95,
        description="Share of the training texts that are texts of C without a kept call (paper: "
        "none, footnote 4).",
    )
    packing: bool = Field(
        default=False,
        description="Put whole texts together into rows of up to max_sequence_tokens, without "
        "attention across them; batch_size then counts rows.",
    )
    lora_rank: int = Field(
        default=0, ge=0, le=1024, description="Rank of LoRA weights; 0 trains all weights (paper)."
    )
    lora_alpha: int = Field(
        default=32, ge=1, le=4096, description="LoRA updates are scaled by this over the rank."
    )
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="Of what LoRA layers read.")
    dev_fraction: float = Field(
        default=0.1, ge=0, le=0.5, description="Share of documents held out for dev perplexity."
    )
    eval_every_steps: int = Field(
        default=500, ge=1, description="Steps between checkpoints and dev perplexity (App. B: 500)."
    )
    checkpoint_metric: CheckpointMetric = Field(
        default="dev_loss",
        description="The checkpoint that is best by it is chosen, of equals the earliest: loss on "
        "held-out texts of C*, on the same without calls (App. B: perplexity), or share of "
        "held-out calls that are written exactly.",
    )
    early_stopping_patience: int | None = Field(
        default=None,
        ge=1,
        description="Evaluations without a better checkpoint that end the training; none: never.",
    )
    seed: int = Field(default=0, ge=0, description="Of the split and the order.")
