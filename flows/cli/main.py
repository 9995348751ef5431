"""The command line: `toolformer COMMAND --help`.

Heavy packages are imported inside the commands, so that --help and the light commands answer at
once. Bad input ends with one line on standard error and exit code 2; a run that kept no call ends
with its diagnosis and exit code 1, and so does one that an outage ended.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import typer

from flows.cli.calibrate import calibrate
from flows.cli.calibrate_calls import calibrate_calls
from flows.cli.calls import calls, funnel
from flows.cli.endings import ending
from flows.cli.explain import explain
from flows.cli.finetune import finetune
from flows.cli.gc import gc
from flows.cli.harness import FOREIGN_OPTIONS, harness
from flows.cli.plan import plan
from flows.cli.run import annotate, run
from flows.cli.sweep import sweep
from flows.cli.sync import sync
from flows.cli.tools import build_index, tools_app
from flows.cli.trace import trace
from flows.cli.tuned import evaluate, generate, serve
from flows.starting.options import (
    drawn,
)

app = typer.Typer(
    help="Teach a causal language model to use tools, from plain text and without labels.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


COMMANDS: dict[str, Callable[..., None]] = {
    "run": run,
    "annotate": annotate,
    "calibrate": calibrate,
    "plan": plan,
    "funnel": funnel,
    "calls": calls,
    "explain": explain,
    "finetune": finetune,
    "calibrate-calls": calibrate_calls,
    "generate": generate,
    "serve": serve,
    "evaluate": evaluate,
    "trace": trace,
    "sweep": sweep,
    "index": build_index,
    "sync": sync,
    "gc": gc,
}
"""In the order in which they are used."""

for _name, _command in COMMANDS.items():
    app.command(_name)(drawn(_command))
app.command("harness", context_settings=FOREIGN_OPTIONS)(drawn(harness))
app.add_typer(tools_app, name="tools")


def main() -> None:
    """Run the command line; errors become one line and an exit code (endings.py)."""
    sys.path.append(str(Path.cwd()))  # a heuristic of the user's own may lie here
    # Prefect would log an error with its traceback once per task and flow before it gets here.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    try:
        app()
    except Exception as error:
        found = ending(error)
        if found is None:
            raise
        typer.echo(f"toolformer: {found[0]}", err=True)
        sys.exit(found[1])
