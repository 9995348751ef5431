"""Every command line in a document is one that the program takes; every link leads somewhere."""

import ast

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from flows.cli.main import app
from tests.support.documents import ROOT, commands, documents, links, snippets

TYPED = [
    pytest.param(words, id=f"{document.stem}:{' '.join(words)[:60]}")
    for document in documents()
    for words in commands(document)
]


def taken(words):
    """The names of the command and of its parent, if the program takes the words."""
    command, context, names = get_command(app), None, ["toolformer"]
    while isinstance(command, TyperGroup):
        context = command.make_context(names[-1], [], parent=context, resilient_parsing=True)
        name, command, words = command.resolve_command(context, words)
        assert command is not None, f"no such command: {words}"
        names.append(name)
    command.make_context(names[-1], list(words), parent=context).close()
    return names


@pytest.mark.parametrize("words", TYPED)
def test_documented_command_is_taken_with_its_options(words):
    assert taken(words)[1] == words[0]


@pytest.mark.parametrize("words", [["run", "--no-such-option"], ["finetune"], ["walk"]])
def test_command_that_is_not_there_is_noticed(words):
    with pytest.raises(Exception, match=r"(?i)no such|missing"):
        taken(words)


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_a_document_lead_to_files(document):
    assert [path for path in links(document) if not path.exists()] == []


def test_documents_show_commands_of_all_kinds():
    shown = {words[0] for document in documents() for words in commands(document)}
    offered = set(get_command(app).commands)
    assert offered - shown <= {"sync"}  # it needs no example: one option


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_python_of_a_document_is_python(document):
    for snippet in snippets(document):
        assert ast.parse(snippet).body
