"""How much may run at once, whatever flow run it is part of: numbers by the tags of the tasks.

Tasks on a model bear the tag `gpu`, those that call a tool `tool:NAME`. A slot is a lease of a
minute which its task renews, so that a killed process does not keep it.
"""

from collections.abc import Mapping

from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound

LIMITS: Mapping[str, int] = {"gpu": 1, "tool:WikiSearch": 8, "tool:QA": 1, "tool:MT": 4}
"""Choice: one model task per accelerator. Machines with more pass gpu=N."""


def set_limits(client: SyncPrefectClient, wanted: Mapping[str, int]) -> dict[str, int]:
    """Make or change the limits that are wanted; of the others, make those that are not there.

    All limits that are now in force, by tag: what somebody has set by hand stays.
    """
    limits = {tag: _limit_of(client, tag, number) for tag, number in LIMITS.items()}
    limits |= wanted
    for tag, number in limits.items():
        client.upsert_global_concurrency_limit_by_name(f"tag:{tag}", number)
    return limits


def _limit_of(client: SyncPrefectClient, tag: str, default: int) -> int:
    try:
        return client.read_global_concurrency_limit_by_name(f"tag:{tag}").limit
    except ObjectNotFound:
        return default
