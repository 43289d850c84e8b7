"""Pictures that cannot be used: left out, counted and named, up to a share; then the recording is refused.

Whoever reads pictures goes by this rule: `read_log` (export, calibrate, verify), a replay, a folder of pictures.
"""

from __future__ import annotations

from edgevlm.data.container import Container, MessageRef
from edgevlm.errors import ContractError, DependencyError, LogError
from edgevlm.manifest.contract import CameraSpec
from edgevlm.rosmsg.camera import read_frame

MOST_DAMAGED = 0.05  # of the pictures of one camera or folder; one picture always
Frames = list[tuple[int, int, MessageRef]]  # (log time, stamp, where)


class Damaged:
    """The damaged pictures of one source.

    Args:
        where: the recording and the topic, or the folder; begins every message.
        total: how many pictures there are.
    """

    def __init__(self, where: str, total: int) -> None:
        self._where, self._total = where, total
        self.count = 0
        self._first = ""

    def add(self, which: str, error: LogError | ContractError) -> None:
        """Leave one out.

        Raises:
            LogError, ContractError: of the class of `error`, when it is one too many.
        """
        self.count += 1
        self._first = self._first or f"{which}: {error}"
        if self.count > max(1, MOST_DAMAGED * self._total):
            raise type(error)(
                f"{self._where}: expected at most {MOST_DAMAGED:.0%} damaged pictures, "
                f"got {self.count} or more of {self._total}; the first at {self._first}"
            )

    @property
    def warning(self) -> str | None:
        """What was left out; None: nothing."""
        if not self.count:
            return None
        return (
            f"{self._where}: {self.count} of {self._total} damaged picture(s) left out; the first at {self._first:.300}"
        )


def sound(container: Container, topic: str, kind: str, camera: CameraSpec, frames: Frames) -> Frames:
    """The frames whose pictures can be used; each is decoded, and a warning names what was left out.

    Raises:
        LogError, ContractError: too many cannot.
    """
    damaged = Damaged(f"{container.path}: topic {topic}", len(frames))
    kept: Frames = []
    for frame in frames:
        try:
            read_frame(kind, container.read(frame[2]), camera)
        except DependencyError:
            raise
        except (LogError, ContractError) as error:
            damaged.add(f"stamp {frame[1]} ns", error)
        else:
            kept.append(frame)
    if damaged.warning:
        container.warnings.append(damaged.warning)
    return kept
