"""Which index of a folder is the newest."""

import os

from tasks.report.artifacts import index_of


def test_index_of_a_folder_is_the_one_beside_only_if_it_is_newer(tmp_path):
    index, beside = tmp_path / "calls.duckdb", tmp_path / "new-calls.duckdb"
    assert index_of(tmp_path) == index
    beside.touch()
    assert index_of(tmp_path) == beside
    index.touch()
    os.utime(index, (1, 1))
    assert index_of(tmp_path) == beside
    os.utime(beside, (0, 0))
    assert index_of(tmp_path) == index
