"""Who imports whom (house style, section 2), read from the syntax tree.

`violations` looks at every import, lazy ones included, and is itself tried on made-up trees: a
rule that cannot fail is no rule.
"""

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("toolformer_core", "tasks", "flows", "deployments")
STAGES = ("corpus", "sample", "execute", "filter", "augment", "finetune", "evaluate", "decode")
STAGE_MODULES = {f"toolformer_core.{stage}" for stage in STAGES}
MAY_USE_STAGE = {
    ("toolformer_core/evaluate.py", "toolformer_core.decode"),
    ("toolformer_core/decode.py", "toolformer_core.execute"),
}
TORCH_MODULES = (
    "arithmetic",
    "call_starts",
    "hf_attention",
    "hf_branches",
    "hf_draw",
    "hf_lm",
    "hf_model",
    "hf_reading",
    "hf_translation",
    "hf_tree",
    "hf_packing",
    "hf_probe",
    "hf_rows",
    "models",
    "decode",
    "decode_choice",
    "finetune",
    "perplexity",
    "training_data",
    "training_loss",
    "training_process",
    "training_steps",
)
TORCH_FILES = tuple(f"toolformer_core/{name}.py" for name in TORCH_MODULES)


class Rule(NamedTuple):
    """Files in `where` (but for `besides`) must not import the packages or modules `banned`."""

    where: str
    banned: tuple[str, ...]
    besides: tuple[str, ...] = ()


RULES = (
    Rule("toolformer_core/", ("prefect", "mlflow", "duckdb", "tasks", "flows", "deployments")),
    Rule("tasks/", ("flows", "deployments")),
    Rule("flows/", ("mlflow", "duckdb", "torch", "transformers", "deployments")),
    Rule("deployments/", ("toolformer_core", "tasks", "mlflow", "duckdb", "torch", "transformers")),
    Rule("", ("duckdb",), besides=("tasks/index.py",)),
    Rule("", ("mlflow",), besides=("tasks/track", "tasks/regist")),
    Rule("", ("prefect_dask", "prefect_ray", "dask", "ray"), besides=("tasks/runners.py",)),
    Rule("", ("lm_eval",), besides=("tasks/harness.py",)),
    Rule("", ("torch", "transformers"), besides=TORCH_FILES),
    Rule(
        "",
        ("datasets",),
        besides=(
            "toolformer_core/readers/hub.py",
            "toolformer_core/finetune.py",
            "toolformer_core/benchmarks/",
        ),
    ),
)


def imported_modules(tree: ast.AST, package: str) -> Iterator[str]:
    """Every module that the source imports, wherever the statement stands; relative ones resolved.

    `from a import b` gives a and a.b: b may be a module.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _calls_import(node.func):
            yield from (arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant))


def _calls_import(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("import_module", "__import__")


def matches(module: str, banned: str) -> bool:
    return module == banned or module.startswith(f"{banned}.")


def file_violations(name: str, source: str) -> Iterator[str]:
    """What one file does wrong; `name` is its path below the root."""
    tree = ast.parse(source)
    modules = sorted(set(imported_modules(tree, name.rpartition("/")[0].replace("/", "."))))
    yield from banned_imports(name, modules)
    if name.removesuffix(".py").replace("/", ".") in STAGE_MODULES:
        for module in STAGE_MODULES.intersection(modules):
            if (name, module) not in MAY_USE_STAGE:
                yield f"{name} imports the stage {module}"
    if name.endswith("__init__.py") and not _is_docstring_only(tree):
        yield f"{name} holds more than a docstring"


def banned_imports(name: str, modules: list[str]) -> Iterator[str]:
    """The rules of RULES that the imports of one file break."""
    rules = [
        rule
        for rule in RULES
        if name.startswith(rule.where) and not (rule.besides and name.startswith(rule.besides))
    ]
    for banned in sorted({banned for rule in rules for banned in rule.banned}):
        if any(matches(module, banned) for module in modules):
            yield f"{name} imports {banned}"


def _is_docstring_only(tree: ast.Module) -> bool:
    return ast.get_docstring(tree) is not None and len(tree.body) == 1


def violations(root: Path) -> list[str]:
    """Every broken import rule below the root."""
    paths = sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))
    return [
        found
        for path in paths
        for found in file_violations(
            path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
        )
    ]


def test_layers_no_rule_is_broken():
    assert violations(ROOT) == []


def test_layers_cover_all_packages():
    assert all((ROOT / package / "__init__.py").is_file() for package in PACKAGES)
    assert all((ROOT / f"{module.replace('.', '/')}.py").is_file() for module in STAGE_MODULES)


def made_up(root: Path, name: str, source: str) -> list[str]:
    path = root / name
    path.parent.mkdir(parents=True)
    path.write_text(textwrap.dedent(source))
    return violations(root)


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("toolformer_core/lm.py", "import prefect", "imports prefect"),
        ("toolformer_core/lm.py", "def f():\n    from prefect.logging import x", "imports prefect"),
        ("toolformer_core/tools/a.py", "import mlflow.tracking as m", "imports mlflow"),
        ("toolformer_core/shards.py", "import duckdb", "imports duckdb"),
        ("toolformer_core/lm.py", "from tasks import sample", "imports tasks"),
        ("toolformer_core/lm.py", "from ..flows import x", "imports flows"),
        ("toolformer_core/lm.py", "import importlib as i\ni.import_module('flows.cli')", "flows"),
        ("tasks/sample.py", "import flows.sample", "imports flows"),
        ("tasks/sample.py", "import duckdb", "imports duckdb"),
        ("tasks/report.py", "import mlflow", "imports mlflow"),
        ("tasks/resources.py", "import torch", "imports torch"),
        ("flows/sample.py", "import torch", "imports torch"),
        ("flows/sample.py", "if True:\n    import duckdb", "imports duckdb"),
        ("flows/sample.py", "import mlflow", "imports mlflow"),
        ("deployments/limits.py", "from toolformer_core.config import Runtime", "toolformer_core"),
        ("deployments/limits.py", "import tasks", "imports tasks"),
        ("toolformer_core/sample.py", "import torch", "imports torch"),
        ("toolformer_core/execute.py", "from transformers import x", "imports transformers"),
        ("toolformer_core/corpus.py", "import datasets", "imports datasets"),
        ("toolformer_core/filter.py", "from toolformer_core.sample import x", "imports the stage"),
        ("toolformer_core/filter.py", "from toolformer_core import sample", "imports the stage"),
        ("toolformer_core/filter.py", "from . import augment", "imports the stage"),
        ("toolformer_core/filter.py", "from .augment import x", "imports the stage"),
        ("toolformer_core/execute.py", "from toolformer_core.decode import x", "imports the stage"),
        ("toolformer_core/tools/__init__.py", "from . import base", "more than a docstring"),
        ("tasks/__init__.py", "", "more than a docstring"),
    ],
)
def test_layers_broken_rule_is_found(tmp_path, name, source, expected):
    found = made_up(tmp_path, name, source)
    assert any(expected in violation and name in violation for violation in found)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("toolformer_core/evaluate.py", "from toolformer_core.decode import Decoder"),
        ("toolformer_core/decode.py", "from toolformer_core.calling import run_call\nimport torch"),
        ("toolformer_core/readers/hub.py", "def f():\n    import datasets"),
        ("tasks/index.py", "import duckdb"),
        ("tasks/track.py", "from mlflow import x"),
        ("tasks/sample.py", "from toolformer_core.sample import sample_calls\nimport prefect"),
        ("flows/sample.py", "from tasks.sample import x\nimport prefect"),
        ("deployments/limits.py", "from flows.pipeline import run_pipeline"),
        ("flows/__init__.py", '"""Only this."""'),
        ("toolformer_core/lm.py", "import duckdbx, prefectly"),
    ],
)
def test_layers_allowed_import_is_not_found(tmp_path, name, source):
    assert made_up(tmp_path, name, source) == []


# The blocked packages must look as if they were not installed: libraries ask for them, too.
_IMPORT_CORE = """
import importlib, pkgutil, sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"prefect", "mlflow", "duckdb", "tasks", "flows"}:
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path = [Without(finder) for finder in sys.meta_path]
assert importlib.util.find_spec("prefect") is None
assert importlib.util.find_spec("tasks") is None
import toolformer_core
names = [m.name for m in pkgutil.walk_packages(toolformer_core.__path__, "toolformer_core.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def run_python(source: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_layers_core_imports_where_prefect_mlflow_and_duckdb_are_blocked():
    num_files = len(list((ROOT / "toolformer_core").rglob("*.py")))
    assert int(run_python(_IMPORT_CORE)) == num_files - 1  # all but the package itself


def test_layers_light_stages_load_no_model_library():
    source = """
import sys
import toolformer_core.execute, toolformer_core.augment, toolformer_core.sample
import toolformer_core.filter, toolformer_core.tools.registry, toolformer_core.corpus
print(sorted({"torch", "transformers", "datasets"} & set(sys.modules)))
"""
    assert run_python(source).strip() == "[]"
