"""`toolformer generate`: one-shot, from a pipe, typed in, in colour, and as JSON."""

import io
import json
import re
import sys

import pytest

from tests.end_to_end.test_cli import assert_one_line
from tests.support.tuned_folder import tuned_folder

COMPLETION = " [Calculator(3 + 4) -> 7] 7. 5 + 6 is."


@pytest.fixture(scope="module")
def folder(calling_llama_folder, tmp_path_factory):
    return tuned_folder(calling_llama_folder, tmp_path_factory.mktemp("tuned") / "model")


@pytest.fixture
def generate(invoke, folder):
    def run(*arguments):
        return invoke("generate", "--model", folder, *arguments)

    return run


class Terminal(io.StringIO):
    """Standard input or output of a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def at_terminal(generate, monkeypatch, capsys):
    """What is shown on a terminal where these lines are typed, and what is said beside it."""

    def run(typed, *arguments):
        screen = Terminal()
        monkeypatch.setattr(sys, "stdin", Terminal(typed))
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", screen)
            patched.setenv("TERM", "xterm")
            patched.delenv("NO_COLOR", raising=False)
            code, _, errors = generate(*arguments)
        return code, screen.getvalue(), errors

    return run


def without_colour(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_generate_json_has_text_answer_and_calls(generate):
    code, output, errors = generate("3 + 4 is", "--json")
    answer = json.loads(output)
    assert (code, errors) == (0, "")
    assert set(answer) == {"text", "answer", "finish_reason", "calls"}
    assert (answer["text"], answer["answer"]) == (COMPLETION, " 7. 5 + 6 is.")
    assert answer["finish_reason"] == "stop"
    [call] = answer["calls"]
    assert call.pop("latency_seconds") >= 0
    assert call == {
        "tool": "Calculator",
        "argument": "3 + 4",
        "result": "7",
        "outcome": "ok",
        "reason": "",
        "char_offset": 0,
    }


def test_generate_prints_the_text_and_its_completion(generate):
    assert generate("3 + 4 is") == (0, f"3 + 4 is{COMPLETION}\n", "")


def test_generate_tells_of_a_call_that_was_taken_back(generate):
    code, output, errors = generate("7 / 0 is")
    assert code == 0
    assert "[" not in output
    assert errors == "taken back: Calculator(7 / 0) rejected: division by zero in '7 / 0'\n"


def test_generate_reads_a_pipe(generate, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("3 + 4 is\n"))
    assert generate() == (0, f"3 + 4 is{COMPLETION}\n", "")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert_one_line(generate(), "no text")


def test_generate_on_a_terminal_shows_calls_in_colour(at_terminal):
    code, shown, errors = at_terminal("", "3 + 4 is")
    assert (code, errors) == (0, "")
    assert without_colour(shown) == f"3 + 4 is{COMPLETION}\n"
    assert "\x1b[36m [Calculator(3 + 4) ->\x1b[0m\x1b[32m 7]\x1b[0m" in shown


def test_generate_on_a_terminal_takes_line_after_line(at_terminal):
    code, shown, _ = at_terminal("3 + 4 is\n7 / 0 is\n\n3 + 4 is\n")
    assert code == 0
    first, second = without_colour(shown).split("7 / 0 is")
    assert f"3 + 4 is{COMPLETION}\n" in first
    assert " [Calculator(7 / 0) -> rejected: division by zero in '7 / 0']" in second
    assert COMPLETION not in second


def test_generate_on_a_terminal_goes_on_after_a_text_that_is_too_long(at_terminal):
    code, shown, errors = at_terminal(f"{'3 + 4 is ' * 4096}\n3 + 4 is\n")
    assert code == 0
    assert "shorten the prompt" in errors
    assert f"3 + 4 is{COMPLETION}\n" in without_colour(shown)


@pytest.mark.parametrize(
    "forbidden", [["--disable-calls"], ["--max-calls", "0"], ["--call-top-k", "0"]], ids=" ".join
)
def test_generate_calls_can_be_forbidden(generate, forbidden):
    _, output, _ = generate("3 + 4 is", *forbidden, "--json")
    assert json.loads(output)["calls"] == []


def test_generate_settings_are_those_of_the_options(generate):
    short = json.loads(generate("The mill", "--max-new-tokens", "2", "--json")[1])
    assert short["finish_reason"] == "length"
    drawn = [
        json.loads(
            generate("The", "--temperature", "2", "--top-p", "0.9", "--seed", seed, "--json")[1]
        )["text"]
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    certain = generate("The mill", "--call-threshold", "1", "--json")[1]
    assert json.loads(certain)["calls"] == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--temperature", "9"], ["temperature = 9.0", "less than or equal to 5"]),
        (["--max-new-tokens", "0"], ["max_new_tokens = 0"]),
        (["--tools", "Oracle"], ["'Oracle'", "Calculator"]),
        (["--device", "cuda:77"], ["'cuda:77'"]),
    ],
    ids=str,
)
def test_generate_bad_option_is_one_line(generate, arguments, expected):
    assert_one_line(generate("x", *arguments), *expected)
