"""What a device gives: `python -m tests.bench.device --model FOLDER --texts FILE --out FILE`.

Uses toolformer_core alone, so that it runs where only torch and transformers are. The figures are
those that `toolformer plan --device FILE` reads; each part writes them anew, so that what was
measured before a time limit is there.

annotate  seconds, calls and bytes of a document per tool, with the demo's settings, whole shards
          until the time is up; what is done once per model or tool is not timed
read      tokens per second of one forward pass over texts, as scoring makes them
decode    tokens per second of rows that decode together without calls
finetune  tokens per second of training steps
evaluate  items per second that go on with half a text, with and without calls

FILE of texts holds rows with text, url and date.
"""

import argparse
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from toolformer_core.benchmarks.base import Benchmark, BenchmarkItem
from toolformer_core.calibration.calibrate import is_kept
from toolformer_core.calibration.trials import Annotator, Tried
from toolformer_core.calling.caller import CallAnswer, Caller, ToolCaller
from toolformer_core.config.finetune import FinetuneConfig
from toolformer_core.config.pipeline import DecodeConfig, ExecuteConfig
from toolformer_core.config.presets import demo
from toolformer_core.decoding.decode import Decoder
from toolformer_core.evaluate import Contestant, arm_decoding, evaluate_items
from toolformer_core.finetune import finetune_model
from toolformer_core.lm import LossRequest
from toolformer_core.models import ModelRef, folder_digest
from toolformer_core.records import AugmentedDocument, Document, digest
from toolformer_core.tools.base import NO_DOCUMENT, Tool
from toolformer_core.tools.calculator import Calculator
from toolformer_core.tools.calendar import Calendar
from toolformer_core.training.examples import training_example
from toolformer_core.transformers_lm.adapter import HFLanguageModel
from toolformer_core.transformers_lm.arithmetic import taken_dtype
from toolformer_core.transformers_lm.loading import load_model

Figures = dict[str, Any]  # Any: numbers, and figures of figures

NUM_WARM_UP = 8  # documents
ROW_TOKENS = 256  # of the demo's fine-tuning


def read_texts(path: Path) -> list[Document]:
    """The rows of a JSONL file as documents."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        Document(
            document_id=digest(row["text"], row["url"], row["date"]),
            text=row["text"],
            url=row["url"],
            date=row["date"],
            source="texts",
        )
        for row in rows
    ]


class CountingCaller:
    """A caller that counts its calls and their seconds."""

    def __init__(self, tool: Tool) -> None:
        self.tool = tool
        self.num_calls = 0
        self.seconds = 0.0
        self._own = ToolCaller(tool, ExecuteConfig(), max_calls=4)

    def answers(self, calls: Sequence[Any]) -> list[CallAnswer]:  # Any: as in calling.py
        """The tool's answers."""
        started = time.perf_counter()
        found = self._own.answers(calls)
        self.seconds += time.perf_counter() - started
        self.num_calls += len(calls)
        return found


def built(name: str, texts: Sequence[Document], folder: Path) -> Tool:
    """The tool; WikiSearch finds the texts themselves, and needs tantivy."""
    if name == "Calculator":
        return Calculator()
    if name == "Calendar":
        return Calendar()
    from toolformer_core.tools.search_index import SearchIndex, build_index, passage_of
    from toolformer_core.tools.wiki_search import WikiSearch

    build_index((passage_of(text) for text in texts if text.url), folder)
    return WikiSearch(SearchIndex(folder), demo().tools.wiki_search.max_snippet_chars)


def annotate(
    lm: HFLanguageModel, tool: Tool, texts: Sequence[Document], shard: int, seconds: float
) -> Figures:
    """Whole shards until the time is up."""
    config, caller = demo(), CountingCaller(tool)
    sample = config.of_tool(tool.name).sample
    annotator = Annotator(
        lm=lm,
        caller=caller,
        sample=sample,
        score=config.of_tool(tool.name).score,
        documents_per_shard=shard,
    )
    annotator.run(texts[:NUM_WARM_UP])
    caller.num_calls, caller.seconds = 0, 0.0
    tried, started = list[Tried](), time.perf_counter()
    for first in range(NUM_WARM_UP, len(texts), shard):
        tried.append(annotator.run(texts[first : first + shard]))
        if time.perf_counter() - started > seconds:
            break
    documents = sum(part.num_documents for part in tried)
    threshold = config.of_tool(tool.name).filtering_threshold
    trials = [trial for part in tried for trial in part.trials]
    totals = {
        "seconds_reading": sum(part.seconds_reading for part in tried),
        "seconds_sampling": sum(part.seconds_sampling for part in tried),
        "seconds_scoring": sum(part.seconds_scoring for part in tried) - caller.seconds,
        "seconds_calling": caller.seconds,
        "samples": len(trials),
        "calls": caller.num_calls,
        "kept": sum(is_kept(trial, threshold) for trial in trials),
        "bytes": sum(part.num_bytes for part in tried),
    }
    return {
        "documents": documents,
        "max_positions": sample.max_positions,
        "samples_per_position": sample.samples_per_position,
        **{f"{name}_per_document": total / documents for name, total in totals.items()},
    }


@dataclass(frozen=True, slots=True)
class Bench:
    """The model, the texts, and how much is measured."""

    base: ModelRef
    lm: HFLanguageModel
    texts: Sequence[Document]
    arguments: argparse.Namespace

    def parts(self) -> Iterator[tuple[str, Callable[[], Figures]]]:
        """Name and measurement of each part, the short ones first."""
        yield "read", self.read
        yield "decode", self.decode
        yield "evaluate", self.evaluate
        yield "finetune", self.finetune
        for name in self.arguments.tools.split(","):
            yield f"annotate {name}", functools.partial(self.annotate, name)

    def read(self) -> Figures:
        """The texts as scoring reads them: each whole, five of its tokens scored."""
        texts = [self.lm.tokenize(text.text) for text in self.texts]
        requests = [
            LossRequest(
                prefix="", tokens=t, first=max(0, len(t.token_ids) - 5), last=len(t.token_ids)
            )
            for t in texts
        ]
        self.lm.token_losses(requests)
        started = time.perf_counter()
        self.lm.token_losses(requests)
        seconds = time.perf_counter() - started
        num_tokens = sum(len(t.token_ids) for t in texts)
        return {"tokens_per_document": num_tokens / len(texts), "per_second": num_tokens / seconds}

    def decode(self) -> Figures:
        """Rows that decode together and end early or at 64 tokens."""
        decoder = Decoder(self.lm, {}, DecodeConfig(call_top_k=0, max_new_tokens=64))
        prompts = [_half(text) for text in self._rows()]
        decoder.generate(prompts[:NUM_WARM_UP], [NO_DOCUMENT] * len(prompts[:NUM_WARM_UP]))
        started = time.perf_counter()
        found = decoder.generate(prompts, [NO_DOCUMENT] * len(prompts))
        seconds = time.perf_counter() - started
        num_tokens = sum(len(generation.token_ids) for generation in found)
        return {"rows": len(prompts), "per_second": num_tokens / seconds}

    def evaluate(self) -> Figures:
        """Arms disabled and on, with the demo's decoding."""
        tools: dict[str, Caller] = {
            tool.name: ToolCaller(tool, ExecuteConfig()) for tool in (Calculator(), Calendar())
        }
        items = tuple(
            BenchmarkItem(item_id=text.document_id, prompt=_half(text), gold=(), date=text.date)
            for text in self._rows()
        )
        decode, figures = demo().evaluate.decode, Figures()
        for arm in ("disabled", "on"):
            contestant = Contestant(
                arm=arm,
                model=self.base.digest,
                lm=self.lm,
                tools=tools if arm == "on" else {},
                decode=arm_decoding(arm, decode, demo().evaluate.few_shot_top_k),
                context_tokens=1024,
            )
            benchmark = Benchmark(name="texts", metric="none", items=items, is_right=_never)
            started = time.perf_counter()
            found = evaluate_items(contestant, benchmark)
            figures[arm] = {
                "items": len(items),
                "per_second": len(items) / (time.perf_counter() - started),
                "tokens_per_item": sum(item.num_tokens for item in found) / len(found),
                "calls_per_item": sum(item.num_calls for item in found) / len(found),
            }
        return figures

    def finetune(self) -> Figures:
        """Steps of packed rows; the first, in which memory is taken, is not timed."""
        rows, steps = self.arguments.batch, self.arguments.steps
        config = FinetuneConfig(
            num_steps=steps,
            batch_size=rows,
            micro_batch_size=rows,
            max_sequence_tokens=ROW_TOKENS,
            packing=True,
            dev_fraction=0.0,
            eval_every_steps=steps,
        )
        plain = [
            AugmentedDocument(
                document_id=text.document_id,
                source=text.source,
                original_text=text.text,
                augmented_text=text.text,
                calls=(),
            )
            for text in self.texts
        ]
        at: list[float] = []
        with tempfile.TemporaryDirectory() as folder:
            finetune_model(
                *(plain, self.base, config, Path(folder), self.arguments.device),
                report=lambda step, _: at.append(time.perf_counter()),
            )
        seconds = (at[steps - 1] - at[0]) / (steps - 1)
        lengths = [len(training_example(text, self.lm, config).input_ids) for text in plain]
        filled = _filled(lengths)
        return {
            "row_tokens": ROW_TOKENS,
            "rows": rows,
            "share_filled": filled,
            "seconds_per_step": seconds,
            "per_second": rows * ROW_TOKENS * filled / seconds,
        }

    def annotate(self, name: str) -> Figures:
        """One tool."""
        with tempfile.TemporaryDirectory() as folder:
            tool = built(name, self.texts, Path(folder) / "index")
            return annotate(self.lm, tool, self.texts, self.arguments.shard, self.arguments.seconds)

    def _rows(self) -> Sequence[Document]:
        return self.texts[: self.arguments.rows]


def _never(answer: str, gold: tuple[str, ...]) -> bool:
    return False


def _half(text: Document) -> str:
    """The first half of a text, a prompt."""
    return text.text[: len(text.text) // 2].rstrip() or text.text


def _filled(lengths: Sequence[int]) -> float:
    """Which share of packed rows is text: a row ends before the first text that does not fit."""
    num_rows, room = 1, ROW_TOKENS
    for length in lengths:
        if length > room:
            num_rows, room = num_rows + 1, ROW_TOKENS
        room -= length
    return sum(lengths) / (num_rows * ROW_TOKENS)


def hardware(device: str) -> str:
    """What the device is called."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads, {torch.backends.cpu.get_cpu_capability()}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--model", type=Path, required=True, help="transformers folder")
    parser.add_argument("--texts", type=Path, required=True, help="JSONL")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float32"])
    parser.add_argument("--tools", default="Calculator,Calendar,WikiSearch")
    parser.add_argument("--token-budget", type=int, default=65_536)
    parser.add_argument("--documents", type=int, default=100_000, help="most texts")
    parser.add_argument("--shard", type=int, default=256, help="documents annotated together")
    parser.add_argument("--seconds", type=float, default=50.0, help="of annotation, per tool")
    parser.add_argument("--rows", type=int, default=512, help="rows that decode together")
    parser.add_argument("--batch", type=int, default=64, help="rows of a training step")
    parser.add_argument("--steps", type=int, default=20, help="training steps")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # untyped there
    dtype = taken_dtype(arguments.dtype, arguments.device)
    base = ModelRef(
        path=str(arguments.model), digest=folder_digest(arguments.model, dtype), dtype=dtype
    )
    started = time.perf_counter()
    lm = load_model(base, arguments.device, arguments.token_budget)
    figures: Figures = {
        "hardware": hardware(arguments.device),
        "dtype": dtype,
        "software": {"torch": torch.__version__, "transformers": transformers.__version__},
        "num_parameters": sum(p.numel() for p in lm.model.parameters()),
        "token_budget": arguments.token_budget,
        "seconds_loading": time.perf_counter() - started,
    }
    bench = Bench(base, lm, read_texts(arguments.texts)[: arguments.documents], arguments)
    for name, measure in bench.parts():
        began = time.perf_counter()
        part, _, tool = name.partition(" ")
        found = measure()
        figures[part] = {**figures.get(part, {}), tool: found} if tool else found
        now = time.perf_counter()
        print(f"{name}: {now - began:.0f} s, {now - started:.0f} s in all", file=sys.stderr)
        arguments.out.write_text(json.dumps(figures, indent=1))
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
