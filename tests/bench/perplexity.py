"""Perplexity: `toolformer evaluate` and lm-evaluation-harness's own model on the same texts.

Both read every text of a file in windows of the same size after the same start token, in float32:
the harness through a task of the user's own, ours as the benchmark wikitext. Per token, per word
and per byte, each text's likelihood summed over all texts, and how fast each was. Once each before
the clock starts, on the first text alone.
"""

import argparse
import math
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import transformers
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from rich.console import Console
from rich.table import Table

from flows.starting import environment as settings
from toolformer_core.benchmarks.base import Benchmark
from toolformer_core.benchmarks.registry import load_benchmark
from toolformer_core.config.base import ModelConfig
from toolformer_core.config.pipeline import DecodeConfig
from toolformer_core.evaluate import Contestant, evaluate_items, score_arms
from toolformer_core.transformers_lm.adapter import HFLanguageModel
from toolformer_core.transformers_lm.loading import load_model, resolve_model

Figures = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--texts", required=True, help="JSONL with a field text, may be .gz")
    parser.add_argument("--model", default=ModelConfig().name_or_path, help="folder or GGUF file")
    parser.add_argument("--context-tokens", type=int, default=1024)
    parser.add_argument("--limit", type=int, help="texts; none: all")
    parser.add_argument("--batch-size", type=int, default=2, help="windows, of the harness")


def main(arguments: argparse.Namespace) -> Figures:
    """Print the table; its rows."""
    settings.apply_defaults()
    transformers.logging.set_verbosity_error()
    config = ModelConfig(name_or_path=arguments.model, dtype="float32")
    reference = resolve_model(config, settings.home(), "cpu")
    lm = load_model(reference, "cpu", 4096)
    texts = load_benchmark(f"wikitext={arguments.texts}", arguments.limit, 0)
    figures = {
        "harness": harness(reference.path, lm, texts, arguments),
        "ours": ours(lm, texts, arguments.context_tokens),
    }
    title = f"{arguments.model}, windows of {arguments.context_tokens} tokens"
    table = Table("", *figures["ours"], title=title, title_justify="left")
    for name, found in figures.items():
        table.add_row(name, *(f"{value:.6g}" for value in found.values()))
    Console(width=110).print(table)
    return figures


def ours(lm: HFLanguageModel, texts: Benchmark, context_tokens: int) -> Figures:
    """As arm base of the evaluation has it."""
    contestant = Contestant(
        arm="base",
        model="",
        lm=lm,
        tools={},
        decode=DecodeConfig(),
        context_tokens=context_tokens,
    )
    evaluate_items(contestant, replace(texts, items=texts.items[:1]))
    started = time.perf_counter()
    items = evaluate_items(contestant, texts)
    seconds = time.perf_counter() - started
    [score] = score_arms(items, texts.metric, texts.kind, 0)
    num_tokens = sum(item.weight for item in items)
    nats = math.log(score.value) * num_tokens
    words = sum(len(re.split(r"\s+", item.prompt)) for item in items)
    num_bytes = sum(len(item.prompt.encode()) for item in items)
    return {
        "tokens": num_tokens,
        "token perplexity": score.value,
        "word perplexity": math.exp(nats / words),
        "byte perplexity": math.exp(nats / num_bytes),
        "tokens/s": num_tokens / seconds,
    }


class TimedLM(HFLM):  # type: ignore[misc]  # lm_eval has no types
    """The harness's model, and what it spent on likelihoods."""

    seconds = 0.0

    def loglikelihood_rolling(self, *arguments: Any, **options: Any) -> list[float]:  # Any: its own
        """As the harness has it."""
        started = time.perf_counter()
        found: list[float] = super().loglikelihood_rolling(*arguments, **options)
        self.seconds = time.perf_counter() - started
        return found


def harness(
    folder: str, lm: HFLanguageModel, texts: Benchmark, arguments: argparse.Namespace
) -> Figures:
    """The harness on the same file and model folder, with window and start token of ours."""
    model = TimedLM(
        pretrained=folder,
        dtype="float32",
        device="cpu",
        max_length=arguments.context_tokens,
        prefix_token_id=lm.document_start_id,
        batch_size=arguments.batch_size,
    )
    task = {
        "task": "texts",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(Path(arguments.texts).absolute())}},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}],
    }
    for limit in (1, arguments.limit):
        evaluated = simple_evaluate(model=model, tasks=[task], limit=limit, bootstrap_iters=0)
    found = evaluated["results"]["texts"]
    num_bytes = sum(len(item.prompt.encode()) for item in texts.items)
    num_tokens = sum(len(lm.encode(item.prompt)) for item in texts.items)
    nats = math.log(found["byte_perplexity,none"]) * num_bytes
    return {
        "tokens": num_tokens,
        "token perplexity": math.exp(nats / num_tokens),
        "word perplexity": found["word_perplexity,none"],
        "byte perplexity": found["byte_perplexity,none"],
        "tokens/s": num_tokens / model.seconds,
    }
