"""Results that are not a call's own: controls of the filter, and of evaluation.

If another call's result serves as well, it is not the result that helps.
"""

import random
from collections.abc import Iterable, Sequence

from toolformer_core.records import digest

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
