"""A tuned model behind OpenAI's HTTP API, run by uvicorn."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn

from tasks.inference import open_tuned_model
from tasks.loaded_tools import close_callers
from toolformer_core.config.runtime import Runtime
from toolformer_core.decoding.decode import Decoding
from toolformer_core.errors import ConfigError
from toolformer_core.serving.app import Served, build_app
from toolformer_core.serving.decoding_thread import DecodingThread

_SHUTDOWN_SECONDS = 10.0
"""Answers that are not done so long after the signal end with an error."""
_CUT_OFF_SECONDS = 20  # then uvicorn drops what is left


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections.

    Raises: ConfigError if that address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: {error}; pass another --port") from error


def build_server(
    model: Path,
    tools: Sequence[str] | None,
    runtime: Runtime,
    *,
    max_rows: int,
    max_waiting: int,
    show_calls: bool,
) -> "_Server":
    """The server of a model folder; clients know the model by the folder's name."""
    tuned = open_tuned_model(model, tools, {}, runtime)
    thread = DecodingThread(
        lambda: Decoding(tuned.lm, tuned.callers, max_rows=max_rows),
        max_open=max_rows + max_waiting,
    )

    def close() -> None:
        thread.close()
        close_callers(runtime.root)

    served = Served(
        name=model.absolute().name, lm=tuned.lm, config=tuned.decode, show_calls=show_calls
    )
    app = build_app(served, thread, close)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_CUT_OFF_SECONDS)
    return _Server(config, thread, close)


class _Server(uvicorn.Server):
    """Lets answers end before it shuts down, and tells clients if they do not in time.

    It shuts down, too, when the thread that decodes has ended: without it nothing can be answered.
    """

    def __init__(
        self, config: uvicorn.Config, thread: DecodingThread, close: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self.is_broken = False
        self._thread = thread
        self._close = close

    async def on_tick(self, counter: int) -> bool:
        """As of uvicorn: whether to shut down."""
        self.is_broken = not self._thread.is_alive
        return self.is_broken or await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As of uvicorn, which waits for the answers."""
        ending = asyncio.create_task(self._end_answers())
        await super().shutdown(sockets)
        ending.cancel()

    async def _end_answers(self) -> None:
        await asyncio.sleep(_SHUTDOWN_SECONDS)
        await asyncio.to_thread(self._close)


def run_server(server: _Server, listener: socket.socket) -> None:
    """Serve until a signal ends it, or a fault: then the process ends with exit code 1."""
    with contextlib.suppress(KeyboardInterrupt):  # sent on once the server has shut down
        server.run(sockets=[listener])
    if server.is_broken:
        sys.exit("toolformer: serve: decoding has ended, for the error above; start it again")
