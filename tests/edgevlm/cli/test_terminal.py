"""What came from files, messages and models is shown on a terminal and obeyed by none."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.table import Table
from support import tiny
from typer.testing import CliRunner

from edgevlm.bundle import write_record
from edgevlm.cli.app import app
from edgevlm.cli.output import Terminal
from edgevlm.errors import CONTROL_CHARACTERS

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e[bold]x[/bold][/nothing]:smile:"


def written(*printed: object) -> str:
    stream = io.StringIO()
    console = Terminal(file=stream, force_terminal=False, width=300)
    for one in printed:
        console.print(one)
    return stream.getvalue()


def test_texts_tables_and_titles_show_control_characters_and_markup_as_they_are() -> None:
    table = Table("column", HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE, "plain")
    text = written(HOSTILE, table)
    assert not set(text) & CONTROL_CHARACTERS - {"\n", "\t"}
    assert written(HOSTILE).count(r"\x1b[2J\x9b31m\u202e[bold]x[/bold][/nothing]:smile:") == 1
    assert text.count("[bold]") >= 3


@settings(max_examples=100)
@given(text=st.text(max_size=80))
def test_no_text_prints_a_control_character_or_fails(text: str) -> None:
    table = Table("column")
    table.add_row(text)
    assert not set(written(text, table)) & CONTROL_CHARACTERS - {"\n", "\t"}


def test_colours_of_our_own_still_come_through() -> None:
    stream = io.StringIO()
    Terminal(file=stream, force_terminal=True, color_system="standard").print("done", style="bold green")
    assert "\x1b[1;32m" in stream.getvalue()


def test_inspect_shows_a_record_with_such_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tiny.mono(tmp_path / "bundle")
    write_record(root, "a\x1b[2Jb", {"value": 1})
    result = CliRunner().invoke(app, ["inspect", str(root)])
    assert result.exit_code == 0
    assert r"a\x1b[2Jb" in result.output and "\x1b" not in result.output
