"""An S3 server on loopback, a process of its own: moto's, which speaks the real protocol."""

import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
import pytest


@contextmanager
def bucket() -> Iterator[str]:
    """The name of an empty bucket, and the environment in which S3's clients find it."""
    command = [sys.executable, "-m", __name__]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **pipes) as child, pytest.MonkeyPatch.context() as patch:
        try:
            address = child.stdout.readline().decode().strip()
            assert address, f"the server ended with {child.wait()}"
            patch.setenv("AWS_ENDPOINT_URL", address)
            patch.setenv("AWS_ACCESS_KEY_ID", "key")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
            name = f"b{uuid.uuid4().hex}"
            forget_clients()
            fsspec.filesystem("s3").mkdir(name)
            yield name
        finally:
            forget_clients()
            child.kill()


def forget_clients() -> None:
    """The next client looks at the environment anew."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def serve() -> None:
    """Answer at any port that is free, which is printed."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, application, threaded=True)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve()
