"""Tables on terminals of any width, with texts that nodes and files choose."""

from __future__ import annotations

import pytest

from vaultpki.show.table import Cell, Column, cells, lines, shortened, wrapped

COLUMNS = (
    Column("NODE", most=30, least=12),
    Column("POOL", optional=2),
    Column("STATE"),
    Column("HOOKS", right=True, optional=1),
    Column("WHY", least=10),
)
ROWS = (
    ("cp-1", "listed", "ok", "0", ""),
    (
        "ip-10-1-0-24.eu-central-1.compute.internal",
        "autoscaled",
        "expired",
        "12",
        "kubelet and kube-proxy have expired",
    ),
)


def test_a_file_has_every_column_in_full() -> None:
    assert list(lines(COLUMNS, ROWS)) == [
        "NODE                            POOL        STATE    HOOKS  WHY",
        "cp-1                            listed      ok           0",
        "ip-10-1-0-24....mpute.internal  autoscaled  expired     12  kubelet and kube-proxy have expired",
    ]


@pytest.mark.parametrize("width", range(34, 130))
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    made = list(lines(COLUMNS, ROWS, width=width))
    assert max(map(len, made)) <= width
    assert len(made) == 3 and made[1].startswith("cp-1 ") and made[0].split()[0] == "NODE"
    # The state is always there, and in one column.
    at = made[0].index("STATE")
    assert made[1][at:].split()[0] == "ok" and made[2][at:].split()[0] == "expired"


def test_columns_go_before_a_name_is_cut_short() -> None:
    heads = [next(iter(lines(COLUMNS, ROWS, width=width))).split() for width in (120, 62, 50, 36)]
    assert heads == [
        ["NODE", "POOL", "STATE", "HOOKS", "WHY"],
        ["NODE", "POOL", "STATE", "HOOKS", "WHY"],
        ["NODE", "STATE", "HOOKS", "WHY"],
        ["NODE", "STATE", "WHY"],
    ]


def test_a_text_cannot_steer_the_terminal_nor_add_a_line() -> None:
    hostile = "\x1b[2J\x1b]0;owned\x07\r\n\u202ecp-1\u200b\x9b31m"
    made = list(lines(COLUMNS, [(hostile, hostile, hostile, hostile, hostile)], width=100))
    assert len(made) == 2
    assert all(each.isprintable() for each in made)
    assert "\x1b" not in made[1] and made[1].startswith("?[2J?]0;")


def test_wide_characters_take_two_cells() -> None:
    assert (cells("node"), cells("ノード"), cells("節a")) == (4, 6, 3)
    made = list(
        lines((Column("NODE", most=9, least=9), Column("STATE")), [("ノード節点名称", "ok"), ("cp-1", "ok")], width=40)
    )
    assert [cells(line[: line.index("ok")]) for line in made[1:]] == [11, 11]
    assert "..." in made[1]


@pytest.mark.parametrize("text", ["a" * 50, "節" * 25, "a節" * 20, "e\u0301" * 30])
def test_a_shortened_text_fits_and_keeps_both_ends(text: str) -> None:
    for most in range(1, 60):
        short = shortened(text, most)
        assert cells(short) <= most
        if cells(text) <= most:
            assert short == text
        elif most > 7:
            assert short.startswith(text[0]) and short.endswith(text[-1]) and "..." in short


def test_a_colour_changes_no_width() -> None:
    def paint(text: str, colour: str | None) -> str:
        return f"<{colour}>{text}</>" if colour else text

    rows = [("cp-1", "listed", Cell("ok", "green"), "0", "fine")]
    plain = list(lines(COLUMNS, rows, width=80))
    painted = list(lines(COLUMNS, rows, width=80, paint=paint))
    assert painted[1].replace("<green>", "").replace("</>", "") == plain[1] != painted[1]


def test_no_row_is_a_head_alone() -> None:
    assert list(lines(COLUMNS, [], width=80)) == ["NODE  POOL  STATE  HOOKS  WHY"]


@pytest.mark.parametrize("width", [20, 34, 80])
def test_a_long_text_is_wrapped(width: int) -> None:
    words = [f"word{number}" for number in range(6)]
    assert " ".join(wrapped(" ".join(words), width, 9)) == " ".join(words)
    for text in ("節" * 90, "a " * 300, "x" * 300 + " y", "\x1b[2J " * 99, ""):
        made = wrapped(text, width, 3)
        assert len(made) <= 3 and all(cells(line) <= width and line.isprintable() for line in made)
    assert wrapped("a " * 300, width, 3)[-1].endswith("...")
