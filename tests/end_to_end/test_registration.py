"""Work pools and limits on a real server: what is there is brought up to date or left alone."""

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate

from deployments.__main__ import PoolType, job_template, set_pool
from deployments.limits import LIMITS, set_limits


@pytest.fixture
def client(prefect_server):
    with get_client(sync_client=True) as client:
        yield client


def test_set_pool_brings_the_template_of_an_older_pool_up_to_date(client):
    template = job_template(PoolType.DOCKER)
    template["variables"]["properties"]["image"]["default"] = "toolformer-prefect:older"
    client.create_work_pool(WorkPoolCreate(name="older", type="docker", base_job_template=template))
    set_pool(client, "older", PoolType.DOCKER)
    assert client.read_work_pool("older").base_job_template == job_template(PoolType.DOCKER)


def test_set_pool_of_another_type_is_refused_with_one_line(client, capsys):
    set_pool(client, "processes", PoolType.PROCESS)
    with pytest.raises(SystemExit) as ended:
        set_pool(client, "processes", PoolType.KUBERNETES)
    assert ended.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "pool processes is of type process, expected kubernetes; pass another --pool" in line


def test_set_limits_leaves_alone_what_is_there_and_not_asked_for(client):
    assert set_limits(client, {"gpu": 4}) == {**LIMITS, "gpu": 4}
    client.upsert_global_concurrency_limit_by_name("tag:tool:QA", 7)
    assert set_limits(client, {"tool:Own": 2}) == {**LIMITS, "gpu": 4, "tool:QA": 7, "tool:Own": 2}
    assert client.read_global_concurrency_limit_by_name("tag:gpu").limit == 4
    for tag in (*LIMITS, "tool:Own"):  # the server is shared with other tests
        client.delete_global_concurrency_limit_by_name(f"tag:{tag}")
