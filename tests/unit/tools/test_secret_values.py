import pytest

from toolformer_core.errors import ConfigError
from toolformer_core.tools.secret_values import Secrets, environment_lookup, fill, hide


def lookup(source, name):
    return f"{source}/{name}"


def test_fill_references_are_replaced_by_source_and_name():
    assert fill("Bearer ${env:A_B} ${prefect:c-d}", lookup) == "Bearer env/A_B prefect/c-d"


def test_fill_text_without_references_stays():
    assert fill("{city} $5 env:A", lookup) == "{city} $5 env:A"


def test_fill_encodes_the_secret_alone():
    assert fill("/a/${env:X}", lookup, lambda secret: secret.replace("/", "%2F")) == "/a/env%2FX"


def test_fill_a_secret_that_looks_like_a_reference_is_not_filled_again():
    assert fill("${env:A}", lambda source, name: "${env:B}") == "${env:B}"


@pytest.mark.parametrize("text", ["${A}", "${ENV:A}", "${env:}", "${file:/etc/passwd}"])
def test_fill_other_placeholder_is_refused(text):
    with pytest.raises(ConfigError, match=r"expected \$\{env:NAME\}"):
        fill(text, lookup)


def test_environment_lookup_reads_the_variable_when_it_is_called(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "first")
    assert environment_lookup("env", "SOME_KEY") == "first"
    monkeypatch.setenv("SOME_KEY", "second")
    assert environment_lookup("env", "SOME_KEY") == "second"


@pytest.mark.parametrize("value", [None, ""])
def test_environment_lookup_unset_variable_is_named(monkeypatch, value):
    monkeypatch.delenv("SOME_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("SOME_KEY", value)
    with pytest.raises(ConfigError, match="SOME_KEY is not set"):
        environment_lookup("env", "SOME_KEY")


def test_environment_lookup_prefect_block_is_refused():
    with pytest.raises(ConfigError, match="Prefect runs only"):
        environment_lookup("prefect", "api-key")


def test_hide_value_in_every_form_is_replaced():
    secret = 'a"b/c d'
    text = 'plain a"b/c d, in a url a%22b%2Fc%20d, in JSON a\\"b/c d'
    assert hide(text, [secret]) == "plain ***, in a url ***, in JSON ***"


def test_hide_value_inside_another_leaves_nothing_of_the_longer_one():
    assert hide("abcdef", ["abcd", "abcdef"]) == "***"


def test_hide_very_short_values_stay():
    assert hide("1 of 11", ["1", ""]) == "1 of 11"


def test_secrets_hides_what_was_asked_for_and_nothing_else():
    secrets = Secrets(lookup)
    fill("${env:ONE}", secrets)
    assert secrets.hide("env/ONE env/TWO") == "*** env/TWO"


def test_secrets_repr_shows_no_secret():
    secrets = Secrets(lookup)
    fill("${env:ONE}", secrets)
    assert "env/ONE" not in repr(secrets)
