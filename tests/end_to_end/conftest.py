"""One finished run of the whole pipeline, shared by all end-to-end tests."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from flows.cli import main as cli
from toolformer_core.config.overrides import parse_config
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.config.runtime import Runtime

DAYS = ("Tuesday", "Wednesday", "Friday")
NUM_DOCUMENTS = 14


@dataclass(frozen=True)
class Project:
    """A corpus, settings and a shared folder; `root` holds a finished run."""

    folder: Path
    config: PipelineConfig
    runtime: Runtime

    @property
    def root(self):
        return self.runtime.root

    @property
    def config_file(self):
        return self.folder / "settings.yaml"


def corpus_rows():
    """14 good texts, and one row for every way of not becoming a document."""
    for n in range(NUM_DOCUMENTS):
        a, b = n % 7 + 2, n % 5 + 1
        yield json.dumps(
            {
                "text": f"Note {n}: She bought {a} apples and {b} pears, {a + b} pieces in all. "
                f"It is {DAYS[n % 3]}, and the mill [old] is closed \U0001f600.",
                "url": f"https://example.org/{n}",
                "date": f"2021-03-{n + 1:02d}" if n % 4 else None,
            }
        )
    yield "{oops"
    yield "[1, 2]"
    yield json.dumps({"title": "no text"})
    yield json.dumps({"text": "short"})


def settings_of(corpus, model):
    return {
        "corpus": {
            "sources": [str(corpus)],
            "documents_per_shard": 4,
            "min_document_chars": 20,
        },
        "model": {"name_or_path": str(model), "dtype": "float32"},
        "tools": {
            "enabled": ["Calculator", "Calendar", "WikiSearch"],
            "wiki_search": {"passages": [str(corpus)]},
        },
        "sample": {
            "sampling_threshold": 0.0,
            "max_positions": 3,
            "samples_per_position": 3,
            "temperature": 0.5,
            "max_call_tokens": 12,
            "seed": 5,
        },
        "filter": {"filtering_threshold": 0.0, "threshold_sweep": [0.0, 0.1, 0.5]},
        "finetune": {
            "num_steps": 2,
            "batch_size": 2,
            "micro_batch_size": 2,
            "max_sequence_tokens": 64,
            "eval_every_steps": 1,
        },
        "evaluate": {"limit": 3, "decode": {"max_new_tokens": 12}},
    }


@pytest.fixture(scope="session")
def project(tmp_path_factory, home, annotating_llama_folder):
    """The settings of the run; nothing has run yet."""
    folder = tmp_path_factory.mktemp("project")
    corpus = folder / "texts.jsonl"
    corpus.write_text("".join(f"{row}\n" for row in corpus_rows()), encoding="utf-8")
    content = settings_of(corpus, annotating_llama_folder)
    (folder / "settings.yaml").write_text(yaml.safe_dump(content))
    runtime = Runtime(root=folder / "whole", home=home)
    return Project(folder=folder, config=parse_config(content), runtime=runtime)


@pytest.fixture(scope="session")
def finished(project, prefect_server):
    """The project after its first run, and the manifests of that run."""
    from flows.pipeline import run_pipeline

    return project, run_pipeline(project.config, project.runtime)


@pytest.fixture
def invoke(monkeypatch, capsys):
    """(exit code, standard output, standard error) of a command line."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["toolformer", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as exit_:
            code = exit_.code or 0
        output, errors = capsys.readouterr()
        return code, output, errors

    return run
