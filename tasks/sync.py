"""Sync: index and report of a run, made anew from its shards where they are not right."""

from pathlib import Path

from tasks.evaluate import score_shards
from tasks.evaluation_page import render_evaluation
from tasks.index import build_index, query
from tasks.page import render_page
from tasks.publish import read_run, write_whole
from tasks.report import INDEX, PAGE, run_facts
from toolformer_core.errors import ConfigError
from toolformer_core.overrides import parse_config
from toolformer_core.shards import read_manifest


def refresh(root: Path) -> dict[str, str]:
    """What was made anew, and why.

    Raises: ConfigError if the folder holds no run, ShardIntegrityError if shards are missing.
    """
    content, manifests = read_run(root)
    if not manifests:
        return {}
    config = parse_config(content)
    index, page = root / INDEX, root / PAGE
    stages = [read_manifest(manifest) for manifest in manifests]
    done = {}
    if why := _index_fault(index, manifests):
        try:
            build_index(stages, config, index)
        except (PermissionError, IsADirectoryError) as error:
            raise ConfigError(
                f"{index} cannot be replaced ({error.strerror}); move it away and run again"
            ) from error
        done["index"] = why
    if why := _page_fault(page, index):
        answered = [shard for ref in stages if ref.stage == "evaluate" for shard in ref.shards]
        scores = score_shards.fn(answered, config.evaluate)
        is_whole = any(ref.stage == "corpus" for ref in stages)
        render = render_page if is_whole else render_evaluation
        write_whole(page, render(index, config, scores, run_facts(config, root)))
        done["report"] = why
    return done


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
