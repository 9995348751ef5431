"""Results that are not a call's own: controls of the filter, and of evaluation.

If another call's result serves as well, it is not the result that helps.
"""

import dataclasses
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from toolformer_core.calling import CallAnswer, Caller
from toolformer_core.records import Outcome, digest
from toolformer_core.tools.base import Tool
from toolformer_core.tools.isolation import Calls

POOL_SIZE = 64


def pool_of(results: Iterable[str]) -> tuple[str, ...]:
    """The distinct results with the smallest digests, in order.

    They depend on all results together, not on how these are parted or ordered.
    """
    return tuple(sorted(set(results), key=lambda result: (digest(result), result))[:POOL_SIZE])


def wrong_result(result: str, key: str, pool: Sequence[str]) -> str | None:
    """Another result out of the pool, chosen by `key`; None if there is no other."""
    others = [other for other in pool if other != result]
    return others[int(digest(key, "wrong"), 16) % len(others)] if others else None


def shuffled_result(result: str, key: str) -> str | None:
    """The words of the result, or the characters of a single word, in another order.

    `key` chooses the order; None if there is only one.
    """
    words = result.split()
    parts, joint = (words, " ") if len(words) > 1 else (list(result), "")
    if len(set(parts)) < 2:
        return None
    draw = random.Random(digest(key, "shuffled"))
    shuffled = parts
    while joint.join(shuffled) == joint.join(parts):
        shuffled = draw.sample(parts, k=len(parts))
    return joint.join(shuffled)


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
