"""The latch in its file: what is not plainly `not latched` is latched, and what cannot be kept is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevlm.errors import LatchError
from edgevlm.gate.estop import LatchStore, latch_directory, latch_file

NODE = "/left/command_gate"
NAMES = st.from_regex(r"(/[A-Za-z_][A-Za-z0-9_]{0,60}){1,4}", fullmatch=True)


@pytest.mark.parametrize("latched", [False, True])
def test_what_was_written_is_read_by_the_next_process(tmp_path: Path, latched: bool) -> None:
    first = LatchStore(tmp_path / "not" / "there", NODE)
    assert not first.read(), "no file is the first start"
    first.write(latched)
    first.close()
    assert LatchStore(tmp_path / "not" / "there", NODE).read() is latched


@given(one=NAMES, other=NAMES)
def test_each_name_has_a_file_of_its_own_with_a_safe_name(one: str, other: str) -> None:
    assert (latch_file(one) == latch_file(other)) == (one == other)
    assert "/" not in latch_file(one)
    assert len(latch_file(one)) < 250


def test_names_that_differ_where_a_name_is_cut_differ() -> None:
    long = "/a" * 120
    assert latch_file(f"{long}/x") != latch_file(f"{long}/y")
    assert len(latch_file(f"{long}/x")) < 250


@given(data=st.binary(max_size=200))
def test_any_other_content_is_latched(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    store = LatchStore(tmp_path_factory.mktemp("latch"), NODE)
    store.path.write_bytes(data)
    assert store.read()
    store.close()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        '{"node": "/right/command_gate", "latched": false}',
        '{"node": "/left/command_gate", "latched": 0}',
        '{"node": "/left/command_gate"}',
        '{"node": "/left/command_gate", "latched": false',
        '{"node": "/left/command_gate", "latched": false, "more": 1}',
        "[" * 100_000,
    ],
)
def test_broken_foreign_and_torn_files_are_latched(tmp_path: Path, text: str) -> None:
    store = LatchStore(tmp_path, NODE)
    store.path.write_text(text)
    assert store.read()


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.mkdir(),
        lambda path: os.mkfifo(path),
        lambda path: path.symlink_to("/nowhere"),
        lambda path: path.symlink_to("/dev/zero"),
    ],
    ids=["directory", "fifo", "dangling link", "device"],
)
def test_what_is_no_file_is_latched_and_holds_nobody_up(tmp_path: Path, make: Callable[[Path], object]) -> None:
    store = LatchStore(tmp_path, NODE)
    make(store.path)
    assert store.read()


def test_two_gates_of_one_name_are_refused_and_others_are_not(tmp_path: Path) -> None:
    first = LatchStore(tmp_path, NODE)
    with pytest.raises(LatchError, match="another process has it"):
        LatchStore(tmp_path, NODE)
    LatchStore(tmp_path, "/right/command_gate").close()
    first.close()
    LatchStore(tmp_path, NODE).close()


def test_a_place_that_cannot_be_written_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "edgevlm").write_text("a file where a directory belongs")
    with pytest.raises(LatchError, match="set ROS_HOME"):
        LatchStore(tmp_path / "edgevlm" / "estop", NODE)


def test_a_write_that_fails_says_so_and_leaves_what_was_there(tmp_path: Path) -> None:
    store = LatchStore(tmp_path, NODE)
    store.write(True)
    (store.path.with_suffix(".new")).mkdir()
    with pytest.raises(LatchError, match="cannot be written"):
        store.write(False)
    assert store.read()


def test_leftovers_of_a_write_that_was_cut_off_are_replaced(tmp_path: Path) -> None:
    store = LatchStore(tmp_path, NODE)
    store.path.with_suffix(".new").write_text('{"node": "/le')
    assert not store.read()
    store.write(True)
    assert store.read()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".lock"]


def test_it_lies_under_ros_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert latch_directory({"ROS_HOME": "/robot"}) == Path("/robot/edgevlm/estop")
    monkeypatch.setenv("HOME", str(tmp_path))
    for environment in ({}, {"ROS_HOME": ""}):
        assert latch_directory(environment) == tmp_path / ".ros" / "edgevlm" / "estop"
