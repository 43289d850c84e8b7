"""What a test run makes once, also where it runs in several processes: checkpoints, exports, traced stages."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path


class Shared:
    """Folders by name. Whoever asks first makes one; the other processes of the run wait for it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(exist_ok=True)

    def folder(self, name: str, make: Callable[[Path], object]) -> Path:
        """The folder that `make(folder)` filled; not to be changed. A failure leaves none, and the next one tries."""
        folder, done = self._root / name, self._root / f"{name}.done"
        with (self._root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder
