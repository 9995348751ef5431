"""The commands about tools: toolformer tools list, tools call, and index."""

from pathlib import Path
from typing import Annotated

import typer

from flows.starting import environment as settings
from flows.starting.inputs import build_config, build_runtime, print_json
from flows.starting.options import Chosen, JsonOption, Method, drawn
from toolformer_core.config.runtime import Device

tools_app = typer.Typer(help="The tools a model can call.", no_args_is_help=True)


@tools_app.command("list")
@drawn
def list_tools(chosen: Chosen, as_json: JsonOption = False) -> None:
    """All tools: parameters, version, health and seconds per call; each one's example is tried."""
    settings.apply_defaults()
    from flows.cli.tables import print_tools
    from flows.direct.tools import list_tools as listed

    config = build_config(Method(**dict(chosen)))
    rows = listed(config, build_runtime(settings.home() / "tools", Device()))
    print_json(rows) if as_json else print_tools(rows)


@tools_app.command("call")
@drawn
def call_tool(
    name: Annotated[str, typer.Argument(help="Tool name.")],
    chosen: Chosen,
    argument: Annotated[str, typer.Argument(help="What stands between the brackets.")] = "",
    date: Annotated[str | None, typer.Option(help="The document's date, YYYY-MM-DD.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Call one tool, as the pipeline would."""
    settings.apply_defaults()
    from flows.direct.tools import call_one_tool

    config = build_config(Method(**dict(chosen)))
    runtime = build_runtime(settings.home() / "tools", Device())
    answer = call_one_tool(name, argument, date, config, runtime)
    if as_json:
        print_json(answer)
    else:
        typer.echo(answer["result"] or f"{answer['outcome']}: {answer['reason']}")


def build_index(
    chosen: Chosen,
    passages: Annotated[
        list[str] | None,
        typer.Option(help="JSONL, Parquet, MediaWiki dump, hf: name ...; repeatable."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the index; passages that it lacks are added."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Build the search index of WikiSearch and QA, or add passages to one.

    Without --out it is put where runs with these settings look for it; else name the folder in
    tools.wiki_search.index.
    """
    settings.apply_defaults()
    from flows.direct.tools import build_search_index

    config = build_config(Method(**dict(chosen)))
    searched = config.tools.wiki_search
    if passages:
        searched = searched.model_copy(update={"passages": tuple(passages)})
    runtime = build_runtime(settings.home() / "tools", Device())
    summary = build_search_index(searched, out, runtime)
    if as_json:
        print_json(summary)
    else:
        typer.echo(
            f"{summary['folder']}: {summary['num_passages']:,} passages, "
            f"{summary['num_added']:,} of them new, {summary['num_bytes'] / 1e6:,.1f} MB"
        )
