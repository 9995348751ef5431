"""Defaults of Prefect's and MLflow's own settings."""

import os

from flows.starting.environment import apply_defaults


def test_defaults_do_not_wait_minutes_for_an_mlflow_server_and_keep_what_is_set(
    tmp_path, monkeypatch
):
    environ = {"TOOLFORMER_HOME": str(tmp_path), "MLFLOW_HTTP_REQUEST_TIMEOUT": "77"}
    monkeypatch.setattr(os, "environ", environ)
    apply_defaults()
    assert environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"
    assert environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
