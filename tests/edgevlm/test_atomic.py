"""Whoever reads at whatever instant, and however a writer ends, there is the old content or the new one, whole."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgevlm import atomic
from edgevlm.atomic import exchange, new_directory, write_file

# Writes directories whose two files must agree, again and again, until it is ended.
WRITER = """
import signal
import sys
from pathlib import Path
from edgevlm import atomic
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a shell may have started the tests with both ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
if sys.argv[2] == "in turn":
    atomic._exchange_at_once = lambda one, other: (_ for _ in ()).throw(OSError(38, "no such call"))
number = 0
print("ready", flush=True)
while True:
    number += 1
    with atomic.new_directory(Path(sys.argv[1]), lambda: None) as work:
        (work / "a").write_text(str(number))
        (work / "b").write_text(str(number))
"""


def start(place: Path, how: str = "at once") -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(place), how], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.stdout.close()
    return process


def complete(place: Path) -> bool:
    """Whether the directory's two files agree, read through one descriptor of it."""
    folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        texts = []
        for name in ("a", "b"):
            descriptor = os.open(name, os.O_RDONLY, dir_fd=folder)
            texts.append(os.read(descriptor, 20))
            os.close(descriptor)
        return texts[0] == texts[1] != b""
    finally:
        os.close(folder)


def wait_until(true: Callable[[], bool]) -> None:
    begin = time.monotonic()
    while not true():
        assert time.monotonic() - begin < 10, "waited in vain"
        time.sleep(0.005)


def nothing() -> None:
    pass


@pytest.mark.parametrize("how", ["at once", "in turn"])
def test_a_writer_killed_at_any_instant_leaves_a_complete_directory_and_the_next_one_sweeps(
    tmp_path: Path, how: str
) -> None:
    place = tmp_path / "out"
    with new_directory(place, nothing) as work:
        (work / "a").write_text("0")
        (work / "b").write_text("0")
    for delay_ms in range(12):
        process = start(place, how)
        time.sleep(0.02 + delay_ms / 1000)
        process.kill()
        process.wait()
        if place.exists():
            assert complete(place)
        else:  # between two renames: the next writer puts it back before it begins
            assert how == "in turn"
            with pytest.raises(ZeroDivisionError), new_directory(place, nothing):
                assert complete(place)
                raise ZeroDivisionError
        with new_directory(place, nothing) as work:
            (work / "a").write_text("0")
            (work / "b").write_text("0")
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_reader_never_meets_a_place_without_a_directory(tmp_path: Path) -> None:
    place = tmp_path / "out"
    process = start(place)
    try:
        wait_until(place.exists)
        end = time.monotonic() + 1.5
        reads = 0
        while time.monotonic() < end:
            assert place.exists()
            reads += 1
        assert reads > 1000
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    place = tmp_path / "out"
    process = start(place)
    wait_until(place.exists)
    process.send_signal(number)
    process.wait(10)
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and complete(place)


def test_writers_of_one_place_do_not_disturb_each_other(tmp_path: Path) -> None:
    place = tmp_path / "out"
    processes = [start(place) for _ in range(3)]
    time.sleep(1.5)
    assert all(process.poll() is None for process in processes)
    for process in processes:
        process.terminate()
        process.wait(10)
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and complete(place)


def test_what_a_living_writer_has_is_not_swept_nor_what_is_not_ours(tmp_path: Path) -> None:
    place = tmp_path / "out"
    foreign = [tmp_path / ".out.backup", tmp_path / ".out.edgevlm-notes", tmp_path / ".other.edgevlm-abcdefgh"]
    for path in foreign:
        path.mkdir()
    with new_directory(place, nothing) as first:
        (first / "a").write_text("1")
        done = threading.Event()

        def other() -> None:
            with new_directory(place, nothing) as second:
                (second / "a").write_text("2")
            done.set()

        threading.Thread(target=other).start()
        assert done.wait(10)
        assert (first / "a").read_text() == "1" and (place / "a").read_text() == "2"
    assert (place / "a").read_text() == "1"
    assert all(path.is_dir() for path in foreign)


def test_a_link_at_the_place_is_replaced_and_what_it_led_to_stays(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("kept")
    (tmp_path / "out").symlink_to("real")
    with new_directory(tmp_path / "out", nothing) as work:
        (work / "a").write_text("new")
    assert not (tmp_path / "out").is_symlink() and (tmp_path / "out" / "a").read_text() == "new"
    assert (tmp_path / "real" / "a").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "real"]


def test_an_exchange_in_turn_puts_things_back_where_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(name)

    def no_such_call(one: Path, other: Path) -> None:
        raise OSError(errno.ENOSYS, "no such call")

    rename, calls = Path.rename, []

    def fails_once(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(atomic, "_exchange_at_once", no_such_call)
    monkeypatch.setattr(Path, "rename", fails_once)
    with pytest.raises(KeyboardInterrupt):
        exchange(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "one" / "a").read_text() == "one" and (tmp_path / "other" / "a").read_text() == "other"
    exchange(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "one" / "a").read_text() == "other" and (tmp_path / "other" / "a").read_text() == "one"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_is_replaced_in_full_or_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder" / "f.json"
    write_file(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old" and len(list(path.parent.iterdir())) == 1
