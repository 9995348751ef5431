"""What tells how far a long loop has come, with and without a terminal."""

import io
import threading

import pytest
from tqdm import tqdm

from tests.support.progress_lines import first_other, listen
from toolformer_core.progress import progress, progress_line, tracked


class Terminal(io.StringIO):
    """What passes for one."""

    def isatty(self):
        return True


@pytest.fixture
def lines(monkeypatch):
    return listen(monkeypatch)


def tellers():
    return [thread for thread in threading.enumerate() if thread.name == "progress"]


def bar_after(seconds, done, total, first=0):
    bar = tqdm(
        desc="sample-Calculator", unit="shard", total=total, file=io.StringIO(), disable=False
    )
    bar.start_t -= seconds
    bar.initial, bar.n = first, done
    return bar


@pytest.mark.parametrize(
    ("seconds", "done", "total", "first", "expected"),
    [
        (59, 3, 21, 0, "3 of 21 shards, about 6 min left"),
        (3599, 1, 101, 0, "1 of 101 shards, about 100.0 h left"),
        (59, 100, 200, 90, "100 of 200 shards, about 10 min left"),  # ten of them in this run
        (600, 21, 21, 0, "21 of 21 shards, about 0 min left"),
        (60, 0, 21, 0, "0 of 21 shards"),
        (60, 90, 200, 90, "90 of 200 shards"),
    ],
)
def test_line_tells_what_is_done_and_the_time_left(seconds, done, total, first, expected):
    line = progress_line(bar_after(seconds, done, total, first))
    assert line == f"sample-Calculator    {expected}"


def test_lines_come_while_no_item_ends_and_count_those_that_have(lines):
    with progress("sample-Calculator", unit="shard", total=3) as bar:
        nothing_yet = lines.get(timeout=60)
        assert nothing_yet == "sample-Calculator    0 of 3 shards"
        bar.update(2)
        line = first_other(lines, nothing_yet)
    assert line == "sample-Calculator    2 of 3 shards, about 1 min left"


def test_tracked_items_are_done_once_the_next_is_asked_for(lines):
    items = tracked([1, 2], "trace-starts", unit="bucket")
    assert next(items) == 1
    nothing_yet = lines.get(timeout=60)
    assert nothing_yet == "trace-starts         0 of 2 buckets"
    assert next(items) == 2
    line = first_other(lines, nothing_yet)
    assert line == "trace-starts         1 of 2 buckets, about 1 min left"
    assert list(items) == []


def test_lines_end_with_the_block_also_where_it_raises(lines):
    def fail():
        with progress("finetune", unit="step", total=3):
            lines.get(timeout=60)
            found.extend(tellers())
            raise ZeroDivisionError

    found = []
    with pytest.raises(ZeroDivisionError):
        fail()
    [teller] = found
    teller.join(60)
    assert not teller.is_alive()


def test_terminal_shows_a_bar_and_no_lines(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    for _ in tracked([1, 2], "trace-starts", unit="bucket"):
        assert tellers() == []
    assert "trace-starts: 100%" in terminal.getvalue()
    assert "2/2" in terminal.getvalue()


def test_bar_that_is_off_shows_nothing(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with progress("loglikelihood", unit="request", total=3, is_off=True) as bar:
        bar.update(3)
    assert terminal.getvalue() == ""
