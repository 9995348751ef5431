"""Small files in the forms in which the benchmarks are published, with rows of our own."""

import gzip
import json
from pathlib import Path

PROBLEM = {"id": "q1", "body": "Ann has 3.", "question": "Twice that?", "answer_number": 6}
ASDIV_XML = """<?xml version="1.0" encoding="UTF-8"?>
<Machine-Reading-Corpus-File><ProblemSet>
<Problem ID="p1" Grade="1" Source="x"><Body>Ann has 1,200 &amp; Bob 34.</Body>
<Question>How many in all?</Question><Solution-Type>Addition</Solution-Type>
<Answer>1,234 (apples)</Answer><Formula>1200+34=1234</Formula></Problem>
<Problem ID="p2" Grade="1" Source="x"><Body>Two rugs.</Body><Question>Which is larger?</Question>
<Answer>Rug B</Answer></Problem>
<Problem ID="p3" Grade="1" Source="x"><Body>Bob had 2.5 m.</Body><Question>How long?</Question>
<Answer>2.5 (m)</Answer></Problem>
<Problem ID="p4" Grade="1" Source="x"><Body>A ratio.</Body><Question>Which?</Question>
<Answer>3:4</Answer></Problem>
</ProblemSet></Machine-Reading-Corpus-File>
"""
SQUAD = {
    "version": 1,
    "data": [
        {
            "title": "Bridges",
            "paragraphs": [
                {
                    "context": "The old bridge is made of gold.",
                    "qas": [
                        {
                            "id": "b1",
                            "question": "Aus was?",
                            "answers": [{"text": "gold", "answer_start": 26}],
                        },
                        {
                            "id": "b2",
                            "question": "Wie alt?",
                            "answers": [{"text": "old", "answer_start": 4}],
                        },
                    ],
                }
            ],
        }
    ],
}
TREX = {
    "uuid": "u1",
    "sub_label": "Ada",
    "obj_label": "gold",
    "predicate_id": "P19",
    "evidences": [{"masked_sentence": "Ada is of [MASK] origin."}],
}
RELATION = {"relation": "P19", "template": "[X] was born in [Y] .", "type": "N-1"}

ROWS = {
    "lama_squad": {"id": "1", "masked": "The ring is made of [MASK].", "answers": ["gold"]},
    "templama_like": {
        "id": "1",
        "date": "2015",
        "query": "Ada works for _X_.",
        "answers": ["gold"],
    },
    "mlqa": {
        "id": "1",
        "context": "It is gold.",
        "question": "Was?",
        "answers": ["gold"],
        "language": "de",
    },
    "webquestions": {"id": "1", "question": "what is it", "answers": ["gold"]},
    "asdiv": PROBLEM,
}


def write_lines(path: Path, *rows: object) -> Path:
    """The rows as JSON Lines, compressed if the path says so."""
    content = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_json(path: Path, document: object) -> Path:
    """The rows as one JSON document."""
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def small_set(folder: Path, name: str) -> str:
    """The spec of a benchmark with one item."""
    if name not in ROWS:
        return name
    return f"{name}={write_lines(folder / f'{name}.jsonl', ROWS[name])}"
