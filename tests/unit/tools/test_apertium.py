"""Pipelines that are kept: answers in step, and none left behind.

Most modes here are made up of the shell's own tools, so that these tests need no Apertium.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from toolformer_core.errors import ToolError, ToolInputRejected
from toolformer_core.tools.apertium import (
    MAX_TEXT_CHARS,
    Apertium,
    installed_modes,
    pipeline_script,
)

UPPER = "tr a-z A-Z"
NAMES_ITS_GROUP = (
    """bash -c 'read -r text; printf "%s %s" "$(cut -d" " -f5 /proc/self/stat)" "$text"'"""
)
DIES_OF_POISON = (
    "bash -c 'read -r text; if [[ $text = *poison* ]]; then kill -9 0; fi; printf %s \"$text\"'"
)

MODES = installed_modes()
needs_pairs = pytest.mark.skipif(
    not {"es-pt", "fr-es", "spa-eng"} <= MODES.keys(),
    reason="needs the Debian packages apertium-es-pt, apertium-fr-es and apertium-eng-spa",
)


@pytest.fixture
def apertium(tmp_path):
    """Makes an Apertium of a mode's text, and ends it."""
    made = []

    def make(mode, timeout_seconds=20.0):
        path = tmp_path / f"xx-yy{len(made)}.mode"
        path.write_text(mode)
        made.append(Apertium(path, timeout_seconds))
        return made[-1]

    yield make
    for one in made:
        one.close()


def files_of_processes(name):
    """One file of each process in /proc, by process id; those that just end are left out."""
    found = {}
    for path in Path("/proc").glob(f"[0-9]*/{name}"):
        with contextlib.suppress(OSError):
            found[path.parent.name] = path.read_text()
    return found


def running(group):
    """The processes of a group that have not ended."""
    stats = {
        pid: stat.rpartition(")")[2].split() for pid, stat in files_of_processes("stat").items()
    }
    return [pid for pid, stat in stats.items() if int(stat[2]) == group and stat[0] != "Z"]


def becomes(condition, seconds=20):
    """Whether it is so within the time: the kernel ends a killed process in its own time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_apertium_texts_come_back_in_order_and_unchanged_but_for_the_mode(apertium):
    texts = [
        "one",
        "",
        "  two\n\n words ",
        "[x] {y} ^z$ /a\\b <c> @d ~e *f #g",
        ".[][0]",
        "~",
        "\\",
    ]
    upper = apertium(UPPER)
    expected = [" ".join(text.split()).upper() for text in texts]
    assert upper.translate(texts) == expected
    assert [upper.translate([text])[0] for text in texts] == expected
    assert upper.translate([]) == []


@pytest.mark.parametrize(
    "text", ["\0", "a\0b", "\ud800", "\uffff", "a\uffffb", "\x1a\x04\x03", "%s"]
)
def test_apertium_hostile_characters_keep_the_answers_in_step(apertium, text):
    assert apertium(f"{UPPER} | cat").translate([text, "next"])[1] == "NEXT"


def test_apertium_batch_larger_than_a_pipe_answered(apertium):
    texts = [f"{k} " + "[" * 1500 for k in range(80)]
    assert apertium(UPPER).translate(texts) == texts


def test_apertium_text_too_long_rejected(apertium):
    upper = apertium(UPPER)
    assert upper.translate(["a" * MAX_TEXT_CHARS]) == ["A" * MAX_TEXT_CHARS]
    with pytest.raises(ToolInputRejected, match="longer than"):
        upper.translate(["a" * (MAX_TEXT_CHARS + 1)])


def test_apertium_keeps_one_pipeline_until_closed(apertium):
    naming = apertium(NAMES_ITS_GROUP)
    (first,), (second,) = naming.translate(["a"]), naming.translate(["b"])
    group = int(first.split()[0])
    assert (first, second) == (f"{group} a", f"{group} b")
    assert running(group)
    naming.close()
    assert becomes(lambda: not running(group))
    assert naming.translate(["c"]) != [f"{group} c"]


def test_apertium_pipeline_that_died_between_calls_started_again(apertium):
    naming = apertium(NAMES_ITS_GROUP)
    group = int(naming.translate(["a"])[0].split()[0])
    os.killpg(group, signal.SIGKILL)
    assert becomes(lambda: not running(group))
    (again,) = naming.translate(["b"])
    assert again.endswith(" b")
    assert again != f"{group} b"


def test_apertium_pipeline_that_dies_of_a_text_fails_that_call_only(apertium):
    dying = apertium(DIES_OF_POISON)
    assert dying.translate(["fine"]) == ["fine"]
    with pytest.raises(ToolError, match="apertium xx-yy0"):
        dying.translate(["fine", "poison"])
    assert dying.translate(["fine"]) == ["fine"]


def test_apertium_program_that_loses_its_answer_fails(apertium):
    with pytest.raises(ToolError, match="out of step"):
        apertium("false").translate(["a", "b"])


def test_apertium_pipeline_that_hangs_ended_in_time(apertium):
    hanging = apertium("cat | sleep 60.125", timeout_seconds=0.5)
    with pytest.raises(ToolError, match=r"no answer within 0\.5 s"):
        hanging.translate(["a"])
    assert becomes(lambda: "sleep\x0060.125\0" not in files_of_processes("cmdline").values())


def test_apertium_serves_several_threads(apertium):
    upper = apertium(UPPER)
    answers = {}

    def work(name):
        answers[name] = [upper.translate([f"{name} {k}"])[0] for k in range(20)]

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {name: [f"{name.upper()} {k}" for k in range(20)] for name in "abcd"}


def test_apertium_pipeline_ends_when_its_object_is_forgotten(apertium, tmp_path):
    path = tmp_path / "named.mode"
    path.write_text(NAMES_ITS_GROUP)
    group = int(Apertium(path).translate(["a"])[0].split()[0])
    assert becomes(lambda: not running(group))


def test_apertium_pipeline_ends_with_a_killed_parent(tmp_path):
    path = tmp_path / "named.mode"
    path.write_text(NAMES_ITS_GROUP)
    source = (
        "import os, pathlib, sys; from toolformer_core.tools.apertium import Apertium\n"
        "naming = Apertium(pathlib.Path(sys.argv[1]))\n"
        "print(naming.translate(['a'])[0], flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, "-c", source, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    group = int(done.stdout.split()[0])
    assert becomes(lambda: not running(group))


def test_apertium_name_changes_with_the_mode_and_its_data(tmp_path):
    data, mode = tmp_path / "dictionary", tmp_path / "xx-yy.mode"
    mode.write_text(f"cat '{data}'")
    data.write_text("one")
    first = Apertium(mode).name
    assert first.startswith("apertium xx-yy-")
    assert Apertium(mode).name == first
    data.write_text("two")
    second = Apertium(mode).name
    mode.write_text(f"cat -u '{data}'")
    assert len({first, second, Apertium(mode).name}) == 3


def test_pipeline_script_flushes_programs_without_memory_and_restarts_the_others():
    script = pipeline_script("lt-proc 'a.bin' | apertium-tagger -g $2 'c.prob'\n")
    assert script.startswith("lt-proc -z 'a.bin' | while ")
    assert "| apertium-tagger -g $2 'c.prob'; printf" in script


@needs_pairs
@pytest.mark.parametrize(
    ("mode", "texts"),
    [
        ("es-pt", ["El precio es de 5 000 por persona.", "la Marina Real Brit\u00e1nica"]),
        (
            "spa-eng",
            ["El precio es de 5 000 por persona.", "zzyq *x no come. Y?"],
        ),
        ("fr-es", ["La guerre est finie.", "Qui vivra [verra] ~ {zzyq}"]),
    ],
)
def test_apertium_answers_are_those_of_the_program_whatever_came_before(mode, texts):
    apertium = Apertium(MODES[mode])
    expected = [
        subprocess.run(
            ["apertium", "-u", mode], input=text, capture_output=True, text=True, check=True
        ).stdout.strip()
        for text in texts
    ]
    assert apertium.translate(texts) == expected
    assert apertium.translate(texts[::-1]) == expected[::-1]
    apertium.close()
