"""Values by their stamps: the nearest, the newest before, and the window over time. Slots are never filled by count."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from edgevlm.errors import StampError, WindowNotReadyError
from edgevlm.manifest.contract import SECOND_NS, WindowSpec


def nearest(stamps_ns: Sequence[int], target_ns: int) -> int:
    """Index of the stamp nearest to `target_ns` in a rising, non-empty sequence; the older one of two equally near."""
    right = bisect_left(stamps_ns, target_ns)
    if right == len(stamps_ns):
        return right - 1
    if right and target_ns - stamps_ns[right - 1] <= stamps_ns[right] - target_ns:
        return right - 1
    return right


def nearest_within(stamps_ns: Sequence[int], target_ns: int, tolerance_ns: int) -> int | None:
    """As `nearest`; None when no stamp is within the tolerance."""
    index = nearest(stamps_ns, target_ns) if stamps_ns else None
    return index if index is not None and abs(stamps_ns[index] - target_ns) <= tolerance_ns else None


def newest_until(stamps_ns: Sequence[int], target_ns: int, tolerance_ns: int) -> int | None:
    """Index of the newest stamp at or before `target_ns` in a rising sequence; None when that is too far before it."""
    index = bisect_right(stamps_ns, target_ns) - 1
    return index if index >= 0 and target_ns - stamps_ns[index] <= tolerance_ns else None


def sample(stamps_ns: Sequence[int], now_ns: int, spec: WindowSpec) -> tuple[int | None, ...]:
    """For each slot the index of the frame nearest to `now_ns + offset`, or None if none lies within the tolerance."""
    tolerance_ns = round(spec.tolerance_s * SECOND_NS)
    targets_ns = (now_ns + round(offset_s * SECOND_NS) for offset_s in spec.offsets_s)
    return tuple(nearest_within(stamps_ns, target_ns, tolerance_ns) for target_ns in targets_ns)


def fill(stamps_ns: Sequence[int], now_ns: int, spec: WindowSpec) -> tuple[int | None, ...]:
    """`sample`, with the window's rule for slots that no frame fits.

    `repeat` takes the nearest frame there is (at the start of an episode: the oldest); `mask` leaves None.

    Raises:
        StampError: the newest slot has no frame within the tolerance: this camera is behind the others.
        WindowNotReadyError: a slot is empty and the rule is `wait`.
    """
    slots = sample(stamps_ns, now_ns, spec)
    if slots[-1] is None:
        newest = f"newest frame {(now_ns - stamps_ns[-1]) / 1e6:.1f} ms old" if stamps_ns else "no frame"
        raise StampError(
            f"window: expected a frame within {spec.tolerance_s * 1e3:.0f} ms of now, got {newest}; "
            "check that the cameras are synchronised and all publish"
        )
    if None not in slots or spec.pad == "mask":
        return slots
    if spec.pad == "wait":
        missing = [offset for offset, slot in zip(spec.offsets_s, slots, strict=True) if slot is None]
        raise WindowNotReadyError(
            f"window: no frame yet for the slots at {missing} s; keep feeding frames, then ask again"
        )
    return tuple(
        nearest(stamps_ns, now_ns + round(offset * SECOND_NS)) if slot is None else slot
        for offset, slot in zip(spec.offsets_s, slots, strict=True)
    )


class HasStamp(Protocol):
    """Anything a ring can hold."""

    @property
    def stamp_ns(self) -> int: ...


F = TypeVar("F", bound=HasStamp)


class FrameRing(Generic[F]):
    """Frames of one camera in the order of their stamps, as far back as the window reaches. Not thread-safe."""

    def __init__(self, spec: WindowSpec) -> None:
        self._spec = spec
        # Rounded term by term, as `sample` does: a frame at the very edge of the tolerance stays in reach.
        self._reach_ns = round(spec.tolerance_s * SECOND_NS) - round(spec.offsets_s[0] * SECOND_NS)
        self._frames: list[F] = []
        self._stamps_ns: list[int] = []

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[F]:
        return iter(self._frames)

    @property
    def newest(self) -> F | None:
        """The frame with the newest stamp."""
        return self._frames[-1] if self._frames else None

    @property
    def newest_ns(self) -> int | None:
        """Stamp of the newest frame."""
        return self._stamps_ns[-1] if self._stamps_ns else None

    def add(self, frame: F) -> list[F]:
        """Put a frame newer than all others in; the frames that fell out of reach come back.

        Raises:
            StampError: the frame is not newer.
        """
        if self._stamps_ns and frame.stamp_ns <= self._stamps_ns[-1]:
            raise StampError(
                f"expected a frame after {self._stamps_ns[-1]} ns, got {frame.stamp_ns} ns; "
                "drop late frames, or reset the session"
            )
        self._frames.append(frame)
        self._stamps_ns.append(frame.stamp_ns)
        keep = bisect_left(self._stamps_ns, frame.stamp_ns - self._reach_ns)
        dropped, self._frames, self._stamps_ns = self._frames[:keep], self._frames[keep:], self._stamps_ns[keep:]
        return dropped

    def window(self, now_ns: int) -> tuple[F | None, ...]:
        """The frame of every slot, oldest first, by the rule of the window's contract (see `fill`)."""
        return tuple(None if i is None else self._frames[i] for i in fill(self._stamps_ns, now_ns, self._spec))

    def clear(self) -> list[F]:
        """Forget everything; the frames come back."""
        dropped, self._frames, self._stamps_ns = self._frames, [], []
        return dropped
