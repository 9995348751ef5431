"""The whole DAG.

C --corpus--> shards --sample--> proposed --execute--> executed --filter--> kept
                        (M)                 (tools)            (M, losses)    |
report <--evaluate-- k <--call_rule-- M* <--finetune--- C* <--augment---------+
         (M* vs M)      (M*, held out)        (M)
"""

from dataclasses import dataclass
from pathlib import Path

from prefect import flow

from flows._hooks import close_failed
from flows._stage import Annotated
from flows.augment import augment
from flows.call_rule import choose_calls
from flows.corpus import corpus
from flows.evaluate import Contestants, control_contestant, evaluate
from flows.execute import execute
from flows.filter import filter_scored, score
from flows.finetune import finetune
from flows.sample import sample
from tasks.execute import record_calls
from tasks.output.manifests import load_stage
from tasks.output.model_card import describe_model
from tasks.prepare import prepare_model, prepare_tools
from tasks.report.artifacts import (
    describe_run,
    index_run,
    report_calls,
    require_yield,
    write_report,
)
from tasks.tracking.register import register_model
from tasks.tracking.runs import (
    finish_tracking,
    start_tracking,
    track_losses,
    track_scores,
    track_stage,
)
from toolformer_core.call_rule import with_choice
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.config.runtime import Runtime


@flow(
    name="annotate",
    flow_run_name="annotate-{runtime.root.name}",
    on_failure=[close_failed],
    on_crashed=[close_failed],
)
def annotate(config: PipelineConfig, runtime: Runtime, *, add: bool = False) -> list[Path]:
    """Corpus to C*: the manifests of all stages, C* last.

    With `add` the folder's documents stay, and those that are new are put behind them.
    """
    tracking = start_tracking(config, runtime)
    done = _annotate(config, runtime, tracking, add=add)
    links = describe_run(config, runtime, tracking)
    report = write_report(done.index, config, [], links, runtime.root)
    finish_tracking(tracking, report, runtime)
    return done.manifests


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatedRun(Annotated):
    """Annotation to its end: C*, the manifests of all stages (C* last), and their index."""

    augmented: Path
    manifests: list[Path]
    index: Path


def _annotate(
    config: PipelineConfig,
    runtime: Runtime,
    tracking: str,
    *,
    add: bool = False,
) -> AnnotatedRun:
    """The stages from C to C*, each tracked as it ends."""
    model = prepare_model(config.model, runtime)
    tools = prepare_tools(config.tools, runtime)
    documents, quarantine = corpus(config.corpus, runtime, add=add)
    track_stage(tracking, "corpus", [documents, quarantine], runtime)
    proposed = sample(documents, tools, model, config, runtime)
    track_stage(tracking, "sample", proposed, runtime)
    executed = execute(proposed, documents, tools, config.execute, runtime)
    record_calls(executed, load_stage(documents).shards, tools, runtime.root)
    track_stage(tracking, "execute", executed, runtime)
    scored = score(executed, documents, tools, model, config, runtime)
    track_stage(tracking, "score", scored, runtime)
    kept = filter_scored(scored, tools, config, runtime)
    track_stage(tracking, "filter", kept, runtime)
    augmented = augment(kept, documents, config.augment, runtime)
    track_stage(tracking, "augment", [augmented], runtime)
    manifests = [documents, quarantine, *proposed, *executed, *scored, *kept, augmented]
    index = index_run(manifests, config, runtime.root)
    report_calls(index)
    track_losses(tracking, index, config, runtime)
    return AnnotatedRun(
        model=model,
        tools=tools,
        documents=documents,
        scored=scored,
        augmented=augmented,
        manifests=manifests,
        index=index,
    )


@flow(
    name="toolformer",
    flow_run_name="toolformer-{runtime.root.name}",
    on_failure=[close_failed],
    on_crashed=[close_failed],
)
def run_pipeline(config: PipelineConfig, runtime: Runtime) -> list[Path]:
    """Corpus to report; the manifests of all stages."""
    tracking = start_tracking(config, runtime)
    done = _annotate(config, runtime, tracking)
    require_yield(done.index)
    base, documents, augmented = done.model, done.documents, done.augmented
    tuned = finetune(augmented, documents, base, config.finetune, runtime, tracking)
    choice = choose_calls(config, augmented, documents, tuned.model, runtime, tracking)
    describe_model(tuned, base, config, augmented, runtime.root, choice=choice)
    control = control_contestant(
        config,
        lambda named: prepare_model(named, runtime),
        lambda plain: finetune(augmented, documents, base, plain, runtime, None),
    )
    models = Contestants(base=base, tuned=tuned.model, control=control)
    evaluated = with_choice(config, choice).evaluate
    answered, scores = evaluate(models, done.tools, evaluated, config.execute, runtime)
    track_stage(tracking, "evaluate", answered, runtime)
    track_scores(tracking, scores, runtime)
    describe_model(tuned, base, config, augmented, runtime.root, scores, choice)
    register_model(tracking, tuned.model, runtime)
    manifests = [*done.manifests, *answered]
    index = index_run(manifests, config, runtime.root)
    links = describe_run(config, runtime, tracking)
    report = write_report(index, config, scores, links, runtime.root, choice)
    finish_tracking(tracking, report, runtime)
    return manifests
