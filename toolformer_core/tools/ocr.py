"""OCR: the text in an image that a document refers to.

A tool's argument and result are texts, but nothing binds a tool to text: here the argument names an
image, as the document does. The engine is RapidOCR (PP-OCRv4 models on ONNX Runtime), which brings
its models along and needs no network. It reads Chinese and Latin script, and loses some spaces
between words.

Images must not change during a run: an answer depends on the image's content, which the version
does not name. Choice: hashing all images below a folder would cost more than reading the few that
are asked for.
"""

import io
import re
import struct
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from toolformer_core.config.tools import OcrConfig
from toolformer_core.errors import ConfigError, ToolInputRejected
from toolformer_core.notation import unquote
from toolformer_core.tools.base import CallContext, load_prompt

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_REFERENCE_CHARS = 300
MAX_IMAGE_BYTES = 20_000_000
MAX_IMAGE_PIXELS = 25_000_000
MAX_ELONGATION = 40
"""Longer side by shorter one; of a narrower image the engine's resizing leaves nothing."""

LOOK_BACK_CHARS = 300
CHECKED_WORDS = 3

_PARAMETERS: dict[str, Any] = {  # Any: a JSON schema
    "type": "object",
    "properties": {"image": {"type": "string"}},
    "required": ["image"],
}
_PACKAGE = "rapidocr-onnxruntime"
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_MARKDOWN = re.compile(r"!\[[^\]]*\]\(\s*(?P<path>[^()\s]+)(?:\s+\"[^\"]*\")?\s*\)")
_REFERENCE = re.compile(r"[\w-]\.(?:png|jpe?g|webp|gif|bmp|tiff?)\b", re.IGNORECASE)
_HOSTILE = re.compile(r"[\x00-\x1f\\]|://")
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error)
"""What Pillow raises on a file that is not the image it claims to be."""


class OcrRules:
    """Where the text of an image can help, and whether it is what the text says next."""

    def can_help_at(self, before: str, after: str, context: CallContext) -> bool:
        """Whether the last 300 characters refer to an image and the text goes on behind it."""
        is_outside = not before[-1:].isalnum() and not after.startswith(")")
        is_named = _REFERENCE.search(before[-LOOK_BACK_CHARS:]) is not None
        return is_named and is_outside and bool(after.strip())

    def is_right(self, result: str, after: str) -> bool | None:
        """Whether the text goes on with the first words of the image; None if not.

        Case and spaces do not count: the engine loses spaces. None rather than False, because a
        text may as well say something else of the image.
        """
        letters = "".join(result.split()[:CHECKED_WORDS])
        spelled = r"\s*".join(re.escape(letter) for letter in letters)
        pattern = rf"\s*{spelled}(?!\w|[.,]\d)"
        return True if letters and re.match(pattern, after, re.IGNORECASE) else None


class OCR(OcrRules):
    """Reads an image below one folder."""

    name = "OCR"
    description = "Reads the text in an image that the document refers to."
    takes_argument = True
    parameters = _PARAMETERS
    context_fields: tuple[str, ...] = ()
    example: str | None = None

    def __init__(self, config: OcrConfig) -> None:
        """Raises: ConfigError without the folder or the package."""
        self.prompt = load_prompt("ocr")
        self._folder = Path(config.folder).resolve()
        if not self._folder.is_dir():
            raise ConfigError(
                f"tools.ocr.folder: {config.folder!r} is no folder; give the one with the images"
            )
        try:
            self.version = f"1-{_PACKAGE}-{version(_PACKAGE)}-{config.folder}"
        except PackageNotFoundError as error:
            raise _not_installed(error) from error
        self._engine: Any = None  # Any: rapidocr is untyped
        self._lock = threading.Lock()  # the engine keeps the state of a call in itself

    def call(self, argument: str, context: CallContext) -> str:
        """The lines of the image in reading order, as one line; nothing if it has none.

        Raises: ToolInputRejected if the argument names no image below the folder, or one that is
        too large.
        """
        reference = unquote(argument)
        if markdown := _MARKDOWN.fullmatch(reference):
            reference = markdown["path"]
        pixels = _pixels(_read_image(self._file(reference), reference))
        with self._lock:
            self._engine = self._engine or _load_engine()
            lines, _ = self._engine(pixels)
        return " ".join(" ".join(text.split()) for _, text, _ in lines or ()).strip()

    def _file(self, reference: str) -> Path:
        """The file that the document refers to.

        Raises: ToolInputRejected for one that is not there, or not below the folder.
        """
        path = PurePosixPath(reference)
        is_hostile = _HOSTILE.search(reference) or path.is_absolute() or ".." in path.parts
        if is_hostile or not 0 < len(reference) <= MAX_REFERENCE_CHARS:
            raise ToolInputRejected(
                f"{reference[:MAX_REFERENCE_CHARS]!r}; expected the path of an image as in "
                "receipts/012.png"
            )
        try:
            file = (self._folder / path).resolve(strict=True)
        # RuntimeError: links in a circle; ValueError: what no file can be named
        except (OSError, RuntimeError, ValueError) as error:
            raise ToolInputRejected(f"no image {reference!r}") from error
        if not file.is_file() or not file.is_relative_to(self._folder):
            raise ToolInputRejected(f"no image {reference!r}")
        return file


def _read_image(file: Path, reference: str) -> "Image":
    """The image, decoded.

    Raises: ToolInputRejected for a file that is broken, no image, or too large.
    """
    from PIL import Image

    if file.stat().st_size > MAX_IMAGE_BYTES:
        raise ToolInputRejected(f"{reference!r} has more than {MAX_IMAGE_BYTES} bytes")
    try:
        image = Image.open(io.BytesIO(file.read_bytes()), formats=_FORMATS)
        if image.width * image.height > MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError
        if max(image.size) > MAX_ELONGATION * min(image.size):
            raise ToolInputRejected(f"{reference!r} is too narrow to be read")
        image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ToolInputRejected(f"{reference!r} has more than {MAX_IMAGE_PIXELS} pixels") from error
    except _BROKEN as error:
        raise ToolInputRejected(f"{reference!r} is no image of {', '.join(_FORMATS)}") from error
    return image


def _pixels(image: "Image") -> Any:  # Any: an array of numpy, which the engine takes
    """The image upright on white, as blue, green, red.

    The paper is no narrower than an eighth of its height: the engine would enlarge a narrow image
    to 736 pixels of width, and take 15 s for it.
    """
    import numpy as np
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(image).convert("RGBA")
    paper = Image.new("RGB", (max(upright.width, upright.height // 8), upright.height), "white")
    paper.paste(upright, mask=upright)
    return np.asarray(paper)[:, :, ::-1]


def _load_engine() -> Any:  # Any: rapidocr is untyped
    """The engine with its models.

    Raises: ConfigError if it cannot be imported.
    """
    try:
        from rapidocr_onnxruntime import RapidOCR
    except ImportError as error:
        raise _not_installed(error) from error
    return RapidOCR()


def _not_installed(error: ImportError) -> ConfigError:
    return ConfigError(f'OCR needs {_PACKAGE} ({error}); pip install "toolformer-prefect[ocr]"')
