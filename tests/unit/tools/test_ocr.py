"""OCR on images drawn here, and on what is no image that it may read."""

import os
import re
import struct
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version

import pytest
from PIL import Image, ImageDraw, ImageFont

from tests.unit.test_prompts import placed_calls
from toolformer_core.config.tools import OcrConfig
from toolformer_core.errors import ConfigError, ToolInputRejected
from toolformer_core.tools import ocr
from toolformer_core.tools.base import NO_DOCUMENT
from toolformer_core.tools.ocr import OCR, OcrRules

FORMATS = ("png", "jpg", "webp", "gif", "bmp", "tiff")


def draw(*lines, mode="RGB", paper="white"):
    """Lines of text on paper."""
    image = Image.new(mode, (280, 180), paper)  # the engine enlarges the shorter side to 736
    font = ImageFont.load_default(32)
    for row, line in enumerate(lines):
        ImageDraw.Draw(image).text((20, 30 + 60 * row), line, fill="black", font=font)
    return image


def png_of_size(width, height):
    """A PNG that says it is that large and holds nothing."""

    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images, and a secret one next to their folder."""
    root = tmp_path_factory.mktemp("ocr")
    draw("SECRET").save(root / "secret.png")
    images = root / "images"
    (images / "receipts").mkdir(parents=True)
    for suffix in FORMATS:
        draw("TOTAL 41.20").save(images / f"receipts/012.{suffix}")
    draw("Platform 7", "EXIT").save(images / "lines.png")
    draw("Exit 305", mode="RGBA", paper=(0, 0, 0, 0)).save(images / "clear.png")
    draw().save(images / "empty.png")
    return images


@pytest.fixture(scope="module")
def tool(folder):
    return OCR(OcrConfig(folder=str(folder)))


def read(tool, argument):
    """What the tool reads, without spaces: the engine loses some between words."""
    return tool.call(argument, NO_DOCUMENT).replace(" ", "")


@pytest.mark.parametrize("suffix", FORMATS)
def test_call_image_of_each_format_is_read(tool, suffix):
    assert read(tool, f"receipts/012.{suffix}") == "TOTAL41.20"


@pytest.mark.parametrize(
    "argument",
    [
        ' "receipts/012.png" ',
        "![receipt](receipts/012.png)",
        '![a (b)](./receipts/012.png "of March")',
    ],
)
def test_call_reference_as_it_stands_in_the_document_is_read(tool, argument):
    assert read(tool, argument) == "TOTAL41.20"


def test_call_lines_are_joined_by_one_space(tool):
    assert tool.call("lines.png", NO_DOCUMENT) == "Platform 7 EXIT"


def test_call_transparent_image_is_read(tool):
    assert read(tool, "clear.png") == "Exit305"


def test_call_empty_image_is_nothing(tool):
    assert tool.call("empty.png", NO_DOCUMENT) == ""


def test_call_from_threads_is_the_same(tool):
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: read(tool, "lines.png"), range(2)))
    assert found == ["Platform7EXIT"] * 2


@pytest.mark.parametrize(
    "argument",
    [
        "",
        "../secret.png",
        "receipts/../../secret.png",
        "{root}/secret.png",
        "{root}/images/lines.png",
        "//lines.png",
        "..\\secret.png",
        "receipts\\012.png",
        "file://{root}/secret.png",
        "https://example.com/lines.png",
        "![x](../secret.png)",
        "lines.png\x00",
        "lines\n.png",
        "~/lines.png",
        "none.png",
        "receipts",
        "lines.png/012.png",
        "a" * 255 + "/x.png",
        "a/" * 500 + "x.png",
        "\udc80.png",
    ],
)
def test_call_reference_to_no_image_below_the_folder_is_rejected(tool, folder, argument):
    reference = argument.replace("{root}", str(folder.parent))
    with pytest.raises(ToolInputRejected) as caught:
        tool.call(reference, NO_DOCUMENT)
    assert str(folder) not in str(caught.value).replace(reference, "")


def test_call_link_out_of_the_folder_is_rejected(tool, folder):
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "out").symlink_to(folder.parent)
    (folder / "circle.png").symlink_to(folder / "circle.png")
    for reference in ("link.png", "out/secret.png", "circle.png"):
        with pytest.raises(ToolInputRejected, match="no image"):
            tool.call(reference, NO_DOCUMENT)


def test_call_pipe_is_rejected(tool, folder):
    os.mkfifo(folder / "pipe.png")
    with pytest.raises(ToolInputRejected, match="no image"):
        tool.call("pipe.png", NO_DOCUMENT)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is no image"),
        (b"not an image", "is no image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no image"),
        (png_of_size(40, 40), "is no image"),
        (png_of_size(60_000, 60_000), "more than 25000000 pixels"),
        (png_of_size(10_000, 10_000), "more than 25000000 pixels"),
        (png_of_size(6_000, 6_000), "more than 25000000 pixels"),
        (png_of_size(5_000, 100), "too narrow"),
    ],
)
def test_call_file_that_is_no_image_is_rejected(tool, folder, content, reason):
    (folder / "hostile.png").write_bytes(content)
    with pytest.raises(ToolInputRejected, match=f"^'hostile.png' .*{reason}"):
        tool.call("hostile.png", NO_DOCUMENT)


def test_call_image_that_is_cut_is_rejected(tool, folder):
    whole = (folder / "lines.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ToolInputRejected, match="is no image"):
        tool.call("cut.png", NO_DOCUMENT)


def test_call_file_of_too_many_bytes_is_rejected_unread(tool, folder):
    with (folder / "large.png").open("wb") as file:
        file.truncate(ocr.MAX_IMAGE_BYTES + 1)
    with pytest.raises(ToolInputRejected, match="more than 20000000 bytes"):
        tool.call("large.png", NO_DOCUMENT)


def test_version_is_of_the_engine_and_the_folder(tool, folder, tmp_path):
    engine = f"rapidocr-onnxruntime-{version('rapidocr-onnxruntime')}"
    assert tool.version == f"1-{engine}-{folder}"
    assert OCR(OcrConfig(folder=str(tmp_path))).version != tool.version


def test_folder_that_is_missing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"tools\.ocr\.folder"):
        OCR(OcrConfig(folder=str(tmp_path / "none")))


def test_package_that_is_missing_is_refused(tmp_path, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(ocr, "version", missing)
    with pytest.raises(ConfigError, match=re.escape('pip install "toolformer-prefect[ocr]"')):
        OCR(OcrConfig(folder=str(tmp_path)))


def test_package_that_cannot_be_imported_is_refused(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", None)
    with pytest.raises(ConfigError, match=re.escape('pip install "toolformer-prefect[ocr]"')):
        OCR(OcrConfig(folder=str(folder))).call("lines.png", NO_DOCUMENT)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("The receipt receipts/012.png shows ", "41.20 euros.", True),
        ("![receipt](a/b-2.JPEG) It comes to ", "41.20 euros.", True),
        ("(see scan.tif)", " The total is 4.", True),
        ("![receipt](a/b.png", ") It comes to 41.20.", False),
        ("The receipt receipts/012.png", " shows 41.20.", False),
        ("The receipt a.png shows ", "\n", False),
        ("The receipt shows ", "41.20 euros.", False),
        ("The file notes.pdf shows ", "41.20 euros.", False),
        ("The word .png means ", "an image.", False),
        ("The receipt a.png " + "x " * 150, "41.20 euros.", False),
    ],
)
def test_can_help_at_is_behind_a_reference_to_an_image(before, after, expected):
    assert OcrRules().can_help_at(before, after, NO_DOCUMENT) is expected


@pytest.mark.parametrize(
    ("result", "after", "expected"),
    [
        ("TOTAL 41.20", " total 41.20 euros", True),
        ("41.20", "41.20, all in all", True),
        ("41.20", " 41.205", None),
        ("41", " 41.20", None),
        ("Gateclosesat18:30", "Gate closes at 18:30.", True),
        ("No Entry after eight or so", "No entry after dark", True),
        ("No Entry", "Entry", None),
        ("", "Entry", None),
        ("a+b (c)", "a+b (c)", True),
    ],
)
def test_is_right_where_the_text_begins_as_the_image_does(result, after, expected):
    assert OcrRules().is_right(result, after) is expected


def test_demonstrations_name_images_unquoted_and_are_where_a_call_can_help():
    placed = list(placed_calls("ocr"))
    assert len(placed) == 4
    for call, before, after in placed:
        assert call.argument in before
        assert OcrRules().can_help_at(before, after, NO_DOCUMENT)
