"""What a test run shares is made once, whoever asks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.shared import Shared

ASK = """
import sys, time
from pathlib import Path
from support.shared import Shared

def make(folder: Path) -> None:
    with (folder / "makers").open("a") as stream:
        time.sleep(0.2)
        stream.write("one\\n")

print((Shared(Path(sys.argv[1])).folder("bundle", make) / "makers").read_text(), end="")
"""


def test_two_processes_share_what_one_of_them_built(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", ASK, str(tmp_path)]
    asked = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in asked] == ["one\n"] * 2


def test_what_failed_is_built_again_from_nothing(tmp_path: Path) -> None:
    shared = Shared(tmp_path)

    def half(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("full")

    with pytest.raises(OSError):
        shared.folder("bundle", half)
    assert list(shared.folder("bundle", lambda folder: (folder / "all").touch()).iterdir()) == [
        tmp_path / "bundle" / "all"
    ]
