"""Options declared once: what the command line and the forms make of the same models."""

from typing import Annotated

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from flows.cli.main import app
from flows.deployed import Place as Form
from flows.starting.options import Method, OnCommandLine, Varied, drawn, read_options
from toolformer_core.config.base import Settings
from toolformer_core.config.runtime import AnnotationPlace, Runtime
from toolformer_core.errors import ConfigError


class Told(Settings):
    """Options of every kind."""

    needed: int = Field(ge=1, description="Needed.")
    word: str = Field(default="", description="A word.")
    numbers: Annotated[list[float], OnCommandLine("--number", commas=True)] = Field(
        default=[], description="Numbers."
    )
    names: list[str] = Field(default=["a"], description="Names.")
    is_on: bool = Field(default=False, description="On.")


def told(*words):
    """What a command with these options is given; the words of its refusal, if it is refused."""
    given = []
    command = typer.Typer()

    @command.command()
    @drawn
    def tell(told: Told, other: Annotated[int, typer.Option()] = 3) -> None:
        given.append((told, other))

    result = CliRunner().invoke(command, words)
    return given[0] if given else (result.exit_code, str(result.exception), result.output)


def test_drawn_options_of_every_kind_reach_the_command():
    words = ["--needed", "2", "--word", "w", "--number", "0.5, 1", "--names", "x", "--names", "y"]
    found, other = told(*words, "--is-on", "--other", "4")
    expected = {"needed": 2, "word": "w", "numbers": [0.5, 1.0], "names": ["x", "y"], "is_on": True}
    assert (found.model_dump(), other) == (expected, 4)


def test_drawn_options_that_are_not_given_have_the_defaults_of_the_model():
    assert told("--needed", "1") == (Told(needed=1), 3)


def test_drawn_required_option_is_asked_for():
    code, _, output = told()
    assert code == 2
    assert "Missing option '--needed'" in output


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"needed": 0}, "--needed 0: Input should be greater than or equal to 1"),
        ({"needed": 1, "numbers": "1,much"}, "--number .*much.*: Input should be a valid number"),
        ({"needed": 1, "numbers": "1,,2"}, "--number"),
    ],
)
def test_read_options_value_out_of_bounds_names_the_option(given, expected):
    with pytest.raises(ConfigError, match=expected):
        read_options(Told, given)


def test_place_of_command_line_form_and_runtime_is_declared_once():
    declared = AnnotationPlace.model_fields
    assert declared.keys() <= Form.model_fields.keys() - {"out", "tracking"}
    assert declared.keys() <= Runtime.model_fields.keys()
    for command in ("run", "annotate", "sweep"):
        shown = CliRunner().invoke(app, [command, "--help"]).output
        assert all(f"--{name.replace('_', '-')} " in shown for name in declared)


def test_commands_are_listed_in_the_order_of_their_use():
    shown = CliRunner().invoke(app, ["--help"]).output
    listed = [line.split()[0] for line in shown.partition("Commands:")[2].splitlines() if line]
    wanted = ["run", "annotate", "calibrate", "finetune", "generate", "serve", "evaluate", "sweep"]
    assert [name for name in listed if name in wanted] == wanted


@pytest.mark.parametrize("model", [Method, Varied, Form])
def test_every_field_of_a_form_has_a_title_and_a_description(model):
    assert all(field.title and field.description for field in model.model_fields.values())
