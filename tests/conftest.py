"""Fixtures of all tests: a quiet environment in a folder of its own, tiny models, a test server.

Prefect and MLflow read their settings on import, so the environment is set when pytest loads this
file, before any test module.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import hypothesis
import pytest

from flows.starting import environment as settings

_HOME = Path(tempfile.mkdtemp(prefix="toolformer-tests-"))
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)

os.environ["TOOLFORMER_HOME"] = str(_HOME)
os.environ["PREFECT_HOME"] = str(_HOME / "prefect")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads only wait for one another
settings.apply_defaults()

# The same examples in every run; millions of others are tried by tests/fuzz.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def home():
    """TOOLFORMER_HOME of the session."""
    return _HOME


@pytest.fixture(scope="session")
def tiny_llama_folder(tmp_path_factory):
    """A random Llama as a transformers folder."""
    from tests.support import tiny_model

    return tiny_model.save(tiny_model.tiny_llama(), tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="session")
def tiny_gpt2_folder(tmp_path_factory):
    """A random GPT-2 as a transformers folder."""
    from tests.support import tiny_model

    return tiny_model.save(tiny_model.tiny_gpt2(), tmp_path_factory.mktemp("tiny-gpt2"))


@pytest.fixture(scope="session")
def calling_llama_folder(tmp_path_factory):
    """A Llama that knows a few sums by heart and calls the calculator for them."""
    from tests.support import tiny_model

    model = tiny_model.train_on(tiny_model.tiny_llama(), tiny_model.decoding_texts(), 150)
    return tiny_model.save(model, tmp_path_factory.mktemp("calling-llama"))


@pytest.fixture(scope="session")
def annotating_llama_folder(tmp_path_factory):
    """A Llama that writes calls without results, as annotation wants them."""
    from tests.support import tiny_model

    model = tiny_model.train_on(tiny_model.tiny_llama(), tiny_model.annotation_texts(), 60)
    return tiny_model.save(model, tmp_path_factory.mktemp("annotating-llama"))


@pytest.fixture(scope="session")
def smollm2_folder():
    """The demo's model, converted."""
    from toolformer_core.config.base import ModelConfig
    from toolformer_core.transformers_lm.loading import resolve_model

    return resolve_model(ModelConfig(), _HOME, "cpu").path


@pytest.fixture(scope="session")
def prefect_server():
    """A throw-away Prefect server; its API address."""
    from prefect.settings import get_current_settings
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield str(get_current_settings().api.url)
