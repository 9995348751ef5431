"""Rows of a data set read through the package datasets, streamed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolformer_core.errors import ConfigError, TransientStorageError
from toolformer_core.readers.rows import Row, row_from_fields

HUB_SCHEME = "hf:"

_EXPECTED = "expected hf:NAME/CONFIG:SPLIT, hf:OWNER/NAME/CONFIG:SPLIT or hf:/FOLDER:SPLIT"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSource:
    """One split of a data set: of the hub, or of a local folder."""

    name: str
    config: str | None  # None: a local folder, which has one configuration
    split: str
    setting: str  # what names this source, for messages

    @property
    def label(self) -> str:
        """The name to show: of a folder only the last part."""
        shown = f"{self.name}/{self.config}" if self.config else Path(self.name).name
        return f"{HUB_SCHEME}{shown}:{self.split}"

    def rows(self, max_row_bytes: int) -> Iterator[Row]:
        """One row per example.

        Raises: ConfigError if there is no such data set, configuration or split.
        """
        for example_index, example in enumerate(self.examples()):
            yield row_from_fields(
                example,
                source=self.label,
                row_number=example_index + 1,
                max_row_bytes=max_row_bytes,
            )

    def examples(self) -> Iterator[dict[str, Any]]:  # Any: fields as the data set has them
        """The examples as they are.

        Raises: ConfigError if there is no such data set, configuration or split.
        """
        from datasets import load_dataset

        yield from self._load(load_dataset, split=self.split, streaming=True)

    def identity(self) -> str:
        """The revision of the data set; of a folder, a digest of its files' names and times.

        Raises: ConfigError if there is no such data set or configuration.
        """
        from datasets import load_dataset_builder

        return str(self._load(load_dataset_builder).hash)

    def _load(self, load: Any, **options: Any) -> Any:  # Any: datasets has no types
        try:
            return load(self.name, self.config, **options)
        except (FileNotFoundError, ValueError) as error:
            message = str(error).splitlines()[0]
            raise ConfigError(f"{self.setting}: {self.label}: {message}; {_EXPECTED}") from error
        except OSError as error:
            raise TransientStorageError(f"{self.setting}: {self.label}: {error}") from error


def open_hub(source: str, setting: str = "corpus.sources") -> HubSource:
    """The source `hf:NAME/CONFIG:SPLIT`, named by a setting; nothing is loaded yet.

    The configuration of a data set that has only one is often called "default".

    Raises: ConfigError if the name is not of that form.
    """
    path, separator, split = source.removeprefix(HUB_SCHEME).rpartition(":")
    is_folder = path.startswith(("/", "."))
    name, _, config = path.rpartition("/")
    if not separator or not split or not (is_folder or (name and config)):
        raise ConfigError(f"{setting}: {source!r} is not a data set; {_EXPECTED}")
    if is_folder:
        return HubSource(name=path, config=None, split=split, setting=setting)
    return HubSource(name=name, config=config, split=split, setting=setting)
