"""Prefect's server and MLflow on a real PostgreSQL: a small annotation is recorded in both."""

import subprocess
import sys

import psycopg2
import pytest
import yaml

from tests.end_to_end.conftest import corpus_rows, settings_of
from tests.support import postgres
from tests.support.prefect_service import ROOT, serving

pytestmark = [
    pytest.mark.services,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        postgres.programs() is None, reason="no PostgreSQL: apt-get install postgresql"
    ),
]

ANNOTATE = """
import sys
from flows.deployed import Method, Place, nightly_annotation
method = Method(config_file="settings.yaml")
nightly_annotation(method, Place(out="run", tracking=sys.argv[1]))
"""


def ask(address, sql):
    """All rows that a database gives."""
    connection = psycopg2.connect(f"postgresql://{address}")
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()
    finally:
        connection.close()


def test_annotation_is_recorded_by_prefect_and_mlflow_on_postgresql(
    tmp_path, annotating_llama_folder, monkeypatch
):
    corpus = tmp_path / "texts.jsonl"
    corpus.write_text("".join(f"{row}\n" for row in corpus_rows()), encoding="utf-8")
    settings = yaml.safe_dump(settings_of(corpus, annotating_llama_folder))
    (tmp_path / "settings.yaml").write_text(settings)
    with postgres.running(["prefect", "mlflow"]) as address:
        monkeypatch.setenv(
            "PREFECT_SERVER_DATABASE_CONNECTION_URL", f"postgresql+asyncpg://{address['prefect']}"
        )
        with serving(tmp_path) as service:
            done = subprocess.run(
                [sys.executable, "-c", ANNOTATE, f"postgresql://{address['mlflow']}"],
                cwd=tmp_path,
                env={**service.environment, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            runs = service.post("flow_runs/filter")
            assert {run["state_type"] for run in runs} == {"COMPLETED"}
        assert list((tmp_path / "run").glob("augment/*/*/manifest.json"))
        assert not list(tmp_path.glob("prefect/prefect.db"))
        flows = {name for (name,) in ask(address["prefect"], "SELECT name FROM flow")}
        assert {"annotate", "corpus", "sample", "execute", "score", "filter", "augment"} <= flows
        [(states,)] = ask(address["prefect"], "SELECT count(*) FROM task_run")
        assert states >= len(runs)
        statuses = ask(address["mlflow"], "SELECT DISTINCT status FROM runs")
        assert statuses == [("FINISHED",)]
        names = {name for (name,) in ask(address["mlflow"], "SELECT name FROM runs")}
        assert {"corpus", "sample", "execute", "score", "filter", "augment"} <= names
