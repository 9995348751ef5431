"""Benchmarks by name: what is known, what is read and how often, and what identifies it."""

import itertools
import os

import pytest

from tests.support.benchmark_files import PROBLEM, SQUAD, small_set, write_json, write_lines
from toolformer_core.benchmarks.known import FILE_SETS, GENERATED
from toolformer_core.benchmarks.registry import benchmark_digest, known_benchmarks, load_benchmark
from toolformer_core.errors import ConfigError, DataError


def problems(path, num_rows, first=0):
    return write_lines(path, *({**PROBLEM, "id": n} for n in range(first, first + num_rows)))


def test_generated_word_problems_same_seed_gives_the_same_problems():
    items = load_benchmark("word_problems", 5, 1).items
    assert items == load_benchmark("word_problems", 7, 1).items[:5]
    other = load_benchmark("word_problems", 5, 2).items
    assert not {item.prompt for item in items} & {item.prompt for item in other}


def test_generated_word_problems_own_answer_is_right():
    benchmark = load_benchmark("word_problems", 10, 0)
    assert all(benchmark.is_right(f" {item.gold[0]}.", item.gold) for item in benchmark.items)
    assert all(item.prompt.endswith(" The answer is") for item in benchmark.items)


def test_generated_word_problems_without_limit_are_200():
    assert len(load_benchmark("word_problems", None, 0).items) == 200


@pytest.mark.parametrize("limit", [1, 3, None])
def test_load_benchmark_limit_takes_the_first_items(tmp_path, limit):
    spec = f"svamp={problems(tmp_path / 'rows.jsonl', 5)}"
    benchmark = load_benchmark(spec, limit, 0)
    assert benchmark.name == "svamp"
    assert benchmark.items == load_benchmark(spec, 5, 0).items[:limit]


def test_load_benchmark_reads_no_further_than_its_limit(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", PROBLEM, {"wrong": "row"})
    assert len(load_benchmark(f"svamp={path}", 1, 0).items) == 1
    for _ in range(2):  # the failure does not look like the end of the file
        with pytest.raises(DataError, match="row 2"):
            load_benchmark(f"svamp={path}", None, 0)


def test_load_benchmark_reads_a_file_once(tmp_path):
    path = problems(tmp_path / "rows.jsonl", 3)
    first = load_benchmark(f"svamp={path}", 2, 0).items
    again = load_benchmark(f"svamp={path}", None, 0).items
    assert all(one is other for one, other in zip(first, again, strict=False))


def test_load_benchmark_changed_file_is_read_again(tmp_path):
    path = problems(tmp_path / "rows.jsonl", 3)
    assert len(load_benchmark(f"svamp={path}", None, 0).items) == 3
    problems(path, 3, first=5)
    os.utime(path, (1, 1))
    changed = load_benchmark(f"svamp={path}", None, 0).items
    assert {item.item_id for item in changed}.isdisjoint(
        item.item_id for item in load_benchmark(f"svamp={problems(path, 3)}", None, 0).items
    )


@pytest.mark.parametrize("spec", ["lama", "dateset=x.jsonl", "", "mlqa_fr=x"])
def test_load_benchmark_unknown_name_lists_the_known_ones(spec):
    with pytest.raises(
        ConfigError, match=r"known benchmarks: dateset, word_problems, .*asdiv=PATH"
    ):
        load_benchmark(spec, None, 0)


@pytest.mark.parametrize("name", [name for name, form in FILE_SETS.items() if not form.default])
def test_load_benchmark_without_its_file_says_what_to_pass(name):
    for spec in (name, f"{name}=", f"{name}=missing.jsonl"):
        with pytest.raises(ConfigError, match=rf"^benchmark {name}: no file") as caught:
            load_benchmark(spec, None, 0)
        assert "\n" not in str(caught.value)


def test_load_benchmark_without_its_file_names_the_forms():
    for spec in ("asdiv", "asdiv=missing.jsonl"):
        with pytest.raises(
            ConfigError, match=r"pass --benchmark asdiv=PATH or .* with body, quest"
        ):
            load_benchmark(spec, None, 0)


def test_load_benchmark_folder_says_to_name_its_files(tmp_path):
    with pytest.raises(ConfigError, match=r"benchmark asdiv: .* is a folder; name its files"):
        load_benchmark(f"asdiv={tmp_path}", None, 0)


def test_load_benchmark_file_without_items_is_refused(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", {**PROBLEM, "answer_number": None})
    with pytest.raises(DataError, match="benchmark asdiv: none of 1 rows is an item; expected bod"):
        load_benchmark(f"asdiv={path}", None, 0)


def test_known_benchmarks_name_every_one():
    names = {spec.partition("=")[0] for spec in known_benchmarks()}
    assert names == {*GENERATED, *FILE_SETS}
    assert "overcalling" in known_benchmarks()


def test_benchmark_digest_depends_on_the_name_and_content_alone(tmp_path):
    path = problems(tmp_path / "a" / "rows.jsonl", 3)
    same = problems(tmp_path / "b" / "other.jsonl", 3)
    changed = problems(tmp_path / "c" / "rows.jsonl", 4)
    digest = benchmark_digest(f"svamp={path}", 0)
    assert digest == benchmark_digest(f"svamp={same}", 5)
    others = {benchmark_digest(f"svamp={changed}", 0), benchmark_digest(f"asdiv={path}", 0)}
    assert len(others | {digest}) == 3


def test_benchmark_digest_of_generated_sets_depends_on_the_seed():
    specs = itertools.product(("dateset", "word_problems"), (0, 1))
    assert len({benchmark_digest(*spec) for spec in specs}) == 4
    assert benchmark_digest("dateset", 0) == benchmark_digest("dateset", 0)


def test_benchmark_digest_covers_what_belongs_to_the_files(tmp_path):
    path = write_json(tmp_path / "xquad.de.json", SQUAD)
    write_json(tmp_path / "xquad.en.json", SQUAD)
    digest = benchmark_digest(f"xquad={path}", 0)
    write_json(tmp_path / "xquad.en.json", {**SQUAD, "version": 2})
    assert benchmark_digest(f"xquad={path}", 0) != digest


def test_benchmark_digest_of_a_data_set_depends_on_its_content(tmp_path):
    write_lines(tmp_path / "set" / "test.jsonl", PROBLEM)
    assert len(benchmark_digest(f"svamp=hf:{tmp_path}/set:test", 0)) == 16


@pytest.mark.parametrize("name", ["asdiv", "webquestions", "mlqa", "lama_squad", "overcalling"])
def test_load_benchmark_only_the_papers_tools_are_barred(tmp_path, name):
    barred = load_benchmark(small_set(tmp_path, name), 1, 0).barred_tools
    assert barred == {"webquestions": ("QA",), "lama_squad": ("WikiSearch",)}.get(name, ())
