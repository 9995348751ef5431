"""The paper's figures, to be shown beside ours: Tables 2 to 9.

Accuracies in percent, as printed; all are single runs without intervals. Ours are never the same
experiment: another model, other tools behind the same names, other texts. A set that merely stands
in for one of the paper's has no figures here.
Source: Schick et al. 2023.
"""

from collections.abc import Mapping
from dataclasses import dataclass

ROWS: Mapping[str, str | None] = {
    "GPT-J": "base",
    "GPT-J + CC": "base_c",
    "Toolformer (disabled)": "disabled",
    "Toolformer": "on",
    "OPT (66B)": None,
    "GPT-3 (175B)": None,
}
"""Rows of Tables 3 to 8, and our arm that stands for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSet:
    """One column of a table: figures by row, in percent or, in Table 8, perplexities of tokens."""

    table: int
    title: str
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSplit:
    """One row of Table 9, percent: all items, those with a call, those without, share of calls."""

    accuracy: float
    called: float | None
    not_called: float | None
    call_rate: float


def _column(table: int, title: str, *figures: float) -> PublishedSet:
    """A column in the order of the rows; Table 8 has the first three only."""
    return PublishedSet(table=table, title=title, figures=dict(zip(ROWS, figures, strict=False)))


SETS: Mapping[str, PublishedSet] = {
    "lama_squad": _column(3, "LAMA SQuAD", 17.8, 19.2, 22.1, 33.8, 21.6, 26.8),
    "lama_google_re": _column(3, "LAMA Google-RE", 4.9, 5.6, 6.3, 11.5, 2.9, 7.0),
    "lama_trex": _column(3, "LAMA T-REx", 31.9, 33.2, 34.9, 53.5, 30.1, 39.8),
    "asdiv": _column(4, "ASDiv", 7.5, 9.6, 14.8, 40.4, 6.0, 14.0),
    "svamp": _column(4, "SVAMP", 5.2, 5.0, 6.3, 29.4, 4.9, 10.0),
    "mawps": _column(4, "MAWPS", 9.9, 9.3, 15.0, 44.0, 7.9, 19.8),
    "webquestions": _column(5, "WebQuestions", 18.5, 18.4, 18.9, 26.3, 18.6, 29.0),
    "nq": _column(5, "Natural Questions", 12.8, 12.2, 12.6, 17.7, 11.4, 22.6),
    "triviaqa": _column(5, "TriviaQA", 43.9, 45.6, 46.7, 48.8, 45.7, 65.9),
    "mlqa_es": _column(6, "MLQA Spanish", 15.2, 15.7, 19.8, 20.6, 0.3, 3.4),
    "mlqa_de": _column(6, "MLQA German", 16.5, 14.9, 11.9, 13.5, 0.1, 1.1),
    "mlqa_hi": _column(6, "MLQA Hindi", 1.3, 0.5, 1.2, 1.4, 1.1, 0.1),
    "mlqa_vi": _column(6, "MLQA Vietnamese", 8.2, 8.3, 10.1, 10.6, 0.2, 1.7),
    "mlqa_zh": _column(6, "MLQA Chinese", 18.2, 13.7, 15.0, 16.8, 0.7, 17.7),
    "mlqa_ar": _column(6, "MLQA Arabic", 8.2, 4.6, 3.1, 3.7, 0.1, 0.1),
    "templama": _column(7, "TempLAMA", 13.7, 12.9, 12.7, 16.3, 14.5, 15.5),
    "dateset": _column(7, "Dateset", 3.9, 2.9, 5.9, 27.3, 1.3, 0.8),
    "wikitext": _column(8, "WikiText", 9.9, 10.3, 10.3),
}
"""Tables 3 to 8 by the name of our benchmark; without CCNet (Table 8), whose texts we lack."""

PERPLEXITY_TABLE = 8
TABLE_TITLES: Mapping[int, str] = {
    3: "LAMA, accuracy in percent",
    4: "Mathematics, accuracy in percent",
    5: "Question answering, accuracy in percent",
    6: "Questions in other languages, accuracy in percent",
    7: "Time, accuracy in percent",
    PERPLEXITY_TABLE: "Perplexity, calls disabled",
}

CALLS_BY_THRESHOLD: Mapping[str, Mapping[float, int]] = {
    "QA": {0.5: 51_987, 1.0: 18_526, 2.0: 5_135},
    "WikiSearch": {0.5: 207_241, 1.0: 60_974, 2.0: 13_944},
    "Calculator": {0.5: 3_680, 1.0: 994, 2.0: 138},
    "Calendar": {0.5: 61_811, 1.0: 20_587, 2.0: 3_007},
    "MT": {0.5: 3_156, 1.0: 1_034, 2.0: 229},
}
"""Table 2: calls kept per tool at each tau_f (nats)."""

SPLITS: Mapping[str, Mapping[int, PublishedSplit]] = {
    "lama_trex": {
        0: PublishedSplit(accuracy=34.9, called=None, not_called=34.9, call_rate=0.0),
        1: PublishedSplit(accuracy=47.8, called=53.0, not_called=44.3, call_rate=40.3),
        3: PublishedSplit(accuracy=52.9, called=58.0, not_called=29.0, call_rate=82.8),
        10: PublishedSplit(accuracy=53.5, called=54.0, not_called=22.5, call_rate=98.1),
    },
    "webquestions": {
        0: PublishedSplit(accuracy=18.9, called=None, not_called=18.9, call_rate=0.0),
        1: PublishedSplit(accuracy=19.3, called=17.1, not_called=19.9, call_rate=8.5),
        3: PublishedSplit(accuracy=26.3, called=26.5, not_called=6.6, call_rate=99.3),
        10: PublishedSplit(accuracy=26.3, called=26.4, not_called=None, call_rate=100.0),
    },
}
"""Table 9: by benchmark and k."""
