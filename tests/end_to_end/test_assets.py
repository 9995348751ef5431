"""C, C* and M* as Prefect's server shows them: with what they were made from, and their digests."""

import json

import httpx

from tests.support.waiting import wait_until
from toolformer_core.shards import read_manifest, total_counts

MADE = "prefect.asset.materialization.succeeded"


def asset_events(api):
    answer = httpx.post(
        f"{api}/events/filter",
        json={"filter": {"event": {"prefix": ["prefect.asset."]}, "order": "DESC"}},
        timeout=60,
    )
    answer.raise_for_status()
    return answer.json()["events"]


def made_by_key(events):
    """The earliest materialisation of each asset."""
    return {e["resource"]["prefect.resource.id"]: e for e in events if e["event"] == MADE}


def test_assets_are_recorded_with_what_they_were_made_from(finished, prefect_server):
    project, manifests = finished
    names = {name: f"toolformer://{project.root.name}/{name}" for name in ("corpus", "augment")}
    names["model"] = f"toolformer://{project.root.name}/model"
    wait_until(lambda: set(names.values()) <= set(made_by_key(asset_events(prefect_server))))
    events = asset_events(prefect_server)
    made = made_by_key(events)
    upstream = {
        name: {
            related["prefect.resource.id"]
            for related in made[key]["related"]
            if related["prefect.resource.role"] == "asset"
        }
        for name, key in names.items()
    }
    assert upstream == {
        "corpus": set(),
        "augment": {names["corpus"]},
        "model": {names["augment"]},
    }
    refs = {ref.stage: ref for ref in map(read_manifest, manifests)}
    for stage in ("corpus", "augment"):
        payload = made[names[stage]]["payload"]
        assert payload == {
            "digest": refs[stage].digest,
            "shards": len(refs[stage].shards),
            **total_counts(refs[stage]),
        }
    model = made[names["model"]]["payload"]
    assert model["augmented digest"] == refs["augment"].digest
    assert made[names["augment"]]["resource"]["prefect.resource.name"] == "C* of whole"
    assert str(project.folder) not in json.dumps(events)
