"""Measurements: `python -m tests.bench WHAT [--corpus PATH]`; figures go to .bench/.

annotate: sampling and filtering of Calculator calls, three ways

    literal  one `generate` per position with its cache, three full forward passes per call, batch 1
    batched  one padded `generate` per document, losses in batches; what one writes by hand
    ours     the product

Each way runs in a process of its own (peak memory), after one document to warm up, on the same
documents, model, seeds and settings, without the look-ahead guard, so that all three have the same
work. Ours then scores the calls that the literal version found, and the kept sets are compared.

memory: peak memory of `toolformer annotate` on a corpus and on one ten times as large.
search, translation: the tools against other ways; faults: tools that ail; kills: SIGKILL, resume;
serve: many clients at once; finetune: a training step; perplexity: against the harness; index: ten
million calls in DuckDB; overhead: what Prefect adds; runners: threads, Dask and Ray; see these
modules. device: what a GPU gives, a module of its own.

Each prints first whether model.dtype=auto takes the faster arithmetic of this CPU.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from flows.starting import environment as settings
from tests.bench import (
    decode,
    faults,
    finetune,
    index,
    kills,
    overhead,
    perplexity,
    runners,
    search,
    serve,
    translation,
)
from tests.bench.baselines import Found, TokenCounter, annotate
from toolformer_core.calling.caller import ToolCaller
from toolformer_core.config.base import ModelConfig
from toolformer_core.config.pipeline import CorpusConfig, ExecuteConfig, SampleConfig, ScoreConfig
from toolformer_core.config.tools import WIKIPEDIA_SAMPLE
from toolformer_core.corpus import read_corpus
from toolformer_core.execute import execute_calls
from toolformer_core.filter import score_calls
from toolformer_core.lm import LossRequest
from toolformer_core.losses import weighted_loss
from toolformer_core.records import Document, ExecutedCall, Outcome, ScoredCall
from toolformer_core.sample import sample_calls
from toolformer_core.tools.base import context_of
from toolformer_core.tools.calculator import Calculator
from toolformer_core.transformers_lm.adapter import HFLanguageModel
from toolformer_core.transformers_lm.arithmetic import taken_dtype
from toolformer_core.transformers_lm.loading import load_model, resolve_model

Figures = dict[str, Any]  # Any: numbers, and lists of calls

THRESHOLD = 0.5
"""tau_f of the paper for Calculator, and what ours prunes below."""

SETTINGS = ((5, 5), (20, 10))
"""Positions and samples per position (paper, Appendix A)."""


def documents_of(corpus: str, count: int) -> list[Document]:
    """A fixed sample of the corpus."""
    config = CorpusConfig(
        sources=(corpus,), max_documents=count, sample_seed=7, max_document_chars=2000
    )
    return [row for row in read_corpus(config) if isinstance(row, Document)][:count]


def sample_config(positions: int, samples: int) -> SampleConfig:
    """The paper's sampling for Calculator, temperature 1."""
    return SampleConfig(
        sampling_threshold=0.0,
        max_positions=positions,
        samples_per_position=samples,
        look_ahead_guard=False,
        prune_below=THRESHOLD,
        seed=7,
    )


def run_ours(lm: HFLanguageModel, texts: Sequence[Document], config: SampleConfig) -> Figures:
    """Steps 1 to 3 with the product, and how its scoring uses the machine."""
    by_id, tool = {text.document_id: text for text in texts}, Calculator()
    started = time.perf_counter()
    calls, _ = sample_calls(texts, lm, tool, config, num_scored_tokens=5)
    executed = execute_calls(calls, by_id, ToolCaller(tool, ExecuteConfig()))
    sampled = time.perf_counter()
    scored = score(lm, executed, by_id)
    ended = time.perf_counter()
    return {
        "seconds": ended - started,
        "seconds_scoring": ended - sampled,
        "samples": len(calls),
        "margins": [[c.document_id, c.token_index, c.argument, c.loss_reduction] for c in scored],
    }


def score(
    lm: HFLanguageModel, executed: Sequence[ExecutedCall], by_id: dict[str, Document]
) -> list[ScoredCall]:
    """Step 3 with the bench's threshold."""
    return score_calls(executed, by_id, lm, Calculator(), ScoreConfig(), prune_below=THRESHOLD)


def run_baseline(
    lm: HFLanguageModel, texts: Sequence[Document], config: SampleConfig, *, is_batched: bool
) -> Figures:
    """Steps 1 to 3 with a baseline."""
    started = time.perf_counter()
    found: Found = annotate(lm, texts, Calculator(), config, is_batched=is_batched)
    return {
        "seconds": time.perf_counter() - started,
        "samples": found.num_samples,
        "margins": [[*call, margin] for call, margin in found.margins.items()],
    }


def one(arguments: argparse.Namespace) -> Figures:
    """One way, measured in this process."""
    lm = load_model(resolve_model(ModelConfig(), settings.home(), "cpu"), "cpu", 4096)
    texts = documents_of(arguments.corpus, arguments.documents)
    config = sample_config(arguments.positions, arguments.samples)
    way = arguments.way

    def work(part: Sequence[Document]) -> Figures:
        if way == "ours":
            return run_ours(lm, part, config)
        return run_baseline(lm, part, config, is_batched=way == "batched")

    work(texts[:1])
    counter = TokenCounter(lm.model)
    figures = work(texts)
    figures |= {"documents": len(texts), "tokens": counter.tokens, "passes": counter.passes}
    counter.close()
    figures["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if way == "ours":
        figures |= scoring_efficiency(lm, texts, config)
        if arguments.calls:
            figures["same_calls"] = compare(lm, texts, json.loads(arguments.calls.read_text()))
    return figures


def scoring_efficiency(
    lm: HFLanguageModel, texts: Sequence[Document], config: SampleConfig
) -> Figures:
    """Share of scoring time in matrix products, and its rate as a fraction of this machine's."""
    by_id, tool = {text.document_id: text for text in texts}, Calculator()
    calls, _ = sample_calls(texts, lm, tool, config, num_scored_tokens=5)
    executed = execute_calls(calls, by_id, ToolCaller(tool, ExecuteConfig()))
    counter = TokenCounter(lm.model)
    started = time.perf_counter()
    scored = score(lm, executed, by_id)
    seconds = time.perf_counter() - started
    counter.close()
    body = sum(
        p.numel() for n, p in lm.model.named_parameters() if p.dim() == 2 and "embed" not in n
    )
    head = lm.model.get_output_embeddings().weight.numel()
    num_scored = 5 * len(scored)  # each at least once through the vocabulary head
    products = 2 * (body * counter.tokens + head * num_scored)
    rate, peak = products / seconds, matmul_rate(lm.model.dtype)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        score(lm, executed, by_id)
    events = profile.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    in_products = sum(e.self_cpu_time_total for e in events if e.key in ("aten::mm", "aten::addmm"))
    return {
        "matmul_gflops": peak / 1e9,
        "scoring_gflops": rate / 1e9,
        "scoring_fraction_of_matmul_rate": rate / peak,
        "scoring_share_in_matrix_products": in_products / total,
        "scoring_tokens_per_second": counter.tokens / seconds,
    }


def matmul_rate(dtype: torch.dtype, size: int = 2048, seconds: float = math.inf) -> float:
    """Operations per second of a matrix product, the best of ten or of so many seconds."""
    a, b = (torch.randn(size, size, dtype=dtype) for _ in range(2))
    best, spent = math.inf, 0.0
    for _ in range(10):
        started = time.perf_counter()
        torch.matmul(a, b)
        best = min(best, took := time.perf_counter() - started)
        if (spent := spent + took) > seconds:
            break
    return 2 * size**3 / best


def check_arithmetic() -> str:
    """What model.dtype=auto takes here, and whether that is the faster one."""
    rates = {
        name: matmul_rate(getattr(torch, name), size=256, seconds=0.1) / 1e9
        for name in ("bfloat16", "float32")
    }
    taken = taken_dtype("auto", "cpu")
    faster = max(rates, key=lambda name: rates[name])
    told = ", ".join(f"{name} {rate:.1f} GFLOP/s" for name, rate in rates.items())
    if faster == taken:
        return f"model.dtype=auto takes {taken}, as it should: {told}"
    return f"WARNING: model.dtype=auto takes {taken}, but {faster} is the faster here: {told}"


def compare(
    lm: HFLanguageModel, texts: Sequence[Document], literal: Sequence[Sequence[Any]]
) -> Figures:
    """The literal version's calls scored by ours: kept sets and margins side by side."""
    by_id, tool = {text.document_id: text for text in texts}, Calculator()
    expected = {(d, i, argument): margin for d, i, argument, margin in literal if d in by_id}
    executed = [_executed(lm, by_id[d], i, argument, tool) for d, i, argument in expected]
    found = {(c.document_id, c.token_index, c.argument): c for c in score(lm, executed, by_id)}
    kept = {call for call, margin in expected.items() if margin >= THRESHOLD}
    ours = {call for call, c in found.items() if c.loss_reduction >= THRESHOLD}
    exact = [call for call, c in found.items() if c.loss_with_empty_result is not None]
    return {
        "calls": len(expected),
        "kept_literal": len(kept),
        "kept_ours": len(ours),
        "kept_differently": [
            [*call, expected[call], found[call].loss_reduction] for call in kept ^ ours
        ],
        "largest_difference": max(
            (abs(expected[call] - found[call].loss_reduction) for call in exact), default=0.0
        ),
    }


def _executed(
    lm: HFLanguageModel, document: Document, token_index: int, argument: str, tool: Calculator
) -> ExecutedCall:
    tokens = lm.tokenize(document.text)
    count = len(tokens.token_ids)
    last = min(token_index + 5, count)
    request = LossRequest(prefix="", tokens=tokens, first=token_index, last=last)
    return ExecutedCall(
        candidate_id=f"{document.document_id}-{token_index}-{argument}",
        document_id=document.document_id,
        tool=tool.name,
        char_offset=tokens.char_offsets[token_index],
        token_index=token_index,
        window_start=0,
        window_end=count,
        argument=argument,
        loss_without_call=weighted_loss(lm.token_losses([request])[0], 5),
        tool_version=tool.version,
        outcome=Outcome.OK,
        outcome_reason="",
        result=tool.call(argument, context_of(document)),
        latency_seconds=0.0,
    )


def in_child(
    arguments: argparse.Namespace, way: str, count: int, calls: Path | None = None
) -> Figures:
    """One way in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "tests.bench", "--way", way, "--out", str(out)]
        command += ["--corpus", arguments.corpus, "--documents", str(count)]
        command += ["--positions", str(arguments.positions), "--samples", str(arguments.samples)]
        command += ["--calls", str(calls)] if calls else []
        subprocess.run(command, check=True)
        figures: Figures = json.loads(out.read_text())
    return figures


def three_ways(arguments: argparse.Namespace, count: int) -> Figures:
    """All ways on the first documents, and ours on all; the literal version's calls go to ours."""
    figures = {way: in_child(arguments, way, count) for way in ("literal", "batched")}
    with tempfile.TemporaryDirectory() as folder:
        calls = Path(folder) / "calls.json"
        calls.write_text(json.dumps(figures["literal"]["margins"]))
        figures["ours"] = in_child(arguments, "ours", count, calls)
    if count < arguments.documents:
        figures["ours, all"] = in_child(arguments, "ours", arguments.documents)
    return figures


def show(figures: Figures, title: str) -> None:
    """The table, and what stands beside it."""
    table = Table(title=title, title_justify="left")
    for name in ("", "documents", "documents/s", "samples/s", "forward tokens/document", "peak MB"):
        table.add_column(name, justify="right" if name else "left")
    rates = {way: f["documents"] / f["seconds"] for way, f in figures.items()}
    for way, f in figures.items():
        per_second, tokens = f["samples"] / f["seconds"], f["tokens"] / f["documents"]
        row = [way, str(f["documents"]), f"{rates[way]:.3f}", f"{per_second:.1f}", f"{tokens:.0f}"]
        table.add_row(*row, f"{f['peak_rss_mb']:.0f}")
    console = Console(width=110)
    console.print(table)
    ours = figures["ours"]
    for way in ("literal", "batched"):
        console.print(
            f"ours / {way}: {rates['ours'] / rates[way]:.1f} times the documents per second, "
            f"{ours['tokens'] / figures[way]['tokens']:.3f} of the forward tokens"
        )
    for name, value in ours.items():
        if name.startswith(("scoring", "matmul")):
            console.print(f"{name}: {value:.2f}")
    console.print(f"literal version's calls, scored by ours: {ours['same_calls']}")


def annotate_bench(arguments: argparse.Namespace) -> None:
    """Both settings of the paper: 5 positions x 5 samples, and 20 x 10."""
    for (positions, samples), count in zip(SETTINGS, arguments.baseline_documents, strict=True):
        arguments.positions, arguments.samples = positions, samples
        figures = three_ways(arguments, count)
        name = f"{positions}x{samples}"
        show(figures, f"Calculator, {name}, on {arguments.corpus}")
        store(f"annotate-{name}", figures)


def memory_bench(arguments: argparse.Namespace) -> None:
    """Peak memory of annotation on n and on 10 n documents."""
    figures = {count: annotated_memory(arguments.corpus, count) for count in arguments.sizes}
    for count, megabytes in figures.items():
        print(f"{count} documents: {megabytes:.0f} MB at most")
    small, large = figures.values()
    print(f"ratio {large / small:.3f}")
    store("memory", {str(count): megabytes for count, megabytes in figures.items()})


def annotated_memory(corpus: str, num_documents: int) -> float:
    """Peak resident memory, MB, of one annotation from nothing."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", _ANNOTATE, "annotate", "--corpus", corpus]
        command += ["--tools", "Calculator", "--out", f"{folder}/run"]
        for setting in (f"corpus.max_documents={num_documents}", "corpus.sample_seed=7"):
            command += ["--set", setting]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        return float(run.stderr.rsplit("peak ", 1)[1])


_ANNOTATE = """
import resource, sys
from flows.cli import app
try:
    app()
finally:
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, file=sys.stderr)
"""


def store(name: str, figures: Figures) -> None:
    """Keep the figures in .bench/."""
    folder = Path(".bench")
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(figures, indent=1))


def main() -> None:
    """Run, print and store."""
    tools = {
        "decode": decode,
        "faults": faults,
        "finetune": finetune,
        "index": index,
        "kills": kills,
        "overhead": overhead,
        "perplexity": perplexity,
        "runners": runners,
        "search": search,
        "serve": serve,
        "translation": translation,
    }
    if "--way" not in sys.argv:
        print(check_arithmetic(), flush=True)
    if sys.argv[1:2] and sys.argv[1] in tools:
        module = tools[sys.argv[1]]
        parser = argparse.ArgumentParser(description=module.__doc__.splitlines()[0])
        module.add_arguments(parser)
        store(sys.argv[1], module.main(parser.parse_args(sys.argv[2:])))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", default="annotate", choices=["annotate", "memory"])
    parser.add_argument("--corpus", default=WIKIPEDIA_SAMPLE, help="as corpus.sources")
    parser.add_argument("--documents", type=int, default=32)
    parser.add_argument(
        "--baseline-documents",
        type=int,
        nargs=2,
        default=[32, 8],
        help="of the slow versions, for 5 x 5 and for 20 x 10",
    )
    parser.add_argument("--sizes", type=int, nargs=2, default=[200, 2000], help="of memory")
    for hidden in ("--way", "--out", "--calls"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    for hidden in ("--positions", "--samples"):
        parser.add_argument(hidden, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    settings.apply_defaults()
    if arguments.way:
        arguments.calls = Path(arguments.calls) if arguments.calls else None
        Path(arguments.out).write_text(json.dumps(one(arguments)))
    elif arguments.what == "memory":
        memory_bench(arguments)
    else:
        annotate_bench(arguments)


if __name__ == "__main__":
    main()
