"""Tables for the terminal."""

from flows.cli.tables import print_funnel


def counts(**changed):
    steps = ("documents", "positions", "calls", "parsed", "executed", "scored", "kept")
    row = {name: 90 - n for n, name in enumerate((*steps, "checkable", "right"))}
    return row | {"dropped": {"below_threshold": 7}, "documents_by_rule": {}} | changed


def blocks(output):
    """The first two columns of each block of the table."""
    found = [[]]
    for line in output.splitlines():
        if "├" in line:
            found.append([])
        elif line.startswith("│"):
            found[-1].append(tuple(cell.strip() for cell in line.split("│")[1:3]))
    return found


def test_documents_by_rule_have_a_block_of_their_own_behind_the_calls(capsys):
    rules = {"any": 5, "numbers": 3, "date": 2}
    print_funnel({"Calculator": counts(documents_by_rule=rules), "Calendar": counts()})
    [by_step, by_reason, by_rule] = blocks(capsys.readouterr().out)
    assert by_step[-1] == ("of which right", "82")
    assert by_reason == [("dropped: below_threshold", "7")]
    assert by_rule == [("documents by rule", ""), ("date", "2"), ("numbers", "3")]


def test_funnel_without_a_heuristic_has_no_such_block(capsys):
    print_funnel({"Calculator": counts()})
    assert [len(block) for block in blocks(capsys.readouterr().out)] == [9, 1]
