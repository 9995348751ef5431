"""What deployments/ declares, against Prefect's own models, the flows and Kubernetes' schemas."""

import asyncio
import datetime
import itertools
import json
import re
import tomllib
import uuid

import kubernetes_validate
import pytest
import yaml
from jinja2 import Environment
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.utilities.importtools import import_object
from prefect.utilities.templating import apply_values

from deployments import automations
from deployments.__main__ import PoolType, register
from deployments.limits import LIMITS
from flows import deployed
from tests.contract.test_layers import ROOT
from tests.support.builders import pipeline_config
from toolformer_core.config.presets import PRESETS
from toolformer_core.errors import ConfigError
from toolformer_core.evaluation.gate import GateConfig
from toolformer_core.tools.registry import BUILT_IN

FOLDER = ROOT / "deployments"
PLAN = yaml.safe_load((FOLDER / "prefect.yaml").read_text())
ENVIRONMENT = {"TOOLFORMER_POOL": "pool", "TOOLFORMER_WORK": "/somewhere"}
KUBERNETES = "1.31"


def job_template(pool_type):
    return json.loads((FOLDER / pool_type / "base-job-template.json").read_text())


def deployments():
    return {deployment["name"]: deployment for deployment in PLAN["deployments"]}


def test_prefect_yaml_is_what_prefect_reads():
    found = PrefectYamlModel.model_validate(PLAN)
    assert [deployment.name for deployment in found.deployments] == [
        "nightly-annotation",
        "weekly-training",
        "pipeline",
        "sweep",
    ]
    schedules = {d.name: [s.cron for s in d.schedules or ()] for d in found.deployments}
    assert schedules["nightly-annotation"] == ["0 2 * * *"]
    assert schedules["weekly-training"] == ["0 4 * * 0"]


def test_prefect_yaml_leaves_no_name_of_the_environment_open(monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    filled = apply_values(PLAN, {}, remove_notset=False)
    assert "{{" not in json.dumps(filled)
    assert {d["work_pool"]["name"] for d in filled["deployments"]} == {"pool"}
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"{name}=" in makefile for name in ENVIRONMENT)


@pytest.mark.parametrize("name", deployments())
def test_deployment_starts_a_flow_that_takes_its_parameters(name):
    deployment = deployments()[name]
    flow = import_object(deployment["entrypoint"])
    taken = flow.validate_parameters(deployment["parameters"])
    assert set(taken) == set(deployment["parameters"])


@pytest.mark.parametrize("name", deployments())
def test_deployment_form_describes_every_field(name):
    flow = import_object(deployments()[name]["entrypoint"])
    for model in flow.parameters.model_dump()["definitions"].values():
        assert model["description"]
        assert all(field["description"] for field in model["properties"].values())


def test_method_offers_the_presets():
    offered = deployed.Method.model_json_schema()["properties"]["preset"]["enum"]
    assert set(offered) == set(PRESETS)


def test_training_config_evaluates_what_the_gate_compares():
    nights = pipeline_config("evaluate.arms=[base,base_c]", "evaluate.limit=9")
    training = deployed.Training(
        data="nights", benchmarks=["dateset", "svamp=s.jsonl"], changes=["finetune.num_steps=7"]
    )
    gate = GateConfig(benchmark="dateset", texts="wikitext=w.gz")
    found = deployed.training_config(nights, training, gate)
    assert found.evaluate.benchmarks == ("dateset", "wikitext=w.gz", "svamp=s.jsonl")
    assert found.evaluate.arms == ("base", "disabled", "on")  # base_c would train a second model
    assert (found.evaluate.limit, found.finetune.num_steps) == (9, 7)
    assert found.sample == nights.sample


def test_training_config_refuses_two_benchmarks_of_one_name():
    nights = pipeline_config()
    training = deployed.Training(data="nights", benchmarks=["heldout=mine.txt"])
    with pytest.raises(ConfigError, match="heldout is named twice"):
        deployed.training_config(nights, training, GateConfig())


def test_variations_are_those_of_the_command_line():
    varied = deployed.Varied(
        filtering_threshold=[0.3, 1.0], seeds=[1, 2], others=["score.token_weights=linear|flat"]
    )
    found = deployed.varied_settings(varied)
    assert [(v.name, tuple(v.values)) for v in found] == [
        ("seed", ("1", "2")),
        ("score.token_weights", ("linear", "flat")),
        ("tau_f", ("0.3", "1")),
    ]


def test_limits_are_of_tags_that_tasks_bear():
    assert set(LIMITS) <= {"gpu", *(f"tool:{name}" for name in BUILT_IN)}


def test_reaper_looks_after_every_flow_and_after_no_other():
    sources = [path.read_text() for path in (ROOT / "flows").glob("*.py")]
    named = [re.findall(r'@flow\(\s*name="([a-z-]+)"', source) for source in sources]
    assert sorted(automations.FLOWS) == sorted(itertools.chain(*named))


@pytest.mark.parametrize(("flow", "is_ours"), [("corpus", True), ("annotate", True), ("x", False)])
@pytest.mark.parametrize("event", ["prefect.flow-run.heartbeat", "prefect.flow-run.Completed"])
def test_reaper_sees_runs_within_runs_and_of_the_command_line(event, flow, is_ours):
    trigger = automations.reaper(75).trigger.model_dump(mode="json")
    role = {"prefect.resource.id": "prefect.flow.1", "prefect.resource.role": "flow"}
    seen = ReceivedEvent(
        occurred=datetime.datetime.now(datetime.UTC),
        event=event,
        resource={"prefect.resource.id": "prefect.flow-run.2"},
        related=[{**role, "prefect.resource.name": flow}],
        id=uuid.uuid4(),
    )
    assert EventTrigger.model_validate(trigger).covers(seen) == is_ours


def test_reaper_waits_longer_than_three_heartbeats():
    from prefect.settings import get_current_settings

    heartbeat = get_current_settings().flows.heartbeat_frequency
    assert heartbeat is not None
    assert 3 * heartbeat < automations.SILENT_SECONDS


def test_notification_is_json_whatever_the_failure_says():
    state = {"name": "Failed", "message": 'a "quoted"\nline \\ and é'}
    run = {"id": "1234", "name": "nightly", "state": state}
    told = json.loads(Environment().from_string(automations.MESSAGE).render(flow_run=run))
    assert told == {"text": f"nightly is Failed: {state['message']}", "flow_run_id": "1234"}


@pytest.mark.parametrize("text", ["gpu", "gpu=", "gpu=0", "gpu=many", "=3"])
def test_register_refuses_a_limit_that_is_none(text, capsys):
    with pytest.raises(SystemExit) as ended:
        register(limit=[text])
    assert ended.value.code == 2
    assert f"--limit {text!r}: expected TAG=NUMBER" in capsys.readouterr().err


@pytest.mark.parametrize("pool_type", ["docker", "kubernetes"])
def test_pool_template_is_one_that_prefect_takes(pool_type):
    assert pool_type in set(PoolType)
    template = job_template(pool_type)
    WorkPoolCreate(name="pool", type=pool_type, base_job_template=template)
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(template["job_configuration"])))
    assert used == set(template["variables"]["properties"])


def worker_configuration(kind, template):
    """What the worker of a pool makes of the template and the job variables of a deployment."""
    variables = deployments()["nightly-annotation"]["work_pool"]["job_variables"]
    made = asyncio.run(kind.from_template_and_values(template, {**variables, "name": "run"}))
    made.command = "prefect flow-run execute"
    return made


def test_images_and_pods_run_as_one_user_that_may_write_the_claim():
    assert "\nUSER 1000\n" in (FOLDER / "docker/Dockerfile").read_text()
    job = job_template("kubernetes")["job_configuration"]["job_manifest"]["spec"]
    [worker] = [d["spec"] for d in worker_documents() if d["kind"] == "Deployment"]
    for pod in (job["template"]["spec"], worker["template"]["spec"]):
        user = {"runAsUser": 1000, "runAsNonRoot": True, "fsGroup": 1000}
        assert pod["securityContext"] == user
        assert pod["containers"][0]["securityContext"] == {"allowPrivilegeEscalation": False}


def test_kubernetes_worker_watches_its_own_namespace_alone(monkeypatch):
    from prefect_kubernetes.settings import KubernetesSettings

    [worker] = [d["spec"] for d in worker_documents() if d["kind"] == "Deployment"]
    [container] = worker["template"]["spec"]["containers"]
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    assert KubernetesSettings().observer.namespaces == {"toolformer"}


def test_docker_job_mounts_the_folder_of_the_image():
    from prefect_docker.worker import DockerWorkerJobConfiguration

    made = worker_configuration(DockerWorkerJobConfiguration, job_template("docker"))
    [volume] = made.volumes
    dockerfile = (FOLDER / "docker/Dockerfile").read_text()
    assert f"VOLUME {volume.partition(':')[2]}\n" in dockerfile
    assert made.env["TOOLFORMER_HOME"] == ".toolformer"
    assert made.auto_remove


def test_kubernetes_job_is_valid_and_mounts_the_claim_of_the_worker():
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    made = worker_configuration(KubernetesWorkerJobConfiguration, job_template("kubernetes"))
    manifest = made.job_manifest
    [container] = manifest["spec"]["template"]["spec"]["containers"]
    container["env"] = [{"name": name, "value": value} for name, value in made.env.items()]
    container["args"] = made.command.split()
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    [volume] = manifest["spec"]["template"]["spec"]["volumes"]
    claims = [d["metadata"] for d in worker_documents() if d["kind"] == "PersistentVolumeClaim"]
    assert [volume["persistentVolumeClaim"]["claimName"]] == [claim["name"] for claim in claims]
    assert made.namespace == claims[0]["namespace"]


def worker_documents():
    return list(yaml.safe_load_all((FOLDER / "kubernetes/worker.yaml").read_text()))


@pytest.mark.parametrize("document", worker_documents(), ids=lambda document: document["kind"])
def test_kubernetes_worker_is_valid(document):
    kubernetes_validate.validate(document, KUBERNETES, strict=True)
    namespace = "toolformer"
    metadata = document["metadata"]
    assert namespace in (metadata.get("namespace"), metadata["name"])


def test_dockerfile_copies_every_package_and_installs_known_extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    dockerfile = (FOLDER / "docker/Dockerfile").read_text()
    packages = {
        name.removesuffix("*")
        for name in project["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    assert packages == set(re.findall(r"^COPY (\w+) \1$", dockerfile, re.MULTILINE))
    [extras] = re.findall(r'"\.\[(.+)\]"', dockerfile)
    assert set(extras.split(",")) <= set(project["project"]["optional-dependencies"])
    files = re.findall(r"^COPY (.+) \./$", dockerfile, re.MULTILINE)[0].split()
    assert all((ROOT / name).is_file() for name in files)
    ignored = (FOLDER / "docker/Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == {*packages, *files}
