"""Champion: fine-tune on a C* that is there, and let the model in if it beats the one in use.

C* --finetune--> M* --evaluate--> gate --passed--> registered, alias champion
                 champion --evaluate--^
"""

from pathlib import Path

from prefect import flow

from flows._hooks import close_failed
from flows.call_rule import choose_calls
from flows.evaluate import Contestants, evaluate
from flows.finetune import finetune
from tasks.gate import decide_gate
from tasks.loaded_tools import ToolRef
from tasks.output.model_card import describe_model
from tasks.output.model_folder import read_model_description
from tasks.output.record import record_others
from tasks.prepare import prepare_model, prepare_tools
from tasks.report.artifacts import describe_run, index_run, write_evaluation
from tasks.tracking.register import champion_model, crown_model
from tasks.tracking.runs import finish_tracking, start_tracking, track_scores, track_stage
from toolformer_core.call_rule import with_choice
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.config.runtime import Runtime
from toolformer_core.evaluation.gate import TEXT_ARM, TOOL_ARM, GateConfig, GateDecision
from toolformer_core.models import ModelRef


@flow(
    name="champion",
    flow_run_name="champion-{runtime.root.name}",
    on_failure=[close_failed],
    on_crashed=[close_failed],
)
def train_champion(
    augmented: Path, documents: Path, config: PipelineConfig, gate: GateConfig, runtime: Runtime
) -> GateDecision:
    """Tune, evaluate and compare; a model that does not pass is kept in its folder alone.

    The champion answers with the tools and settings of the new model; where these leave open when a
    call starts, as was chosen for each. What it has answered before is in the cache.
    """
    tracking = start_tracking(config, runtime)
    champion = champion_model(runtime)
    base = prepare_model(config.model, runtime)
    tools = prepare_tools(config.tools, runtime)
    tuned = finetune(augmented, documents, base, config.finetune, runtime, tracking)
    choice = choose_calls(config, augmented, documents, tuned.model, runtime, tracking)
    describe_model(tuned, base, config, augmented, runtime.root, choice=choice)
    models = Contestants(base=base, tuned=tuned.model)
    evaluated = with_choice(config, choice).evaluate
    answered, scores = evaluate(models, tools, evaluated, config.execute, runtime)
    track_stage(tracking, "evaluate", answered, runtime)
    track_scores(tracking, scores, runtime)
    describe_model(tuned, base, config, augmented, runtime.root, scores, choice)
    rival = _answers(champion, base, tools, gate, config, runtime)
    decision = decide_gate(answered, rival, gate, config.evaluate.seed)
    crown_model(tracking, tuned.model, decision, runtime)
    index = index_run(answered, config, runtime.root)
    record_others(rival, runtime.root)
    links = {"gate": decision.reason, **describe_run(config, runtime, tracking)}
    report = write_evaluation(index, config, scores, links, runtime.root, choice)
    finish_tracking(tracking, report, runtime)
    return decision


def _answers(
    champion: ModelRef | None,
    base: ModelRef,
    tools: list[ToolRef],
    gate: GateConfig,
    config: PipelineConfig,
    runtime: Runtime,
) -> list[Path]:
    """What the champion answers of the gate's benchmarks; nothing where there is none."""
    if champion is None:
        return []
    decode = config.evaluate.decode
    described = read_model_description(Path(champion.path))
    if config.chooses_calls and described is not None:
        own = described[2].model_dump(include={"call_top_k", "call_threshold"})
        decode = decode.model_copy(update=own)
    benchmarks, arms = (gate.benchmark, gate.texts), (TEXT_ARM, TOOL_ARM)
    asked = config.evaluate.model_copy(
        update={"benchmarks": benchmarks, "arms": arms, "decode": decode}
    )
    models = Contestants(base=base, tuned=champion)
    manifests, _ = evaluate(models, tools, asked, config.execute, runtime)
    return manifests
