"""A tool that gives the results of other calls: arm wrong of the evaluation."""

import dataclasses
from dataclasses import dataclass

from toolformer_core.calling.caller import CallAnswer, Caller
from toolformer_core.controls import shuffled_result, wrong_result
from toolformer_core.records import Outcome, digest
from toolformer_core.tools.base import Tool
from toolformer_core.tools.isolation import Calls


@dataclass(frozen=True, slots=True)
class WrongCaller:
    """A tool that gives the results of other calls.

    What it would refuse it still refuses. Where the pool holds no other result the own one is
    shuffled; a call with nothing to shuffle fails.
    """

    caller: Caller
    pool: tuple[str, ...]

    @property
    def tool(self) -> Tool:
        """The tool that is called."""
        return self.caller.tool

    def answers(self, calls: Calls) -> list[CallAnswer]:
        """One answer per call.

        Raises: TransientToolError for an outage.
        """
        own = self.caller.answers(calls)
        return [
            self._wrong(answer, digest(argument, *dataclasses.astuple(context)))
            for answer, (argument, context) in zip(own, calls, strict=True)
        ]

    def _wrong(self, answer: CallAnswer, key: str) -> CallAnswer:
        if answer.outcome is not Outcome.OK:
            return answer
        result = wrong_result(answer.result, key, self.pool)
        if result is None:
            result = shuffled_result(answer.result, key)
        if result is None:
            return answer._replace(
                outcome=Outcome.FAILED, reason="no other result to give", result=""
            )
        return answer._replace(result=result)
