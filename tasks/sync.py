"""Sync: index and report of a run, made anew from its shards where they are not right."""

from pathlib import Path

from tasks.evaluate import score_shards
from tasks.index.query import query
from tasks.output.json_file import read_json, write_whole
from tasks.output.record import read_run
from tasks.report.artifacts import PAGE, index_of, place_index
from tasks.report.evaluation_page import render_evaluation
from tasks.report.page import render_page
from toolformer_core.call_rule import with_choice
from toolformer_core.errors import ConfigError
from toolformer_core.fingerprint import fingerprint
from toolformer_core.shards import read_manifest


def refresh(root: Path) -> dict[str, str]:
    """What was made anew, and why.

    Raises: ConfigError if the folder holds no run, ShardIntegrityError if shards are missing.
    """
    run = read_run(root)
    manifests = run.manifests
    if not manifests:
        return {}
    config = run.config
    index, page = index_of(root), root / PAGE
    stages = [read_manifest(manifest) for manifest in manifests]
    done = {}
    if why := _index_fault(index, manifests):
        index = place_index(stages, config, root)
        done["index"] = why
    if why := _page_fault(page, index):
        answered = [shard for ref in stages if ref.stage == "evaluate" for shard in ref.shards]
        scores = score_shards.fn(answered, config.evaluate)
        is_whole = any(ref.stage == "corpus" for ref in stages)
        links = run.links or _known(fingerprint(config), manifests)
        links = {**links, "output folder": str(root)}
        if is_whole:
            write_whole(page, render_page(index, config, scores, links, run.choice))
        else:
            config = with_choice(config, run.choice)
            write_whole(page, render_evaluation(index, config, scores, links))
        done["report"] = why
    return done


def _known(digest: str, manifests: list[Path]) -> dict[str, str]:
    """What is known of a run that ended before its report was written."""
    cure = "run again, which writes it"
    commits = {str(read_json(path, cure).get("git_commit", "unknown")) for path in manifests}
    return {
        "MLflow run": "not known: this report was made anew by toolformer sync",
        "fingerprint": digest,
        "git commit": ", ".join(sorted(commits)),
        "versions": "not known",
    }


def _index_fault(index: Path, manifests: list[Path]) -> str:
    """Why the index must be built anew; empty if it need not."""
    if not index.is_file():
        return "it was missing"
    if index.stat().st_mtime < max(manifest.stat().st_mtime for manifest in manifests):
        return "it was older than the results"
    try:
        query(index, "SELECT count(*) FROM candidates")
    except ConfigError:
        return "it was damaged"
    return ""


def _page_fault(page: Path, index: Path) -> str:
    """Why the report must be written anew; empty if it need not."""
    if not page.is_file():
        return "it was missing"
    if page.stat().st_mtime < index.stat().st_mtime:
        return "it was older than the index"
    is_whole = page.read_text(encoding="utf-8", errors="replace").rstrip().endswith("</html>")
    return "" if is_whole else "it was damaged"
