"""Apertium, rule-based translation between related languages, as long-lived pipelines.

One pair of languages is a "mode": a shell pipeline in a file that its Debian package installs.
"""

import contextlib
import functools
import hashlib
import os
import re
import selectors
import shutil
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

from toolformer_core.errors import ToolError, ToolInputRejected

MAX_TEXT_CHARS = 4000

_WITHOUT_MEMORY = frozenset(
    {"lt-proc", "lrx-proc", "lsx-proc", "apertium-pretransfer", "apertium-transfer"}
    | {"apertium-interchunk", "apertium-postchunk"}
)
"""Programs whose answer depends on the text alone, in all that was tried (1000 sentences in two
orders). The others are started anew for each text: apertium-tagger 3.8 overwrites its class of
unknown words (find_similar_ambiguity_class), cg-proc and apertium-anaphora look back."""

_ANEW_FOR_EACH_TEXT = (
    "while IFS= read -r -d '' text; do printf %s \"$text\" | COMMAND; printf '\\0'; done"
)

_RESERVED = {ord(char): f"\\{char}" for char in "\\[]{}^$@/<>"} | {ord("~"): "[~]"}
_TAKEN_FOR_AN_END = {0: " ", 0xFFFF: " "}  # NUL, and what ICU reads as the end of the input
_PROTECTED = re.compile(r"\\(.)|\[~\]")
_MAX_CHUNK_BYTES = 32_768  # a pipe takes twice as much: writing into an empty one never waits


class Apertium:
    """One mode of Apertium, as a pipeline that is started for the first text and kept.

    Texts and answers are parted by NUL (Apertium's null flush). Its own script `apertium -z` does
    not answer before its input ends, so the mode's pipeline is run here. The answers are those of
    `apertium -u MODE`, whatever came before. The pipeline ends with its input, that is with this
    process.
    """

    def __init__(self, mode: Path, timeout_seconds: float = 30.0) -> None:
        self._mode = mode
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    @functools.cached_property
    def name(self) -> str:
        """Of the mode and its data."""
        return f"apertium {self._mode.stem}-{_mode_digest(self._mode)}"

    def translate(self, texts: Sequence[str]) -> list[str]:
        """One translation per text, without marks of unknown words.

        Raises: ToolInputRejected for a text too long; ToolError if the pipeline fails.
        """
        if any(len(text) > MAX_TEXT_CHARS for text in texts):
            raise ToolInputRejected(f"text longer than {MAX_TEXT_CHARS} characters")
        with self._lock:
            return [answer for chunk in _chunks(texts) for answer in self._answers(chunk)]

    def close(self) -> None:
        """End the pipeline; the next text starts another."""
        if self._process is not None:
            self._process = None
            self._end()

    def _answers(self, messages: Sequence[bytes]) -> list[str]:
        """The translations; a pipeline that died since the last call is started once more."""
        is_new = self._process is None
        try:
            return self._exchange(messages)
        except OSError as error:
            self.close()
            if is_new or isinstance(error, TimeoutError):
                raise ToolError(f"{self.name}: {error}") from error
        return self._answers(messages)

    def _exchange(self, messages: Sequence[bytes]) -> list[str]:
        """Send the messages, read as many answers.

        Raises: OSError if the pipeline is broken; TimeoutError if it hangs.
        """
        process = self._process or self._start()
        assert process.stdin is not None
        process.stdin.write(b"".join(messages))
        received, deadline = b"", time.monotonic() + self._timeout_seconds
        while received.count(b"\0") < len(messages):
            received += self._read(process, deadline - time.monotonic())
        answers = received.decode("utf-8", "replace").split("\0")
        return [_unmark(answer, index) for index, answer in enumerate(answers[:-1])]

    def _read(self, process: subprocess.Popen[bytes], seconds: float) -> bytes:
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(max(seconds, 0)):
                raise TimeoutError(f"no answer within {self._timeout_seconds:g} s")
        received = os.read(process.stdout.fileno(), 65_536)
        if not received:
            raise BrokenPipeError("ended")
        return received

    def _start(self) -> subprocess.Popen[bytes]:
        script = pipeline_script(self._mode.read_text(encoding="utf-8"))
        self._process = subprocess.Popen(
            ["bash", "-c", script, self._mode.stem, "-n", ""],  # $1: no marks; $2: no trace
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._end = weakref.finalize(self, _kill, self._process)
        return self._process


def pipeline_script(mode: str) -> str:
    """The shell pipeline of a mode file, made to answer each text that ends in NUL."""
    commands = [command.strip() for command in mode.split("|")]
    return " | ".join(
        re.sub(r"^\S+", r"\g<0> -z", command)
        if command.split()[0] in _WITHOUT_MEMORY
        else _ANEW_FOR_EACH_TEXT.replace("COMMAND", command)
        for command in commands
    )


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End all processes of a pipeline."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        stream.close()
    process.wait()


def _chunks(texts: Sequence[str]) -> Iterator[list[bytes]]:
    """The texts as messages, in groups that fit into a pipe."""
    chunk: list[bytes] = []
    for text in texts:
        message = _mark(text, len(chunk))
        if sum(map(len, chunk)) + len(message) > _MAX_CHUNK_BYTES:
            yield chunk
            chunk, message = [], _mark(text, 0)
        chunk.append(message)
    if chunk:
        yield chunk


def _mark(text: str, index: int) -> bytes:
    """The text in Apertium's stream format, ended as apertium-destxt does.

    The index comes back with the answer; as brackets in a text are escaped, no text can forge it.
    """
    escaped = " ".join(text.translate(_TAKEN_FOR_AN_END).split()).translate(_RESERVED)
    return f"{escaped}.[][{index}]\0".encode("utf-8", "ignore")  # ignore: surrogates


def _unmark(answer: str, index: int) -> str:
    """The text of an answer.

    Raises: BrokenPipeError if it is the answer to something else.
    """
    end = f".[][{index}]"
    if not answer.endswith(end):
        raise BrokenPipeError("answers out of step")
    return _PROTECTED.sub(lambda match: match[1] or "~", answer.removesuffix(end)).strip()


def _mode_digest(mode: Path) -> str:
    """Of the pipeline and all files that it names, 8 hexadecimal characters."""
    script = mode.read_bytes()
    hasher = hashlib.sha256(script)
    names = re.findall(r"'([^']+)'", script.decode("utf-8", "replace"))
    for path in filter(Path.is_file, map(Path, names)):
        with path.open("rb") as stream:
            hasher.update(hashlib.file_digest(stream, "sha256").digest())
    return hasher.hexdigest()[:8]


def installed_modes() -> dict[str, Path]:
    """The mode files of the Apertium on the search path, by name."""
    program = shutil.which("lt-proc")
    if program is None or shutil.which("bash") is None:
        return {}
    folder = Path(program).parents[1] / "share" / "apertium" / "modes"
    return {path.stem: path for path in sorted(folder.glob("*.mode"))}
