"""Who imports whom (house style, section 2), read from the syntax tree.

`violations` looks at every import, lazy ones included, and is itself tried on made-up trees: a
rule that cannot fail is no rule.
"""

import ast
import functools
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("toolformer_core", "tasks", "flows", "deployments")
STAGES = ("corpus", "sample", "execute", "filter", "augment", "finetune", "evaluate")
STAGE_MODULES = {f"toolformer_core.{stage}" for stage in STAGES} | {
    "toolformer_core.decoding.decode"
}
MAY_USE_STAGE = {
    ("toolformer_core/evaluate.py", "toolformer_core.decoding.decode"),
    ("toolformer_core/decoding/decode.py", "toolformer_core.execute"),
}
TORCH_FILES = (
    "toolformer_core/transformers_lm/",
    "toolformer_core/decoding/",
    "toolformer_core/training/",
    "toolformer_core/finetune.py",
    "toolformer_core/finetune_process.py",
    "toolformer_core/tools/seq2seq.py",
)


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
    Rule("", ("duckdb",), besides=("tasks/index/",)),
    Rule("", ("mlflow",), besides=("tasks/tracking/",)),
    Rule("", ("prefect_dask", "prefect_ray", "dask", "ray"), besides=("tasks/running/runners.py",)),
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
        (
            "toolformer_core/lm.py",
            "import importlib as i\ni.import_module('flows.cli.main')",
            "flows",
        ),
        ("tasks/sample.py", "import flows.sample", "imports flows"),
        ("tasks/sample.py", "import duckdb", "imports duckdb"),
        ("tasks/report/artifacts.py", "import mlflow", "imports mlflow"),
        ("tasks/loaded_tools.py", "import torch", "imports torch"),
        ("flows/sample.py", "import torch", "imports torch"),
        ("flows/sample.py", "if True:\n    import duckdb", "imports duckdb"),
        ("flows/sample.py", "import mlflow", "imports mlflow"),
        (
            "deployments/limits.py",
            "from toolformer_core.config.pipeline import Runtime",
            "toolformer_core",
        ),
        ("deployments/limits.py", "import tasks", "imports tasks"),
        ("toolformer_core/sample.py", "import torch", "imports torch"),
        ("toolformer_core/execute.py", "from transformers import x", "imports transformers"),
        ("toolformer_core/corpus.py", "import datasets", "imports datasets"),
        ("toolformer_core/filter.py", "from toolformer_core.sample import x", "imports the stage"),
        ("toolformer_core/filter.py", "from toolformer_core import sample", "imports the stage"),
        ("toolformer_core/filter.py", "from . import augment", "imports the stage"),
        ("toolformer_core/filter.py", "from .augment import x", "imports the stage"),
        (
            "toolformer_core/execute.py",
            "from toolformer_core.decoding.decode import x",
            "imports the stage",
        ),
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
        ("toolformer_core/evaluate.py", "from toolformer_core.decoding.decode import Decoder"),
        (
            "toolformer_core/decoding/decode.py",
            "from toolformer_core.calling.caller import run_call\nimport torch",
        ),
        ("toolformer_core/readers/hub.py", "def f():\n    import datasets"),
        ("tasks/index/build.py", "import duckdb"),
        ("tasks/tracking/runs.py", "from mlflow import x"),
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


LIGHT = {
    "flows.cli.main": ("torch", "prefect", "mlflow", "duckdb", "matplotlib", "pandas"),
    "flows.finetune": ("matplotlib", "duckdb"),
    "tasks.gc": ("torch", "transformers"),
    "tasks.execute": ("torch", "transformers"),
    "tasks.report.artifacts": ("torch", "transformers"),
    "toolformer_core.call_rule": ("torch", "transformers"),
    **{
        f"toolformer_core.{stage}": ("torch", "transformers", "datasets")
        for stage in ("corpus", "sample", "execute", "filter", "augment", "models")
    },
}
"""What a module, and all that it imports on loading, must not load."""


def imported_on_loading(tree: ast.Module, package: str) -> Iterator[str]:
    """What the top of a module imports: not what its functions do, nor what is for types alone."""
    at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    yield from imported_modules(ast.Module(body=list(at_once), type_ignores=[]), package)


@functools.cache
def own_modules(root: Path) -> dict[str, set[str]]:
    """Every module of ours, and what loading it imports."""
    found = {}
    for package in PACKAGES:
        for path in (root / package).rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            inside = parts[:-1]
            name = ".".join(inside if parts[-1] == "__init__" else parts)
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found[name] = set(imported_on_loading(tree, ".".join(inside)))
    return found


def loading_chain(modules: dict[str, set[str]], start: str, banned: str) -> str:
    """How a module comes to load a package: "a -> b -> torch"; empty if it does not."""
    chains = {start: start}
    pending = [start]
    while pending:
        module = pending.pop(0)
        for imported in sorted(modules[module]):
            if matches(imported, banned):
                return f"{chains[module]} -> {imported}"
            if imported in modules and imported not in chains:
                chains[imported] = f"{chains[module]} -> {imported}"
                pending.append(imported)
    return ""


@pytest.mark.parametrize("module", LIGHT)
def test_layers_light_module_loads_no_heavy_package(module):
    modules = own_modules(ROOT)
    chains = [chain for name in LIGHT[module] if (chain := loading_chain(modules, module, name))]
    advice = "import it in the function that needs it, or move what is light into a file of its own"
    assert not chains, f"{module} loads what its users need not have: {chains}; {advice}"
    source = f"import {module}, sys; print(sorted(set({LIGHT[module]!r}) & set(sys.modules)))"
    assert run_python(source).strip() == "[]", "a package that it imports loads one of these"


def wing_of(module: str) -> str:
    """The folder of a module, or the module itself where it lies on the landing."""
    parts = module.split(".")
    return ".".join(parts[:2])


def wing_circles(modules: dict[str, set[str]]) -> list[str]:
    """Wings that need one another, each with the two imports that make it so."""
    arrows: dict[tuple[str, str], str] = {}
    for module, imported in modules.items():
        for other in imported & modules.keys():
            if wing_of(module) != wing_of(other) and "." in other:
                arrows.setdefault((wing_of(module), wing_of(other)), f"{module} -> {other}")
    below: dict[str, set[str]] = {}
    for one, other in arrows:
        below.setdefault(one, set()).add(other)

    def reaches(start: str, goal: str) -> bool:
        seen, pending = set(), [start]
        while pending:
            for other in below.get(pending.pop(), set()) - seen:
                seen.add(other)
                pending.append(other)
        return goal in seen

    return [arrow for (one, other), arrow in arrows.items() if reaches(other, one)]


def test_layers_no_wing_needs_a_wing_that_needs_it():
    circles = wing_circles(own_modules(ROOT))
    assert circles == [], (
        f"these imports close a circle between folders: {circles}; move what both need into a "
        "folder below them, or let the caller hand it over"
    )


def test_layers_broken_rules_between_wings_are_found():
    modules = {
        "tasks.report.page": {"tasks.index.query", "tasks.index"},
        "tasks.index.query": {"tasks.output.record"},
        "tasks.output.record": {"tasks.report.page", "torch"},
        "tasks.gc": {"tasks.output.record"},
    }
    assert wing_circles(modules) == [
        "tasks.report.page -> tasks.index.query",
        "tasks.index.query -> tasks.output.record",
        "tasks.output.record -> tasks.report.page",
    ]
    assert loading_chain(modules, "tasks.gc", "torch") == "tasks.gc -> tasks.output.record -> torch"
    assert loading_chain(modules, "tasks.gc", "duckdb") == ""


def test_layers_imports_for_types_or_in_functions_are_not_loaded():
    source = """
        from typing import TYPE_CHECKING
        import json
        if TYPE_CHECKING:
            import torch
        def f():
            import duckdb
    """
    found = imported_on_loading(ast.parse(textwrap.dedent(source)), "tasks")
    assert set(found) == {"typing", "typing.TYPE_CHECKING", "json"}
