"""The tuned model in MLflow's registry, as a pyfunc that runs its tools (mlflow_model.py).

Runs of the pipeline and of finetune register their model, without an alias. The weekly training
registers one only if it passed the gate, and gives it the alias `champion`.
"""

import json
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModel, LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from prefect.logging import get_run_logger

from tasks._policies import effect_task
from tasks.publish import MODEL_FILE, read_model_description
from tasks.track import tracking_uri
from toolformer_core.config import Runtime
from toolformer_core.errors import TransientStorageError
from toolformer_core.fingerprint import fingerprint
from toolformer_core.gate import GateDecision
from toolformer_core.models import ModelRef, resolve_model

REGISTERED_MODEL = "toolformer"
CHAMPION = "champion"
"""The alias of the version in use."""


@effect_task
def register_model(parent: str | None, model: ModelRef, runtime: Runtime) -> None:
    """Log the tuned model with the run, as one that MLflow can serve, and register it.

    The same model with the same description is stored once, whichever run it came out of.
    """
    if parent is None:
        return
    try:
        _registered(MlflowClient(tracking_uri(runtime)), parent, model)
    except (MlflowException, OSError) as error:
        get_run_logger().warning("MLflow did not take the model: %s", error)


@effect_task
def crown_model(
    parent: str | None, model: ModelRef, decision: GateDecision, runtime: Runtime
) -> str | None:
    """Register the model as the champion, if it passed the gate; its version.

    Raises: TransientStorageError if the registry is unreachable: the alias must not be lost.
    """
    with _needed_registry(parent, runtime) as (client, run):
        client.set_tag(run, "gate", "passed" if decision.passed else "not passed")
        client.set_tag(run, "gate_reason", decision.reason)
        for name, value in decision.figures.items():
            client.log_metric(run, f"gate/{name}", value)
        if not decision.passed:
            return None
        known = _registered(client, run, model)
        client.set_registered_model_alias(REGISTERED_MODEL, CHAMPION, known.version)
        return str(known.version)


@effect_task
def champion_model(parent: str | None, runtime: Runtime) -> ModelRef | None:
    """The registered champion, copied below ROOT/champion/VERSION; None where there is none yet.

    Raises: TransientStorageError if the registry is unreachable.
    """
    with _needed_registry(parent, runtime) as (client, _):
        found = client.search_registered_models(f"name = '{REGISTERED_MODEL}'")
        number = found[0].aliases.get(CHAMPION) if found else None
        if number is None:
            return None
        version = client.get_model_version(REGISTERED_MODEL, number)
        store = download_artifacts(
            artifact_uri=f"{version.source}/data",
            dst_path=str(runtime.root / CHAMPION / str(number)),
            tracking_uri=tracking_uri(runtime),
        )
    [folder] = (path.parent for path in Path(store).glob(f"*/{MODEL_FILE}"))
    described = read_model_description(folder)
    assert described is not None, "the file has just been found"
    named = described[0].model_copy(update={"name_or_path": str(folder)})
    return resolve_model(named, runtime.home)


def registration(model: ModelRef, runtime: Runtime) -> dict[str, str | None]:
    """Version of the registered model, and the run that made it; None where it is not registered.

    A store that does not answer is said to be out of reach.
    """
    facts = dict.fromkeys(("registered_model", "mlflow_run", "prefect_flow_run", "git_commit"))
    uri = tracking_uri(runtime)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        return facts  # asked, MLflow would make one
    client = MlflowClient(uri)
    wanted = f"name = '{REGISTERED_MODEL}' and tag.digest = '{_model_digest(model)}'"
    try:
        found = client.search_model_versions(wanted, max_results=1)
        tags = client.get_run(str(found[0].run_id)).data.tags if found else {}
    except MlflowException as error:
        return {**facts, "mlflow_run": f"MLflow at {uri} does not answer: {error}"}
    if found:
        facts["registered_model"] = f"{REGISTERED_MODEL}/{found[0].version}"
        facts["mlflow_run"] = found[0].run_id
        facts["prefect_flow_run"] = tags.get("prefect_flow_run_id")
        facts["git_commit"] = tags.get("git_commit")
    return facts


@contextmanager
def _needed_registry(parent: str | None, runtime: Runtime) -> Iterator[tuple[MlflowClient, str]]:
    """A client and the run; where the best effort of other records would not do."""
    try:
        if parent is None:
            raise MlflowException("the run could not be opened")
        yield MlflowClient(tracking_uri(runtime)), parent
    except (MlflowException, ConnectionError) as error:
        raise TransientStorageError(
            f"MLflow at {tracking_uri(runtime)} is needed to compare with the champion: {error}; "
            "start it and run again: what is done is not done again"
        ) from error


def _registered(client: MlflowClient, parent: str, model: ModelRef) -> ModelVersion:
    """The version of the model, logged with the run and registered if it is not there."""
    digest = _model_digest(model)
    found = client.search_model_versions(
        f"name = '{REGISTERED_MODEL}' and tag.digest = '{digest}'", max_results=1
    )
    known = found[0] if found else _log_model(client, parent, model, digest)
    client.log_outputs(parent, [LoggedModelOutput(known.tags["model_id"], step=0)])
    client.set_tag(parent, "registered_model", f"{REGISTERED_MODEL}/{known.version}")
    return known


def _model_digest(model: ModelRef) -> str:
    """Of the weights, and of how the model decodes with which tools."""
    described = json.loads((Path(model.path) / MODEL_FILE).read_text())
    return fingerprint(model.digest, described["tools"], described["decode"])


def _log_model(client: MlflowClient, parent: str, model: ModelRef, digest: str) -> ModelVersion:
    """Store the model's folder as a pyfunc and make it a version of the registered model."""
    experiment = client.get_run(parent).info.experiment_id
    logged = client.create_logged_model(experiment, REGISTERED_MODEL, parent)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of type hints of MLflow's own, and for want of an example
        _save_pyfunc(model, parent, logged, Path(folder) / "model")
        client.log_model_artifacts(logged.model_id, f"{folder}/model")
    client.finalize_logged_model(logged.model_id, "READY")
    if not client.search_registered_models(f"name = '{REGISTERED_MODEL}'"):
        client.create_registered_model(REGISTERED_MODEL)
    return client.create_model_version(
        REGISTERED_MODEL,
        logged.artifact_location,  # models:/ID would be looked up in MLflow's global store
        parent,
        tags={"digest": digest, "model_id": logged.model_id},
    )


def _save_pyfunc(model: ModelRef, parent: str, logged: LoggedModel, folder: Path) -> None:
    # Here, because they load pandas and more, and only a run that tunes a model needs them.
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    from tasks.mlflow_model import OUTPUTS, PARAMS, REQUIREMENTS

    save_model(
        folder,
        loader_module="tasks.mlflow_model",
        data_path=model.path,
        mlflow_model=Model(
            artifact_path=logged.artifact_location, run_id=parent, model_id=logged.model_id
        ),
        signature=ModelSignature(
            Schema([ColSpec("string")]),  # without a name: lists of texts fit as well as frames
            Schema([ColSpec("string", name) for name in OUTPUTS]),
            ParamSchema([ParamSpec(name, kind, None) for name, kind in PARAMS.items()]),
        ),
        pip_requirements=REQUIREMENTS,
        model_config={"device": "cpu"},
    )
