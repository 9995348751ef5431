"""An S3 server on loopback, a process of its own: moto's, which speaks the real protocol."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def object_store() -> Iterator[str]:
    """The address of a server without buckets, in a child process that prints it."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.object_store"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        try:
            address = child.stdout.readline().strip()
            assert address, f"the server ended with {child.wait()}"
            yield address
        finally:
            child.kill()


def serve() -> None:
    """Answer at any port that is free."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, application, threaded=True)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve()
