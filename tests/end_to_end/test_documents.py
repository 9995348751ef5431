"""What README and USING tell people to type, run on a finished run; and README's Python."""

import contextlib
import io

import pytest

from tests.support.documents import ROOT, commands, snippets

README = ROOT / "README.md"
USING = ROOT / "flows" / "cli" / "USING.md"
OPERATIONS = ROOT / "deployments" / "OPERATIONS.md"
EVALUATION = ROOT / "toolformer_core" / "evaluation" / "EVALUATION.md"

RUN_HERE = {
    README: ("annotate", "finetune"),
    USING: ("annotate", "funnel", "calls", "finetune", "generate", "evaluate", "explain", "trace"),
    OPERATIONS: ("gc", "plan"),
}
"""By document, the commands that are run here; servers and data sets of others have own tests."""

LEFT_OUT = ("--launcher", "--device", "--proposer", "dateset:12", "lora_rank")


def typed(document):
    for words in commands(document):
        if words[0] in RUN_HERE[document] and not any(
            part in word for word in words for part in LEFT_OUT
        ):
            yield pytest.param(words, id=f"{document.stem}:{' '.join(words)[:50]}")


@pytest.fixture
def here(finished, tmp_path):
    """A word of a document, as it must be for the finished run."""
    project, _ = finished
    places = {
        "mine.yaml": project.config_file,
        "out/mine": project.root,
        "out/tuned/model": project.root / "model",
        "out/tuned": tmp_path / "tuned",
        "out/control": tmp_path / "control",
        "1e9": "1e6",
        "100": "2",
    }
    return lambda word: str(places.get(word, word))


@pytest.mark.parametrize("words", [one for document in RUN_HERE for one in typed(document)])
def test_documented_command_does_what_it_says(words, here, invoke):
    if words[0] == "trace":
        words = ["trace", "--out", "out/mine", "--call", "Calculator(2 + 1)"]
    if words[0] == "explain":
        words = [*words, "--config", "mine.yaml"]
    code, output, errors = invoke(*map(here, words))
    assert code == 0, errors
    assert output or errors


def test_python_of_the_readme_prints_what_the_model_says(finished, monkeypatch):
    project, _ = finished
    [source] = snippets(README)
    source = source.replace(".toolformer/demo/model", str(project.root / "model"))
    monkeypatch.chdir(project.folder)
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        exec(compile(source, "README.md", "exec"), {})
    assert told.getvalue().strip()
