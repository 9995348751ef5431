"""LAMA: statements with a missing last word (paper, section 4.2.1, prompt in Appendix C.1).

Choice: a statement is LAMA's own template with its subject where LAMA has one (T-REx, Google-RE),
as in LAMA's evaluation; else the masked sentence (SQuAD). An item is kept if its only mask is
followed by nothing but punctuation. WikiSearch is barred: the statements come from Wikipedia.
"""

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial

from toolformer_core.benchmarks.items import ParsedRow, text_in, texts_in
from toolformer_core.benchmarks.rows import Fields, RawRow, RowSource, open_rows
from toolformer_core.errors import ConfigError
from toolformer_core.readers.hub import HUB_SCHEME

MASK = "[MASK]"
PROMPT = "Please complete the following text so that it is factually correct: "
EXPECTED = (
    "masked and answers; or LAMA's masked_sentences or masked_sentence, and obj_label; or "
    "sub_label and obj_label with a template, for T-REx in LAMA's relations.jsonl"
)
RELATIONS_FILE = "relations.jsonl"

# Source: LAMA's scripts, which have no file of these three.
_GOOGLE_RE_TEMPLATES = {
    "place_of_birth": "[X] was born in [Y] .",
    "date_of_birth": "[X] (born [Y]).",
    "place_of_death": "[X] died in [Y] .",
}


def before_mask(text: str, mask: str) -> str | None:
    """The text up to its mask; None unless the mask is the only one and the last token.

    Raises: ValueError if there is no mask.
    """
    before, found, after = text.partition(mask)
    if not found:
        raise ValueError(f"no {mask} in {text!r}")
    is_last = not any(character.isalnum() for character in after)  # nor another mask
    return before.rstrip() if is_last and before.strip() else None


def relations_beside(source: str, setting: str) -> RowSource | None:
    """LAMA's relations.jsonl in the folder of the files or one above, if it is there."""
    if source.startswith(HUB_SCHEME):
        return None
    folder = source.rpartition("/")[0] or "."
    for place in (folder, f"{folder}/.."):
        with contextlib.suppress(ConfigError):
            return open_rows(f"{place}/{RELATIONS_FILE}", setting, "")
    return None


def lama_parser(relations: RowSource | None) -> partial[Iterator[ParsedRow]]:
    """What reads a row, with the templates of LAMA's relations.jsonl if that is there."""
    rows = relations.rows() if relations is not None else iter(())
    templates = {str(row.fields.get("relation")): str(row.fields.get("template")) for row in rows}
    return partial(_parse, templates=_GOOGLE_RE_TEMPLATES | templates)


def _parse(row: RawRow, templates: Mapping[str, str]) -> Iterator[ParsedRow]:
    fields = row.fields
    gold = texts_in(fields["answers"]) if "answers" in fields else (text_in(fields, "obj_label"),)
    before = before_mask(_statement(fields, templates), MASK)
    if before is not None:
        yield ParsedRow(fields.get("uuid", fields.get("id")), PROMPT + before, gold)


def _statement(fields: Fields, templates: Mapping[str, str]) -> str:
    relation = fields.get("predicate_id") or str(fields.get("pred", "")).rpartition("/")[2]
    template = fields.get("template") or templates.get(relation)
    if template:
        return template.replace("[X]", text_in(fields, "sub_label")).replace("[Y]", MASK)
    if "predicate_id" in fields:
        raise ValueError(
            f"no template of relation {relation}; put LAMA's {RELATIONS_FILE} beside the file or "
            "one folder up"
        )
    if "masked_sentences" in fields:
        return " ".join(texts_in(fields["masked_sentences"]))
    return text_in(fields, "masked", "masked_sentence")
