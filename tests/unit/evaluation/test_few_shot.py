"""What arm few_shot is shown: demonstrations whose calls were made, and that are true."""

import datetime
import re

import pytest

from toolformer_core.calling.caller import ToolCaller
from toolformer_core.config.pipeline import ExecuteConfig
from toolformer_core.errors import ToolInputRejected, TransientToolError
from toolformer_core.evaluation.few_shot import few_shot_prefix
from toolformer_core.notation import parse_call
from toolformer_core.tools.base import TEXT_PARAMETER
from toolformer_core.tools.calculator import Calculator
from toolformer_core.tools.calendar import Calendar
from toolformer_core.tools.described import DescribedTool

ONCE = ExecuteConfig(outage_retries=0)


class Lengths(DescribedTool):
    """Answers from a table; what is not in it is rejected."""

    def __init__(self, table, *demonstrations, **fields):
        super().__init__(
            name="convert",
            description="Converts a length to miles.",
            version="1",
            parameters=TEXT_PARAMETER,
            demonstrations=demonstrations,
            **fields,
        )
        self.table = table

    def call(self, argument, context):
        """The entry of the argument, in the document's year if that is shown."""
        key = f"{argument} {context.date}" if self.context_fields else argument
        if key not in self.table:
            raise ToolInputRejected(f"no length: {key}")
        return self.table[key]


def callers(*tools):
    return {tool.name: ToolCaller(tool, ONCE) for tool in tools}


def paragraphs(*tools, **settings):
    """The paragraphs behind the instruction."""
    prefix = few_shot_prefix(callers(*tools), **settings)
    first, *rest, end = prefix.split("\n\n")
    assert first.endswith(".")
    assert end == ""  # the benchmark's prompt follows a blank line
    return rest


def test_few_shot_prefix_shows_calls_with_the_results_of_the_tool():
    assert paragraphs(Calculator()) == [
        "The club sold 34 tickets on Friday and 57 on Saturday, which makes "
        "[Calculator(34 + 57) -> 91] 91.",
        "Ann had 60 stamps and sold 24, so 60 - 24 = [Calculator(60 - 24) -> 36] 36 were left, "
        "36 / 4 = [Calculator(36 / 4) -> 9] 9 per page.",
    ]


@pytest.mark.parametrize("clock", [None, lambda: datetime.date(2026, 11, 26)])
def test_few_shot_prefix_calendar_tells_the_day_of_the_text_and_not_of_the_clock(clock):
    shown = paragraphs(Calendar(clock), per_tool=9)
    assert shown[0] == (
        "Today is [Calendar() -> Today is Tuesday, March 4, 2014.] Tuesday, March 4, 2014, and "
        "the polls are open until eight."
    )
    # The demonstrations that name no full date are not shown.
    for text in shown:
        result, after = re.search(r"-> Today is (.*)\.\] (.*)", text).groups()
        assert after.startswith(result)
    assert len(shown) == 3


def test_few_shot_prefix_tools_take_turns_in_their_order():
    shown = paragraphs(Calendar(), Calculator(), per_tool=2)
    names = [re.search(r"\[(\w+)\(", text)[1] for text in shown]
    assert names == ["Calendar", "Calculator", "Calendar", "Calculator"]


def test_few_shot_prefix_every_call_parses_as_a_call_with_a_result():
    prefix = few_shot_prefix(callers(Calculator(), Calendar()), per_tool=9)
    calls = [parse_call(text) for text in re.findall(r"\[[^\]]*\]", prefix)]
    assert len(calls) == 8
    assert all(call.result for call in calls)


def test_few_shot_prefix_leaves_out_a_text_that_contradicts_the_tool():
    tool = Lengths(
        {"10 km": "6.2", "3 km": "9.9"},
        "It is 3 km, or [convert(3 km)] 1.9 miles, from the mill.",
        "It is 10 km, or [convert(10 km)] 6.2 miles, to the coast.",
        "It is 9 leagues, or [convert(9 leagues)] 31 miles, to the sea.",
        "It is 10 km, or [convert(10 km)] 6.2 miles, not 3 km, or [convert(3 km)] 1.9 miles.",
    )
    shown = "It is 10 km, or [convert(10 km) -> 6.2] 6.2 miles, to the coast."
    assert paragraphs(tool) == [shown]


@pytest.mark.parametrize(
    ("result", "is_shown"),
    [("Oslo > The Capital of Norway", True), ("Bergen > A town of Norway", False), ("OSLO", True)],
)
def test_few_shot_prefix_answer_no_rule_can_check_must_have_the_words_that_follow(result, is_shown):
    tool = Lengths({"Norway": result}, "The train ends in [convert(Norway)] Oslo, by the sea.")
    [shown] = paragraphs(tool)
    assert shown.startswith("The train ends") == is_shown


def test_few_shot_prefix_describes_a_tool_that_has_nothing_to_show_first():
    tool = Lengths({}, "It is 10 km, or [convert(10 km)] 6.2 miles, to the coast.")
    shown = paragraphs(Calculator(), tool)
    assert shown[0] == "[convert(text: string) -> ...]: Converts a length to miles."
    assert len(shown) == 1 + 2


def test_few_shot_prefix_date_of_the_text_is_shown_to_a_tool_that_depends_on_it():
    text = "On May 4, 2015 it was 10 km, or [convert(10 km)] 6.2 miles, long."
    undated = "Today it is 10 km, or [convert(10 km)] 6.2 miles, long."
    known = {"10 km 2015-05-04": "6.2", "10 km None": "6.2"}
    tool = Lengths(known, undated, text, context_fields=("date",))
    assert paragraphs(tool) == [text.replace("(10 km)]", "(10 km) -> 6.2]")]


def test_few_shot_prefix_brackets_of_a_result_forge_no_call():
    tool = Lengths({"x": "6.2] [convert(y)"}, "It is [convert(x)] far.")
    tool.is_right = lambda result, after: True
    assert paragraphs(tool) == [r"It is [convert(x) -> 6.2\] \[convert(y)] far."]


def test_few_shot_prefix_outage_of_a_tool_is_raised():
    class Away(Lengths):
        def call(self, argument, context):
            raise TransientToolError("no answer")

    with pytest.raises(TransientToolError, match="no answer"):
        few_shot_prefix(callers(Away({}, "It is [convert(x)] 6.2 miles.")))


def test_few_shot_prefix_is_the_same_again():
    first, second = (few_shot_prefix(callers(Calculator(), Calendar())) for _ in range(2))
    assert first == second
