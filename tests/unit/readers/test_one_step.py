import ast
import itertools
import operator
import re

import pytest

from toolformer_core.benchmarks.registry import benchmark_digest, load_benchmark
from toolformer_core.errors import ConfigError
from toolformer_core.readers.one_step import sums, word_problems
from toolformer_core.readers.rows import TextRow
from toolformer_core.readers.source import open_source

OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def numbers(text):
    return [int(number) for number in re.findall(r"[0-9]+", text)]


@pytest.mark.parametrize("side", ["read", "asked"])
def test_word_problems_answer_follows_from_the_two_numbers_of_the_question(side):
    for k, problem in enumerate(itertools.islice(word_problems(side, 3), 200)):
        one, other = sorted(numbers(problem.question), reverse=True)
        assert OPERATIONS["+-*/"[k % 4]](one, other) == problem.answer
        assert numbers(problem.worked)[-1] == problem.answer


def test_sums_answer_is_that_of_the_expression():
    for problem in itertools.islice(sums(3), 100):
        expression = re.search(r"([0-9]+) ([-+*]) ([0-9]+)", problem.question)
        one, sign, other = expression.groups()
        assert OPERATIONS[sign](ast.literal_eval(one), ast.literal_eval(other)) == problem.answer


def test_word_problems_read_and_asked_have_no_question_in_common():
    def shapes(side):
        problems = itertools.islice(word_problems(side, 0), 2000)
        return {re.sub(r"[A-Z]\w+|[0-9]+", "_", p.question)[:25] for p in problems}

    assert shapes("read").isdisjoint(shapes("asked"))


def test_one_step_source_rows_are_problems_with_their_answers():
    rows = list(open_source("one-step:?size=3&seed=5").rows(1000))
    expected = list(itertools.islice(word_problems("read", 5), 3))
    assert all(isinstance(row, TextRow) for row in rows)
    assert [row.text for row in rows] == [f"{p.question}\n{p.worked}" for p in expected]


def test_one_step_source_identity_follows_size_and_seed():
    names = ("one-step:?size=3&seed=5", "one-step:?size=4&seed=5", "one-step:?size=3&seed=6")
    assert len({open_source(name).identity() for name in names}) == 3
    assert open_source(names[0]).identity() == open_source("one-step:?seed=5&size=3").identity()


@pytest.mark.parametrize("query", ["", "?size=0", "?size=many", "?size=3&length=2", "?seed=1"])
def test_one_step_source_refuses_other_parameters(query):
    with pytest.raises(ConfigError, match=r"expected one-step:\?size=N&seed=S"):
        open_source(f"one-step:{query}")


@pytest.mark.parametrize("name", ["one_step", "sums"])
def test_generated_problems_own_answer_is_right_and_seed_tells(name):
    benchmark = load_benchmark(name, 20, 1)
    assert all(benchmark.is_right(f" {item.gold[0]}.", item.gold) for item in benchmark.items)
    assert all(item.prompt.endswith(" The answer is") for item in benchmark.items)
    assert load_benchmark(name, None, 1).items[:20] == benchmark.items
    assert load_benchmark(name, 20, 2).items != benchmark.items
    assert benchmark_digest(name, 1) != benchmark_digest(name, 2)
