"""MLflow's registry of models: a tuned model as a pyfunc that runs its tools (mlflow_model.py)."""

import json
import tempfile
import warnings
from pathlib import Path

from mlflow.entities import LoggedModel, LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tasks.output.model_folder import MODEL_FILE
from toolformer_core.fingerprint import fingerprint
from toolformer_core.models import ModelRef

REGISTERED_MODEL = "toolformer"


def registered(client: MlflowClient, parent: str, model: ModelRef) -> ModelVersion:
    """The version of the model, logged with the run and registered if it is not there."""
    digest = model_digest(model)
    found = client.search_model_versions(
        f"name = '{REGISTERED_MODEL}' and tag.digest = '{digest}'", max_results=1
    )
    known = found[0] if found else _log_model(client, parent, model, digest)
    output = LoggedModelOutput(known.tags["model_id"], step=0)
    if output.model_id not in {one.model_id for one in _outputs(client, parent)}:
        client.log_outputs(parent, [output])
    client.set_tag(parent, "registered_model", f"{REGISTERED_MODEL}/{known.version}")
    return known


def _outputs(client: MlflowClient, run: str) -> list[LoggedModelOutput]:
    outputs = client.get_run(run).outputs
    return list(outputs.model_outputs) if outputs else []


def model_digest(model: ModelRef) -> str:
    """Of the weights, and of how the model decodes with which tools."""
    described = json.loads((Path(model.path) / MODEL_FILE).read_text())
    return fingerprint(model.digest, described["tools"], described["decode"])


def _log_model(client: MlflowClient, parent: str, model: ModelRef, digest: str) -> ModelVersion:
    """Store the model's folder as a pyfunc and make it a version of the registered model."""
    experiment = client.get_run(parent).info.experiment_id
    logged = _logged_model(client, experiment, parent, digest)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of type hints of MLflow's own, and for want of an example
        _save_pyfunc(model, parent, logged, Path(folder) / "model")
        client.log_model_artifacts(logged.model_id, f"{folder}/model")
    client.finalize_logged_model(logged.model_id, "READY")
    if not client.search_registered_models(f"name = '{REGISTERED_MODEL}'"):
        _create_registered_model(client)
    return client.create_model_version(
        REGISTERED_MODEL,
        logged.artifact_location,  # models:/ID would be looked up in MLflow's global store
        parent,
        tags={"digest": digest, "model_id": logged.model_id},
    )


def _logged_model(client: MlflowClient, experiment: str, run: str, digest: str) -> LoggedModel:
    """A new one, unless one was begun and could not be registered."""
    begun = client.search_logged_models(
        [experiment], f"source_run_id = '{run}' AND tags.digest = '{digest}'", max_results=1
    )
    if begun:
        return begun[0]
    return client.create_logged_model(experiment, REGISTERED_MODEL, run, tags={"digest": digest})


def _create_registered_model(client: MlflowClient) -> None:
    """Make it, if not another run has just done so."""
    try:
        client.create_registered_model(REGISTERED_MODEL)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


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
