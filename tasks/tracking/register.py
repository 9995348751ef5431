"""The tuned model in MLflow's registry, as a pyfunc that runs its tools (mlflow_model.py).

Runs of the pipeline and of finetune register their model, without an alias. The weekly training
registers one only if it passed the gate, and gives it the alias `champion`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow.artifacts import download_artifacts
from mlflow.tracking import MlflowClient

from tasks.output.model_folder import MODEL_FILE, read_model_description
from tasks.running.policies import effect_task
from tasks.tracking.journal import Journal, registering
from tasks.tracking.registry import REGISTERED_MODEL, model_digest, registered
from tasks.tracking.store import AWAY, record, tracking_uri, transfer
from toolformer_core.config.runtime import Runtime
from toolformer_core.errors import TransientStorageError
from toolformer_core.evaluation.gate import GateDecision
from toolformer_core.models import ModelRef
from toolformer_core.transformers_lm.loading import resolve_model

CHAMPION = "champion"
"""The alias of the version in use."""


@effect_task
def register_model(tracking: str, model: ModelRef, runtime: Runtime) -> None:
    """Log the tuned model with the run, as one that MLflow can serve, and register it.

    The same model with the same description is stored once, whichever run it came out of.
    """
    record(runtime, registering(tracking, model, runtime.root))


@effect_task
def crown_model(
    tracking: str, model: ModelRef, decision: GateDecision, runtime: Runtime
) -> str | None:
    """Register the model as the champion, if it passed the gate; its version.

    Raises: TransientStorageError if the registry is unreachable: the alias must not be lost.
    """
    with _needed_registry(runtime) as client:
        told = transfer(Journal.of(runtime.root, tracking), tracking_uri(runtime))
        if told.waiting:
            raise TransientStorageError(
                f"MLflow at {told.store} is not reachable ({told.reason}): the verdict of the gate "
                "is not recorded; start it and run again: what is done is not done again"
            )
        run = told.ids[tracking]
        client.set_tag(run, "gate", "passed" if decision.passed else "not passed")
        client.set_tag(run, "gate_reason", decision.reason)
        for name, value in decision.figures.items():
            client.log_metric(run, f"gate/{name}", value)
        if not decision.passed:
            return None
        known = registered(client, run, model)
        client.set_registered_model_alias(REGISTERED_MODEL, CHAMPION, known.version)
        return str(known.version)


@effect_task
def champion_model(runtime: Runtime) -> ModelRef | None:
    """The registered champion, copied below ROOT/champion/VERSION; None where there is none yet.

    Raises: TransientStorageError if the registry is unreachable.
    """
    with _needed_registry(runtime) as client:
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
    return resolve_model(named, runtime.home, runtime.device)


def registration(model: ModelRef, runtime: Runtime) -> dict[str, str | None]:
    """Version of the registered model, and the run that made it; None where it is not registered.

    A store that does not answer is said to be out of reach.
    """
    facts = dict.fromkeys(("registered_model", "mlflow_run", "prefect_flow_run", "git_commit"))
    uri = tracking_uri(runtime)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        return facts  # asked, MLflow would make one
    wanted = f"name = '{REGISTERED_MODEL}' and tag.digest = '{model_digest(model)}'"
    try:
        client = MlflowClient(uri)
        found = client.search_model_versions(wanted, max_results=1)
        tags = client.get_run(str(found[0].run_id)).data.tags if found else {}
    except AWAY as error:
        return {**facts, "mlflow_run": f"MLflow at {uri} does not answer: {error}"}
    if found:
        facts["registered_model"] = f"{REGISTERED_MODEL}/{found[0].version}"
        facts["mlflow_run"] = found[0].run_id
        facts["prefect_flow_run"] = tags.get("prefect_flow_run_id")
        facts["git_commit"] = tags.get("git_commit")
    return facts


@contextmanager
def _needed_registry(runtime: Runtime) -> Iterator[MlflowClient]:
    """A client, where the best effort of other records would not do."""
    try:
        yield MlflowClient(tracking_uri(runtime))
    except AWAY as error:
        raise TransientStorageError(
            f"MLflow at {tracking_uri(runtime)} is needed to compare with the champion: {error}; "
            "start it and run again: what is done is not done again"
        ) from error
