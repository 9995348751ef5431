"""Decoding with calls: token by token against a slow reference, and its speed.

identical   tokens, calls and taken-back calls of a batch of 16 and of each row alone, float32,
            against a loop that reads the whole row anew for every token
throughput  tokens per second with a tool that answers at once, against transformers' `generate` on
            the same batch, at as many tokens; tokens of calls that were taken back do not count
waiting     when the rows without a call are done: half of the rows ask a tool that takes 500 ms,
            or one that answers at once

The prompts show what a call looks like, so that the base model writes some. A row that would end
early goes on: neither way may end before the other.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table

from flows.starting import environment as settings
from toolformer_core.calling.caller import CallAnswer, ToolCaller
from toolformer_core.config.base import ModelConfig
from toolformer_core.config.pipeline import DecodeConfig, ExecuteConfig
from toolformer_core.decoding.decode import Decoding
from toolformer_core.decoding.events import DecodeRequest, Finished
from toolformer_core.errors import NotationError
from toolformer_core.notation import parse_call
from toolformer_core.records import Outcome
from toolformer_core.tools.base import NO_DOCUMENT
from toolformer_core.tools.calculator import Calculator
from toolformer_core.transformers_lm.adapter import HFLanguageModel
from toolformer_core.transformers_lm.loading import load_model, resolve_model

Figures = dict[str, Any]

SHOWN = (
    "3 + 4 is [Calculator(3 + 4) -> 7] 7.\n12 * 5 is [Calculator(12 * 5) -> 60] 60.\n"
    "90 / 4 is [Calculator(90 / 4) -> 22.50] 22.50.\n"
)


def prompts(count: int) -> list[str]:
    """Sums, each behind the same examples."""
    return [f"{SHOWN}{17 + 3 * k} + {5 + 7 * k} is" for k in range(count)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)


def main(arguments: argparse.Namespace) -> Figures:
    """Print the tables; the figures."""
    transformers.logging.set_verbosity_error()
    figures: Figures = {"identical": identical(arguments.rows)}
    for dtype in ("float32", "bfloat16"):
        lm = load(dtype)
        figures[f"throughput {dtype}"] = throughput(lm, arguments)
        figures[f"waiting {dtype}"] = waiting(lm, arguments)
    table = Table(title="Decoding", title_justify="left")
    for name in ("what", "figures"):
        table.add_column(name, overflow="fold")
    for name, found in figures.items():
        table.add_row(name, "\n".join(f"{key}: {value}" for key, value in found.items()))
    Console(width=110).print(table)
    return figures


def load(dtype: str) -> HFLanguageModel:
    """SmolLM2."""
    return load_model(
        resolve_model(ModelConfig(dtype=dtype), settings.home(), "cpu"), "cpu", 16_384
    )


class Caller:
    """The calculator, so many seconds later."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.tool = Calculator()
        self._own = ToolCaller(self.tool, ExecuteConfig())
        self._seconds = seconds

    def answers(self, calls: Sequence[Any]) -> list[CallAnswer]:
        """The calculator's answers."""
        time.sleep(self._seconds)
        return self._own.answers(calls)


def identical(count: int, num_tokens: int = 64) -> Figures:
    """How many rows are token-identical to the reference; rows may make 0, 1, 2, 3, 0 ... calls."""
    lm = load("float32")
    texts = prompts(count)
    configs = [
        DecodeConfig(call_top_k=3, max_calls=k % 4, max_new_tokens=num_tokens) for k in range(count)
    ]
    expected = [reference(lm, *row) for row in zip(texts, configs, strict=True)]
    _, finished = run(lm, texts, configs, Caller())
    together = {event.ticket: event.generation for _, event in finished}
    alone = [
        run(lm, [text], [config], Caller())[1] for text, config in zip(texts, configs, strict=True)
    ]
    return {
        "rows": count,
        "identical in a batch": sum(together[k].token_ids == ids for k, ids in enumerate(expected)),
        "identical alone": sum(
            event.generation.token_ids == ids
            for [(_, event)], ids in zip(alone, expected, strict=True)
        ),
        "calls per row": [
            sum(c.outcome is Outcome.OK for c in together[k].calls) for k in range(count)
        ],
        "taken back": sum(
            g.num_malformed + sum(c.outcome is not Outcome.OK for c in g.calls)
            for g in together.values()
        ),
    }


@torch.inference_mode()
def reference(lm: HFLanguageModel, text: str, config: DecodeConfig) -> tuple[int, ...]:
    """The completion's tokens; every token from a pass over the whole row, without a cache."""
    before = [lm.document_start_id, *lm.encode(text)]
    ids: list[int] = []
    num_chosen = num_opened = 0

    def ranked(written: Sequence[int]) -> list[int]:
        row = torch.tensor([[*before, *ids, *written]])
        logits_V = lm.model(input_ids=row, use_cache=False).logits[0, -1]
        return [int(token) for token in logits_V.argsort(descending=True)]

    while num_chosen < config.max_new_tokens:
        order = ranked([])
        starts = [token for token in order[: config.call_top_k] if token in lm.start_ids]
        plain = next(token for token in order if token not in lm.start_ids)
        if starts and num_opened < config.max_calls:
            num_opened += 1
            written = [starts[0]]
            while not ended(lm, written, config.max_new_tokens - num_chosen):
                written.append(ranked(written)[0])
            result = answer(lm, written)
            if result is not None:
                num_chosen += len(written)
                ids += [*written, *lm.encode(f" {result}]")]
                continue
        if plain in (lm.tokenizer.eos_token_id, lm.document_start_id):
            break
        ids.append(plain)
        num_chosen += 1
    return tuple(ids)


def ended(lm: HFLanguageModel, written: Sequence[int], limit: int) -> bool:
    """Whether a call is at its arrow, or can be none."""
    text = lm.tokenizer.decode(written)
    return text.endswith(" ->") or "]" in text or len(written) >= min(limit, 48)


def answer(lm: HFLanguageModel, written: Sequence[int]) -> str | None:
    """The calculator's result, if the tokens are a call that it answers."""
    text = lm.tokenizer.decode(written).strip(" ")
    try:
        call = parse_call(text.removesuffix(" ->") + "]")
    except NotationError:
        return None
    if not text.endswith(" ->") or call.tool != "Calculator":
        return None
    (answered,) = Caller().answers([(call.argument, NO_DOCUMENT)])
    return answered.result or None


def throughput(lm: HFLanguageModel, arguments: argparse.Namespace) -> Figures:
    """Tokens per second of both ways, in turn."""
    texts = prompts(arguments.rows)
    configs = [decoding(arguments.tokens)] * len(texts)
    ratios, ours, plain = [], [], []
    for repeat in range(arguments.repeats + 1):
        seconds, generations = run(lm, texts, configs, Caller(), ends=False)
        num_tokens = sum(len(event.generation.token_ids) for _, event in generations)
        generated = -(-num_tokens // len(texts))
        started = time.perf_counter()
        ids_BT, mask_BT = lm.pad_left([[lm.document_start_id, *lm.encode(t)] for t in texts])
        lm.model.generate(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            max_new_tokens=generated,
            min_new_tokens=generated,
            do_sample=False,
            pad_token_id=lm.document_start_id,
        )
        plain_seconds = time.perf_counter() - started
        if repeat:  # the first one warms up
            ours.append(num_tokens / seconds)
            plain.append(generated * len(texts) / plain_seconds)
            ratios.append(ours[-1] / plain[-1])
    calls = sum(len(event.generation.calls) for _, event in generations)
    return {
        "rows": len(texts),
        "tokens": num_tokens,
        "calls": calls,
        "ours, tokens/s": round(statistics.median(ours), 1),
        "generate, tokens/s": round(statistics.median(plain), 1),
        "ratio, median": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


def waiting(lm: HFLanguageModel, arguments: argparse.Namespace) -> Figures:
    """Seconds until the last row without a call is done, the tool slow or not."""
    half = arguments.rows // 2
    texts = [*prompts(half), *[f"The town of the year {1700 + k} is" for k in range(half)]]
    configs = [decoding(arguments.tokens, call_top_k=3 * (k < half)) for k in range(len(texts))]
    ended: dict[float, list[float]] = {0.0: [], 0.5: []}
    everything: dict[float, list[float]] = {0.0: [], 0.5: []}
    for _ in range(arguments.repeats):
        for wait in ended:
            seconds, generations = run(lm, texts, configs, Caller(wait), ends=False)
            ended[wait].append(max(at for at, event in generations if event.ticket >= half))
            everything[wait].append(seconds)
    calls = [len(e.generation.calls) for _, e in generations if e.ticket < half]
    medians = {wait: statistics.median(times) for wait, times in ended.items()}
    return {
        "rows": len(texts),
        "rows with a call": sum(n > 0 for n in calls),
        "others done, tool at once, s": round(medians[0.0], 2),
        "others done, tool 0.5 s, s": round(medians[0.5], 2),
        "ratio": round(medians[0.5] / medians[0.0], 3),
        "all done, tool at once, s": round(statistics.median(everything[0.0]), 2),
        "all done, tool 0.5 s, s": round(statistics.median(everything[0.5]), 2),
    }


def decoding(num_tokens: int, call_top_k: int = 3) -> DecodeConfig:
    """One call at most."""
    return DecodeConfig(call_top_k=call_top_k, max_calls=1, max_new_tokens=num_tokens)


def run(
    lm: HFLanguageModel,
    texts: Sequence[str],
    configs: Sequence[DecodeConfig],
    caller: Caller,
    *,
    ends: bool = True,
) -> tuple[float, list[tuple[float, Finished]]]:
    """Seconds, and when each row was done; unless `ends`, all get to their last token."""
    decoding = Decoding(lm, {"Calculator": caller}, max_rows=len(texts))
    if not ends:
        decoding._end_ids = set()
    for text, config in zip(texts, configs, strict=True):
        decoding.add(DecodeRequest(prompt=text, context=NO_DOCUMENT, config=config))
    started, finished = time.perf_counter(), []
    while not decoding.is_idle:
        events = decoding.step()
        now = time.perf_counter() - started
        finished += [(now, event) for event in events if isinstance(event, Finished)]
        if not events and decoding.is_waiting:
            decoding.wake.wait()
    decoding.close()
    return time.perf_counter() - started, finished
