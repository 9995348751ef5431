"""Defaults of Prefect's and MLflow's own settings; call before either is imported.

A setting that the environment already has is left alone.
"""

import logging
import os
from pathlib import Path

from flows.starting.orphans import end_children_with_us

_DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # One transaction for the events of a second, not one for each: SQLite has one writer at a time,
    # and on a busy machine a short-lived server ended before it had written them.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    # Automations are for the server of make ui. Their transactions read before they write, which
    # SQLite refuses at once, without waiting, if another process has written: database is locked.
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
    "PREFECT_CLIENT_MAX_RETRIES": "6",  # waits twice as long each time, two minutes in all
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}


def home() -> Path:
    """The folder shared by runs: TOOLFORMER_HOME, or .toolformer in the working directory."""
    return Path(os.environ.get("TOOLFORMER_HOME", ".toolformer"))


def show_progress() -> None:
    """Lines on standard error: one for each stage that ends, and each minute how far it is.

    On a terminal bars come in place of the latter.
    """
    from toolformer_core.progress import show_lines

    show_lines("tasks", "toolformer_core.transformers_lm.arithmetic")


def apply_defaults() -> None:
    """Quiet, local and offline; Prefect's database lies in the shared folder."""
    end_children_with_us()
    # Of MLflow's requests, which are made again; what comes of them is said elsewhere.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    database = home().absolute() / "prefect"
    if os.environ.setdefault("PREFECT_HOME", str(database)) == str(database):
        database.mkdir(parents=True, exist_ok=True)  # Prefect warns if its parent is missing
