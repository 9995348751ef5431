"""What the server does by itself: end runs that have died, and tell of those that failed.

A flow run sends a heartbeat every PREFECT_FLOWS_HEARTBEAT_FREQUENCY seconds (180). One whose
process was killed together with its worker sends none and would stay "Running" for ever. A server
that was down evaluates the missing heartbeats when it is up again.
"""

from datetime import timedelta

from prefect.automations import (
    AutomationCore,
    CallWebhook,
    ChangeFlowRunState,
    EventTrigger,
    Posture,
    ResourceSpecification,
)
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType

SILENT_SECONDS = 600
"""Three heartbeats and a little: so long a run may be silent before it counts as dead."""

FLOWS = (
    *("nightly-annotation", "weekly-training", "pipeline", "parameter-sweep"),
    *("toolformer", "annotate", "champion", "calibrate", "sweep", "finetune-run", "evaluate-run"),
    *("corpus", "sample", "execute", "score", "filter", "augment", "finetune", "evaluate"),
)
"""Flows of this project, by name: tags of a deployment reach neither the runs of flows within it
nor those of the command line."""

_ENDED = ("Completed", "Failed", "Cancelled", "Cancelling", "Crashed", "TimedOut", "Suspended")
_FAILED = ("Failed", "Crashed", "TimedOut")
MESSAGE = (
    '{{ {"text": flow_run.name ~ " is " ~ flow_run.state.name ~ ": " ~ '
    '(flow_run.state.message or "no reason given"), "flow_run_id": flow_run.id | string} '
    "| tojson }}"
)
"""JSON with the key `text`, as chat servers take it."""


def reaper(silent_seconds: int) -> AutomationCore:
    """Marks runs of our flows as crashed whose heartbeats have ended without an end of the run."""
    ended = {f"prefect.flow-run.{state}" for state in _ENDED}
    return AutomationCore(
        name="toolformer: reaper",
        description="Flow runs whose process has died are marked as crashed.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *ended},
            match=ResourceSpecification.model_validate(
                {"prefect.resource.id": "prefect.flow-run.*"}
            ),
            match_related=ResourceSpecification.model_validate(
                {"prefect.resource.role": "flow", "prefect.resource.name": list(FLOWS)}
            ),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=silent_seconds),
        ),
        actions=[
            ChangeFlowRunState(
                name="Crashed",
                force=False,
                state=StateType.CRASHED,
                message=f"No heartbeat for {silent_seconds} s: its process has died. Run it again: "
                "what was finished is in the cache.",
            )
        ],
    )


def notifier(webhook: Webhook) -> AutomationCore:
    """Sends a line on each failed or crashed run of a deployment to a saved webhook."""
    block = webhook._block_document_id
    assert block is not None, "a saved block has an id"
    return AutomationCore(
        name="toolformer: notify",
        description="Failed and crashed runs of the deployments are told to a webhook.",
        trigger=EventTrigger(
            expect={f"prefect.flow-run.{state}" for state in _FAILED},
            match=ResourceSpecification.model_validate(
                {"prefect.resource.id": "prefect.flow-run.*"}
            ),
            match_related=ResourceSpecification.model_validate(
                {"prefect.resource.id": "prefect.tag.toolformer", "prefect.resource.role": "tag"}
            ),
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[CallWebhook(block_document_id=block, payload=MESSAGE)],
    )


def set_automation(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """Make the automation, or bring the one of that name up to date."""
    known = client.read_automations_by_name(automation.name)
    if known and known[0].id:
        client.update_automation(known[0].id, automation)
    else:
        client.create_automation(automation)
