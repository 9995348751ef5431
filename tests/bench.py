"""Benchmarks: `python -m tests.bench`. Ratios measured in one run; figures go to .bench/.

annotate: sampling and scoring of Calculator calls, ours against the paper read literally (one
`generate` per position with its cache, one document and one loss at a time).
"""

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch

from flows import settings
from toolformer_core.config import CorpusConfig, ExecuteConfig, ModelConfig, ScoreConfig, for_tool
from toolformer_core.corpus import read_corpus
from toolformer_core.execute import execute_calls
from toolformer_core.filter import score_calls
from toolformer_core.hf_lm import HFLanguageModel
from toolformer_core.lm import LossRequest
from toolformer_core.models import load_model, resolve_model
from toolformer_core.notation import render_call_with_result
from toolformer_core.presets import demo
from toolformer_core.records import Document, ExecutedCall, Outcome, ProposedCall
from toolformer_core.sample import annotation_prompt, sample_calls
from toolformer_core.tools.calculator import Calculator

NUM_DOCUMENTS = 6


def literal_samples(
    lm: HFLanguageModel, calls: list[ProposedCall], documents: dict[str, Document]
) -> None:
    """The same positions and sample counts, one `generate` per position."""
    prompt = annotation_prompt(Calculator())
    config = for_tool(demo().sample, "Calculator")
    places = {(call.document_id, call.token_index) for call in calls}
    for document_id, token_index in sorted(places):
        text = documents[document_id].text
        seen = list(lm.tokenize(text).token_ids[:token_index])
        head = lm.encode(prompt.head + text + prompt.tail)
        ids = [lm.document_start_id, *head, *seen, *lm.encode(" [Calculator(")]
        lm.model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=True,
            temperature=config.temperature,
            num_return_sequences=config.samples_per_position,
            max_new_tokens=config.max_call_tokens,
            stop_strings=["]"],
            tokenizer=lm.tokenizer,
            pad_token_id=lm.document_start_id,
        )


def literal_scores(
    lm: HFLanguageModel, calls: list[ExecutedCall], documents: dict[str, Document]
) -> None:
    """Three full forwards per call, one at a time."""
    for call in calls:
        tokens = lm.tokenize(documents[call.document_id].text)
        with_call = [
            render_call_with_result(call.tool, call.argument, r) for r in (call.result, "")
        ]
        for prefix in ("", *with_call):
            last = len(tokens.token_ids)
            lm.token_losses([LossRequest(prefix=prefix, tokens=tokens, first=0, last=last)])


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def annotate() -> dict[str, float]:
    """Seconds of each step, ours and literal, and their ratios."""
    lm = load_model(resolve_model(ModelConfig(), settings.home()), "cpu", 4096)
    source = f"reasoning-gym:gsm_symbolic?size={NUM_DOCUMENTS}&seed=7"
    rows = read_corpus(CorpusConfig(sources=(source,), max_document_chars=600))
    texts = [row for row in rows if isinstance(row, Document)][:NUM_DOCUMENTS]
    documents = {document.document_id: document for document in texts}
    tool, config = Calculator(), for_tool(demo().sample, "Calculator")
    calls: list[ProposedCall] = []
    executed: list[ExecutedCall] = []
    figures = {
        "sample_ours_s": seconds(
            lambda: calls.extend(sample_calls(texts, lm, tool, config, num_scored_tokens=5)[0])
        )
    }
    executed.extend(execute_calls(calls, documents, tool, ExecuteConfig()))
    ok = [call for call in executed if call.outcome is Outcome.OK]
    figures["score_ours_s"] = seconds(
        lambda: score_calls(executed, documents, lm, tool, ScoreConfig())
    )
    figures["sample_literal_s"] = seconds(lambda: literal_samples(lm, calls, documents))
    figures["score_literal_s"] = seconds(lambda: literal_scores(lm, ok, documents))
    figures["sample_ratio"] = figures["sample_literal_s"] / figures["sample_ours_s"]
    figures["score_ratio"] = figures["score_literal_s"] / figures["score_ours_s"]
    figures |= {"documents": len(texts), "samples": len(calls), "scored": len(ok)}
    figures["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures


def main() -> None:
    """Run, print and store."""
    settings.apply_defaults()
    figures = annotate()
    for name, value in figures.items():
        print(f"{name:20} {value:10.2f}")
    folder = Path(".bench")
    folder.mkdir(exist_ok=True)
    (folder / "annotate.json").write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
