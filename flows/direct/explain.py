"""Why one call is kept or dropped, for the command line; no run is needed."""

from tasks.loaded_models import get_model
from tasks.loaded_tools import get_caller
from tasks.prepare import tool_refs
from toolformer_core.calling.caller import Caller
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.config.runtime import Runtime
from toolformer_core.errors import ConfigError
from toolformer_core.notation import END, START, ParsedCall, parse_call
from toolformer_core.provenance.explain import Explanation, explain_call
from toolformer_core.records import Document, Outcome
from toolformer_core.tools.base import context_of
from toolformer_core.transformers_lm.loading import check_device, resolve_model


def explain_text(
    document: Document,
    char_offset: int,
    call: str,
    result: str | None,
    config: PipelineConfig,
    runtime: Runtime,
) -> Explanation:
    """The explanation of a call such as Calculator(34 + 57); without a result the tool is run.

    Raises: ConfigError or NotationError for a call that is none, or that the tool does not answer.
    """
    is_open = not call.strip().startswith(START)
    parsed = parse_call(f"{START}{call.strip()}{END}" if is_open else call.strip())
    check_device(runtime.device)
    enabled = config.tools.model_copy(update={"enabled": (parsed.tool,)})
    caller = get_caller(tool_refs(enabled, runtime)[0], config.execute, runtime.tool_calls)
    tool, own = caller.tool, config.of_tool(parsed.tool)
    known = result if result is not None else parsed.result
    answer = known if known is not None else _answer(parsed, caller, document)
    reference = resolve_model(config.model, runtime.home, runtime.device)
    return explain_call(
        document,
        char_offset,
        tool,
        (parsed.argument, answer),
        get_model(reference, runtime),
        own.score,
        own.filtering_threshold,
    )


def _answer(call: ParsedCall, caller: Caller, document: Document) -> str:
    """What the tool says."""
    [answer] = caller.answers([(call.argument, context_of(document))])
    if answer.outcome is not Outcome.OK:
        raise ConfigError(
            f"--call {call.tool}({call.argument}): {answer.outcome}, {answer.reason}; "
            "correct it, or pass its --result"
        )
    return answer.result
