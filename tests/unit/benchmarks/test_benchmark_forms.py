"""Every form in which a benchmark is published, read into the paper's prompts and gold answers."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.benchmark_files import (
    ASDIV_XML,
    PROBLEM,
    RELATION,
    ROWS,
    SQUAD,
    TREX,
    write_json,
    write_lines,
)
from toolformer_core.benchmarks.registry import load_benchmark
from toolformer_core.errors import ConfigError, DataError

COMPLETE = "Please complete the following text so that it is factually correct: "
ANSWER = "Answer the following question: "


def asked(spec):
    """Prompt and gold answers of every item."""
    return [(item.prompt, item.gold) for item in load_benchmark(str(spec), None, 0).items]


def read_one(tmp_path, name, row):
    return asked(f"{name}={write_lines(tmp_path / 'rows.jsonl', row)}")


# LAMA


@pytest.mark.parametrize(
    "row",
    [
        {"masked": "The ring is made of [MASK].", "answers": ["gold"]},
        {"masked_sentences": ["The ring is made of [MASK] ."], "obj_label": "gold", "id": "x_0"},
        {"masked_sentence": "The ring is made of [MASK].", "obj_label": "gold", "sub_label": "S"},
        {
            "template": "[X] is made of [Y] .",
            "sub_label": "The ring",
            "obj_label": "gold",
            "masked_sentence": "This [MASK] ring is another text.",
        },
    ],
)
def test_lama_row_becomes_the_text_up_to_its_mask(tmp_path, row):
    assert read_one(tmp_path, "lama_squad", row) == [(f"{COMPLETE}The ring is made of", ("gold",))]


@pytest.mark.parametrize(
    ("relation", "text"),
    [
        ("place_of_birth", "Ada was born in"),
        ("date_of_birth", "Ada (born"),
        ("place_of_death", "Ada died in"),
    ],
)
def test_lama_google_re_statement_is_lamas_template(tmp_path, relation, text):
    row = {
        "pred": f"/people/person/{relation}",
        "sub_label": "Ada",
        "obj_label": "1815",
        "uuid": "u",
        "masked_sentences": ["Ada Lovelace, born [MASK] in London, wrote a program."],
    }
    assert read_one(tmp_path, "lama_google_re", row) == [(f"{COMPLETE}{text}", ("1815",))]


@pytest.mark.parametrize("folder", ["data", "data/TREx"])
def test_lama_trex_template_is_in_relations_file_beside_or_above(tmp_path, folder):
    write_lines(tmp_path / "data/TREx/P19.jsonl.gz", TREX)
    write_lines(tmp_path / folder / "relations.jsonl", RELATION)
    [(prompt, gold)] = asked(f"lama_trex={tmp_path}/data/TREx/P*.jsonl.gz")
    assert (prompt, gold) == (f"{COMPLETE}Ada was born in", ("gold",))


def test_lama_trex_without_templates_says_where_to_put_them(tmp_path):
    with pytest.raises(DataError, match=r"P19; put LAMA's relations\.jsonl beside the file or one"):
        read_one(tmp_path, "lama_trex", TREX)


@pytest.mark.parametrize(
    ("masked", "is_kept"),
    [
        ("The ring is [MASK].", True),
        ("The ring is [MASK] .", True),
        ('He said "it is [MASK]."', True),
        ("The ring (of [MASK]).", True),
        ("The [MASK] ring is old.", False),
        ("The [MASK] ring is of [MASK].", False),
        ("[MASK].", False),
    ],
)
def test_lama_item_is_kept_if_its_only_mask_is_the_last_token(tmp_path, masked, is_kept):
    row = {"masked": masked, "answers": ["gold"]}
    path = write_lines(tmp_path / "rows.jsonl", row, ROWS["lama_squad"])
    assert len(asked(f"lama_squad={path}")) == 1 + is_kept


def test_lama_bars_wiki_search(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", ROWS["lama_squad"])
    assert load_benchmark(f"lama_squad={path}", None, 0).barred_tools == ("WikiSearch",)


# Word problems


@pytest.mark.parametrize(
    ("row", "gold"),
    [
        (PROBLEM, "6"),
        ({**PROBLEM, "answer_number": 6.5}, "6.5"),
        ({"ID": "chal-1", "Body": "Ann has 3.", "Question": "Twice that?", "Answer": 6.0}, "6.0"),
        ({"Body": "Ann has 3.", "Question": "Twice that?", "Answer": "6.0"}, "6.0"),
        ({"body": "Ann has 3.", "question": "Twice that?", "answer": "-6 (apples)"}, "-6"),
        ({"iIndex": 1, "sQuestion": "Ann has 3. Twice that?", "lSolutions": [6.0]}, "6.0"),
        ({"iIndex": 1, "sQuestion": "Ann has 3. Twice that? ", "lSolutions": ["6"]}, "6"),
        ({"question": "Ann has 3. Twice that?", "answer": "2 * 3 = 6\n#### 6"}, "6"),
        ({"question": "Ann has 3. Twice that?", "answer": "Much.\n#### 1,234\n"}, "1234"),
        ({"question": "Ann has 3. Twice that?", "answer": "#### 5\n#### -6"}, "-6"),
    ],
)
def test_word_problem_row_becomes_problem_and_number(tmp_path, row, gold):
    expected = [("Ann has 3. Twice that? The answer is", (gold,))]
    assert read_one(tmp_path, "gsm8k", row) == expected


def test_asdiv_xml_problems_with_a_number_are_items(tmp_path):
    path = tmp_path / "ASDiv.xml"
    path.write_text(ASDIV_XML, encoding="utf-8")
    assert asked(f"asdiv={path}") == [
        ("Ann has 1,200 & Bob 34. How many in all? The answer is", ("1234",)),
        ("Bob had 2.5 m. How long? The answer is", ("2.5",)),
    ]


@pytest.mark.parametrize(
    "row",
    [
        {**PROBLEM, "answer_number": None},
        {"Body": "A", "Question": "B?", "Answer": "8; 40"},
        {"Body": "A", "Question": "B?", "Answer": "5/2"},
        {"sQuestion": "A and B?", "lSolutions": [1, 2]},
    ],
)
def test_word_problem_without_one_number_is_left_out(tmp_path, row):
    path = write_lines(tmp_path / "rows.jsonl", row, PROBLEM)
    assert len(asked(f"mawps={path}")) == 1


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"body": "a", "question": "b"}, "no field 'Answer'"),
        ({"answer_number": 1}, "no field 'question'"),
        ({**PROBLEM, "question": 7}, "field 'question' is 7, not a text"),
        ({**PROBLEM, "answer_number": "many"}, "could not convert string to float: 'many'"),
        ({**PROBLEM, "answer_number": True}, "True is no number"),
        ({**PROBLEM, "answer_number": float("inf")}, "inf is no number"),
    ],
)
def test_word_problem_wrong_row_is_one_line_with_the_row_and_the_forms(tmp_path, row, problem):
    path = write_lines(tmp_path / "svamp.jsonl", PROBLEM, row)
    with pytest.raises(DataError) as caught:
        asked(f"svamp={path}")
    message = str(caught.value)
    assert message.startswith(f"benchmark svamp: svamp.jsonl row 2: {problem}; expected body, ")
    assert "\n" not in message


# Open questions


@pytest.mark.parametrize(
    ("row", "gold"),
    [
        ({"question": "who", "answers": ["A", "B", "A"]}, ("A", "B")),
        ({"question": "who?", "answer": ["A", " B "]}, ("A", "B")),
        (
            {
                "utterance": "who?",
                "url": "u",
                "targetValue": '(list (description "A (b) \\"c\\"") (description D))',
            },
            ('A (b) "c"', "D"),
        ),
        (
            {
                "Question": "who?",
                "QuestionId": "q",
                "Answer": {"Value": "A", "Aliases": ["A", "B."], "NormalizedAliases": ["b"]},
            },
            ("A", "B.", "b"),
        ),
        (
            {
                "question": "who",
                "question_id": "q",
                "answer": {"value": "A", "aliases": ["B"], "normalized_aliases": ["b"]},
            },
            ("A", "B", "b"),
        ),
    ],
)
def test_question_row_becomes_a_question_with_a_mark_and_all_answers(tmp_path, row, gold):
    assert read_one(tmp_path, "triviaqa", row) == [(f"{ANSWER}who?", gold)]


def test_trivia_qa_file_holds_its_rows_under_data(tmp_path):
    row = {"Question": "Who?", "QuestionId": "q", "Answer": {"Value": "A", "Aliases": ["B"]}}
    path = write_json(tmp_path / "qa.json", {"Data": [row], "Domain": "Web", "Version": 1.0})
    assert asked(f"triviaqa={path}") == [(f"{ANSWER}Who?", ("A", "B"))]


@pytest.mark.parametrize(
    "answer", [[], [" "], "A", {"value": "<unk>", "aliases": []}, {"aliases": [1]}, None]
)
def test_question_without_answers_is_refused(tmp_path, answer):
    with pytest.raises(DataError, match=r"rows\.jsonl row 1: .*expected question and answers"):
        read_one(tmp_path, "nq", {"question": "who?", "answer": answer})


@pytest.mark.parametrize("name", ["webquestions", "nq", "triviaqa"])
def test_open_questions_bar_the_tool_that_answers_them(tmp_path, name):
    path = write_lines(tmp_path / "rows.jsonl", ROWS["webquestions"])
    assert load_benchmark(f"{name}={path}", None, 0).barred_tools == ("QA",)


# Questions in other languages


def in_paragraph(question):
    return (
        "Your task is to answer a question based on the following paragraph: The old bridge is "
        f"made of gold. Now answer the following question in English: {question}"
    )


def test_mlqa_file_gives_every_question_of_its_paragraphs(tmp_path):
    path = write_json(tmp_path / "test-context-en-question-de.json", SQUAD)
    expected = [(in_paragraph("Aus was?"), ("gold",)), (in_paragraph("Wie alt?"), ("old",))]
    assert asked(f"mlqa_de={path}") == asked(f"mlqa={path}") == expected


@pytest.mark.parametrize(
    "answers", [["gold"], [{"text": "gold"}], {"text": ["gold"], "answer_start": [3]}]
)
def test_mlqa_row_may_have_the_hubs_answers(tmp_path, answers):
    row = {**ROWS["mlqa"], "context": "The old bridge is made of gold.", "answers": answers}
    assert read_one(tmp_path, "mlqa", row) == [(in_paragraph("Was?"), ("gold",))]


def test_mlqa_language_of_the_name_takes_the_rows_that_name_it(tmp_path):
    rows = [{**ROWS["mlqa"], "id": n, "language": n} for n in ("de", "es", "de-2")]
    path = write_lines(tmp_path / "rows.jsonl", *rows)
    assert len(asked(f"mlqa={path}")) == 3
    assert len(asked(f"mlqa_es={path}")) == 1


def test_mlqa_several_files_are_named_by_a_glob(tmp_path):
    for language in ("de", "es"):
        write_json(tmp_path / f"test-context-en-question-{language}.json", SQUAD)
    assert len(asked(f"mlqa={tmp_path}/test-*.json")) == 4
    assert len(asked(f"mlqa_es={tmp_path}/test-*.json")) == 2


def test_mlqa_file_of_another_language_holds_no_item(tmp_path):
    path = write_json(tmp_path / "test-context-en-question-de.json", SQUAD)
    with pytest.raises(DataError, match="benchmark mlqa_es: none of 1 rows is an item"):
        asked(f"mlqa_es={path}")


def test_mlqa_paragraphs_that_are_not_english_are_refused(tmp_path):
    path = write_json(tmp_path / "test-context-de-question-en.json", SQUAD)
    with pytest.raises(DataError, match="the paragraphs are in de, not en"):
        asked(f"mlqa_en={path}")


def translated():
    """The paragraphs and answers in another language, as XQuAD has them."""
    document = json.loads(json.dumps(SQUAD))
    [paragraph] = document["data"][0]["paragraphs"]
    paragraph["context"] = "Die alte Bruecke ist aus Gold."
    paragraph["qas"][0]["answers"][0]["text"] = "Gold"
    return document


def test_xquad_paragraph_and_answers_come_from_its_english_file(tmp_path):
    path = write_json(tmp_path / "xquad.de.json", translated())
    write_json(tmp_path / "xquad.en.json", SQUAD)
    assert asked(f"xquad_de={path}")[0] == (in_paragraph("Aus was?"), ("gold",))


def test_xquad_without_its_english_file_says_so(tmp_path):
    path = write_json(tmp_path / "xquad.de.json", translated())
    with pytest.raises(
        ConfigError, match=r"benchmark xquad_de: no file matches '.*xquad\.en\.json"
    ):
        asked(f"xquad_de={path}")


def test_xquad_question_that_its_english_file_lacks_is_named(tmp_path):
    path = write_json(tmp_path / "xquad.de.json", translated())
    write_json(tmp_path / "xquad.en.json", ROWS["mlqa"])
    with pytest.raises(DataError, match=r"xquad\.de\.json row 1: .* no question 'b1'"):
        asked(f"xquad_de={path}")


def test_xquad_english_file_of_another_form_is_refused(tmp_path):
    path = write_json(tmp_path / "xquad.de.json", translated())
    write_json(tmp_path / "xquad.en.json", {"text": "no questions"})
    with pytest.raises(DataError, match="benchmark xquad_de: what belongs to its files is of ano"):
        asked(f"xquad_de={path}")


# Temporal


def test_templama_row_has_the_names_and_the_middle_of_the_year(tmp_path):
    row = {
        "id": "Q1_P108_2015",
        "query": "Ada works for _X_.",
        "answer": [{"wikidata_id": "Q2", "name": "gold"}, {"wikidata_id": "Q3", "name": "iron"}],
        "date": "2015",
        "relation": "P108",
    }
    path = write_lines(tmp_path / "test.json", row, {**row, "query": "_X_ is the head of Ada."})
    [item] = load_benchmark(f"templama={path}", None, 0).items
    assert item.prompt == f"{COMPLETE}Ada works for"
    assert (item.gold, item.date) == (("gold", "iron"), "2015-07-01")


def test_templama_like_row_is_read_under_its_own_name_only(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", ROWS["templama_like"])
    [item] = load_benchmark(f"templama_like={path}", None, 0).items
    assert (item.gold, item.date) == (("gold",), "2015-07-01")
    with pytest.raises(DataError, match=r"no field 'answer'; expected TempLAMA's query"):
        asked(f"templama={path}")


@pytest.mark.parametrize("date", ["soon", None])
def test_templama_date_that_is_no_year_is_named(tmp_path, date):
    with pytest.raises(DataError, match=r"rows\.jsonl row 1: "):
        read_one(tmp_path, "templama_like", {**ROWS["templama_like"], "date": date})


# Files


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.jsonl.gz", "rows"])
def test_rows_may_be_json_lines_under_any_name(tmp_path, name):
    path = write_lines(tmp_path / name, PROBLEM, {**PROBLEM, "id": "q2"})
    assert len(asked(f"svamp={path}")) == 2


def test_rows_may_be_one_json_list(tmp_path):
    path = write_json(tmp_path / "SVAMP.json", [PROBLEM, {**PROBLEM, "id": "q2"}])
    assert len(asked(f"svamp={path}")) == 2


def test_rows_may_be_parquet(tmp_path):
    row = {"question": "who", "answer": {"value": "A", "aliases": ["B"], "normalized_aliases": []}}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    assert asked(f"triviaqa={tmp_path}/rows.parquet") == [(f"{ANSWER}who?", ("A", "B"))]


def test_rows_may_be_a_data_set(tmp_path):
    write_lines(tmp_path / "set" / "test.jsonl", PROBLEM)
    assert len(asked(f"svamp=hf:{tmp_path}/set:test")) == 1


def test_data_set_that_is_missing_names_the_benchmark(tmp_path):
    with pytest.raises(ConfigError, match=r"benchmark svamp: hf:nowhere:test: .*expected hf:NAME"):
        asked(f"svamp=hf:{tmp_path}/nowhere:test")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", b'{"id": 1'),
        ("rows.jsonl", b"\xff\xfe"),
        ("rows.jsonl", b"[1]"),
        ("rows.json", b'"text"'),
        ("rows.json", b'[\n{"id": 1},\n{"id" 2}\n]'),
        ("rows.json.gz", b"no gzip"),
        ("rows.parquet", b"no parquet"),
        ("rows.xml", b"<Problem>"),
    ],
)
def test_file_that_cannot_be_read_is_one_line_with_the_row(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=rf"benchmark svamp: {name} row 1 cannot be read: "
    ) as caught:
        asked(f"svamp={path}")
    assert "\n" not in str(caught.value)


def test_file_that_is_a_broken_document_says_where(tmp_path):
    path = tmp_path / "rows.json"
    path.write_bytes(b'[\n{"id": 1},\n{"id" 2}\n]')
    with pytest.raises(DataError, match="line 3 column 7"):
        asked(f"svamp={path}")


def test_row_that_is_said_twice_is_one_item(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", PROBLEM, PROBLEM)
    assert len(asked(f"svamp={path}")) == 1


def test_rows_that_share_an_id_or_have_none_are_items_of_their_own(tmp_path):
    no_id = {key: value for key, value in PROBLEM.items() if key != "id"}
    other = {**PROBLEM, "body": "Ann has 4."}
    path = write_lines(tmp_path / "rows.jsonl", PROBLEM, other, no_id, no_id)
    items = load_benchmark(f"svamp={path}", None, 0).items
    assert len({item.item_id for item in items}) == 4
