"""What the server needs besides the deployments: the work pool, limits and automations.

`make deploy` runs this before `prefect deploy`; run again, it changes what differs.
"""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker
from pydantic import SecretStr

from deployments.automations import SILENT_SECONDS, notifier, reaper, set_automation
from deployments.limits import set_limits

_WEBHOOK = "toolformer-failures"


class PoolType(StrEnum):
    """Where runs of a pool are started."""

    PROCESS = "process"
    DOCKER = "docker"
    KUBERNETES = "kubernetes"


def register(
    pool: Annotated[str, typer.Option(help="Work pool of the deployments.")] = "toolformer",
    pool_type: Annotated[PoolType, typer.Option(help="Of a new pool.")] = PoolType.PROCESS,
    limit: Annotated[
        list[str] | None, typer.Option(help="TAG=NUMBER, as in gpu=4; repeatable.")
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(
            envvar="TOOLFORMER_WEBHOOK",
            help="Address that is told of failed runs, as JSON with text. Such an address is a "
            "secret: better in the environment than here, where other users see it.",
        ),
    ] = None,
    silent_seconds: Annotated[
        int, typer.Option(min=60, help="Without a heartbeat for so long, a run has crashed.")
    ] = SILENT_SECONDS,
) -> None:
    """Make the work pool, set the limits and the automations on the running server."""
    wanted = dict(map(_parse_limit, limit or []))
    with get_client(sync_client=True) as client:
        try:
            client.hello().raise_for_status()
        except httpx.HTTPError as error:
            typer.echo(
                f"toolformer: no Prefect server at {client.api_url} ({error}); start one with "
                "make ui, or set PREFECT_API_URL",
                err=True,
            )
            sys.exit(1)
        set_pool(client, pool, pool_type)
        limits = set_limits(client, wanted)
        set_automation(client, reaper(silent_seconds))
        if webhook:
            block = Webhook(url=SecretStr(webhook))
            block.save(_WEBHOOK, overwrite=True)
            set_automation(client, notifier(block))
    typer.echo(
        f"pool {pool} ({pool_type}); limits "
        + ", ".join(f"{tag} {number}" for tag, number in limits.items())
    )


def set_pool(client: SyncPrefectClient, name: str, kind: PoolType) -> None:
    """Make the work pool, or bring the template of its jobs up to date.

    Ends with code 1 if there is one of another type: a type cannot be changed.
    """
    try:
        known = client.read_work_pool(name)
    except ObjectNotFound:
        client.create_work_pool(
            WorkPoolCreate(name=name, type=str(kind), base_job_template=job_template(kind))
        )
        return
    if known.type != kind:
        typer.echo(
            f"toolformer: work pool {name} is of type {known.type}, expected {kind}; pass another "
            "--pool, or delete it with prefect work-pool delete",
            err=True,
        )
        sys.exit(1)
    client.update_work_pool(name, WorkPoolUpdate(base_job_template=job_template(kind)))


def job_template(kind: PoolType) -> dict[str, Any]:  # Any: JSON
    """How runs of a pool are started; that of processes is Prefect's own."""
    if kind is PoolType.PROCESS:
        return ProcessWorker.get_default_base_job_template()
    template: dict[str, Any] = json.loads(
        (Path(__file__).parent / kind / "base-job-template.json").read_text()
    )
    return template


def _parse_limit(text: str) -> tuple[str, int]:
    tag, _, number = text.rpartition("=")
    if not tag or not number.isdecimal() or int(number) < 1:
        typer.echo(f"toolformer: --limit {text!r}: expected TAG=NUMBER, as in gpu=4", err=True)
        sys.exit(2)
    return tag, int(number)


if __name__ == "__main__":
    typer.run(register)
