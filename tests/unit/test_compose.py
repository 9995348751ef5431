"""deployments/compose.yaml, read as Compose reads it; no engine is needed."""

import re

import pytest
from compose_spec import PyOptions

from tests.contract.test_layers import ROOT

TEXT = (ROOT / "deployments/compose.yaml").read_text()


def load(text):
    """The composition as a dictionary.

    Raises: ValueError if Compose would refuse it.
    """
    options = PyOptions()
    options.apply_merge = True
    found = options.from_yaml(text)
    found.validate()
    return found.to_dict()


def test_compose_file_is_what_compose_reads():
    found = load(TEXT)
    assert set(found["services"]) == {"postgres", "prefect", "mlflow", "worker"}
    assert found["configs"]["databases"]["content"].split() == [
        *("CREATE", "DATABASE", "prefect;"),
        *("CREATE", "DATABASE", "mlflow;"),
    ]
    used = {
        volume.partition(":")[0]
        for service in found["services"].values()
        for volume in service.get("volumes", [])
    }
    assert used == set(found["volumes"])


def test_compose_file_takes_the_password_from_the_environment_and_listens_on_loopback():
    found = load(TEXT)
    assert set(re.findall(r"\$\{(\w+)", TEXT)) == {"POSTGRES_PASSWORD"}
    ports = [port for one in found["services"].values() for port in one.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_file_services_start_what_the_image_installs():
    services = load(TEXT)["services"]
    own = {name: one for name, one in services.items() if name != "postgres"}
    assert {one["image"] for one in own.values()} == {"toolformer-prefect"}
    assert "-t toolformer-prefect " in (ROOT / "Makefile").read_text()
    assert ",postgres," in (ROOT / "deployments/docker/Dockerfile").read_text()
    for one in own.values():
        assert one["command"][0] in ("prefect", "mlflow")
        assert all(on["condition"] == "service_healthy" for on in one["depends_on"].values())


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("restart: unless-stopped", "restrat: unless-stopped"),
        ("condition: service_healthy", "condition: healthy"),
        ("interval: 5s", "interval: soon"),
        ("source: databases", "source: nothing"),
    ],
)
def test_compose_file_with_a_mistake_is_refused(right, wrong):
    with pytest.raises(ValueError, match=r"."):
        load(TEXT.replace(right, wrong))
