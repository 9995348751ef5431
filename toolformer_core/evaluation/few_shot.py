"""Arm few_shot of the evaluation: M, untrained, is shown in its prompt how tools are used.

Choice: the paper has no such arm. What is shown are the demonstrations of the annotation prompts,
each call with the result that its tool gives: how a text looks at inference, not how a call is
asked for. A demonstration whose text goes on with anything else than the result is not shown.
"""

import datetime
import html
import itertools
import re
from collections.abc import Mapping

from htmldate import find_date

from toolformer_core.calling.caller import Caller
from toolformer_core.notation import CALL_PATTERN, parse_call, render_call_with_result
from toolformer_core.records import Outcome
from toolformer_core.tools.arguments import ArgumentSchema
from toolformer_core.tools.base import NO_DOCUMENT, NUMBER_PATTERN, CallContext, Tool

_INSTRUCTION = "Tools help to go on with a text. A call stands right before what it tells."
_TELLING = re.compile(rf"[^\W\d_]{{4,}}|{NUMBER_PATTERN}")
_FIRST_DAY, _LAST_DAY = datetime.datetime(1900, 1, 1), datetime.datetime(2199, 12, 31)


def few_shot_prefix(callers: Mapping[str, Caller], per_tool: int = 2) -> str:
    """What stands before a benchmark's prompt, the blank line between them included.

    One line about each tool that has no demonstration to show, then up to `per_tool` of every
    other. Choice: the tools take turns; a small model would call the last one, whatever is asked.
    Raises: TransientToolError for an outage of a tool.
    """
    shown = [_answered(caller)[:per_tool] for caller in callers.values()]
    described = [
        _description(caller.tool)
        for caller, texts in zip(callers.values(), shown, strict=True)
        if not texts
    ]
    turns = [text for turn in itertools.zip_longest(*shown) for text in turn if text is not None]
    return "".join(f"{paragraph}\n\n" for paragraph in (_INSTRUCTION, *described, *turns))


def _description(tool: Tool) -> str:
    signature = ArgumentSchema(tool.parameters, tool.name).signature()
    return f"{render_call_with_result(tool.name, signature, '...')}: {tool.description}"


def _answered(caller: Caller) -> list[str]:
    """The demonstrations of a tool's prompt, with results, that its answers agree with."""
    texts = [_with_results(caller, text) for text in _demonstrations(caller.tool)]
    return [text for text in texts if text is not None]


def _demonstrations(tool: Tool) -> list[str]:
    """The texts with calls in the annotation prompt."""
    blocks = tool.prompt.split("\n\nInput:\n")[1:-1]  # the last one is for x
    return [block.partition("\nOutput:\n")[2] for block in blocks]


def _with_results(caller: Caller, text: str) -> str | None:
    """The text with the result in each of its calls; None if one has no answer that fits."""
    tool, context = caller.tool, _context(caller.tool, text)
    places = list(CALL_PATTERN.finditer(text))
    calls = [parse_call(place[0].rstrip(" ")) for place in places]
    if context is None or not calls or any(call.tool != tool.name for call in calls):
        return None
    shown, end = "", 0
    answers = caller.answers([(call.argument, context) for call in calls])
    for place, call, answer in zip(places, calls, answers, strict=True):
        after = _plain(text[place.end() :])
        if answer.outcome is not Outcome.OK or not _fits(tool, answer.result, after):
            return None
        shown += text[end : place.start()]
        shown += render_call_with_result(call.tool, call.argument, answer.result)
        end = place.end() - place[0].endswith(" ")
    return shown + text[end:]


def _fits(tool: Tool, result: str, after: str) -> bool:
    """Whether the text goes on with the result.

    Where the tool's rules cannot tell: whether the next word of four letters, or number, is of it.
    """
    is_right = tool.is_right(result, after)
    if is_right is None:
        told = _TELLING.search(after)
        return told is None or told[0].casefold() in _TELLING.findall(result.casefold())
    return is_right


def _context(tool: Tool, text: str) -> CallContext | None:
    """A document of the day that the text names; None if the tool needs a day and it names none.

    A clock would make another prompt of every day.
    """
    if "date" not in tool.context_fields:
        return NO_DOCUMENT
    page = f"<html><body><p>{html.escape(_plain(text))}</p></body></html>"
    date = find_date(page, original_date=True, min_date=_FIRST_DAY, max_date=_LAST_DAY)
    return None if date is None else CallContext(document_id="", url=None, date=date)


def _plain(text: str) -> str:
    return CALL_PATTERN.sub("", text)
