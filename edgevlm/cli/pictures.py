"""What the command line draws: episodes as an mp4 and a picture strip, errors over time as a PNG."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.cli.output import write_whole
from edgevlm.errors import OutputError, require
from edgevlm.manifest.contract import SECOND_NS

CAPTION_HEIGHT, CAPTION_SIZE = 36, 0.75
SCALE = 2  # of a film's frames

WIDTH, STRIP, TOP, BOTTOM, LEFT, RIGHT, GAP = 1280, 150, 64, 52, 120, 24, 34
INK, GRAY, GRID = (40, 40, 40), (120, 120, 120), (225, 225, 225)  # BGR
LINE, MEAN, P99, CHANGE = (180, 105, 30), (70, 150, 40), (45, 60, 200), (205, 205, 160)
BREAK_S = 2.0  # a line is not drawn over a longer pause


class Film:
    """Collects captioned RGB frames, episode by episode, and writes them; every file is there whole or not at all.

    Raises:
        DependencyError: OpenCV is not installed.
    """

    def __init__(self) -> None:
        self._cv2 = require("cv2", extra="vision")
        self._episodes: list[list[NDArray[np.uint8]]] = []

    def begin(self) -> None:
        """A new episode starts."""
        self._episodes.append([])

    def add(self, image_rgb: NDArray[np.uint8], left: str, right: str) -> None:
        """One frame (H, W, 3) with a caption under it."""
        cv2 = self._cv2
        height, width = image_rgb.shape[0] * SCALE, image_rgb.shape[1] * SCALE
        page = np.full((height + CAPTION_HEIGHT, width, 3), 24, np.uint8)
        page[:height] = cv2.resize(image_rgb, (width, height), interpolation=cv2.INTER_CUBIC)
        for text, right_aligned in ((left, False), (right, True)):
            (length, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, CAPTION_SIZE, 1)
            at = (width - length - 8 if right_aligned else 8, height + 25)
            cv2.putText(page, text, at, cv2.FONT_HERSHEY_SIMPLEX, CAPTION_SIZE, (235, 235, 235), 1, cv2.LINE_AA)
        self._episodes[-1].append(page)

    def write_video(self, path: Path, rate_hz: float) -> None:
        """Every episode, one after the other.

        Raises:
            OutputError: nothing was filmed, or the file cannot be written.
        """
        frames = [frame for episode in self._episodes for frame in episode]
        if not frames:
            raise OutputError(f"{path}: no frame was filmed")
        with tempfile.TemporaryDirectory() as work:
            whole = Path(work) / "film.mp4"
            height, width = frames[0].shape[:2]
            writer = self._cv2.VideoWriter(
                os.fspath(whole), self._cv2.VideoWriter_fourcc(*"mp4v"), rate_hz, (width, height)
            )
            if not writer.isOpened():
                raise OutputError(f"{path}: this OpenCV cannot write mp4; install opencv-python-headless from PyPI")
            for frame in frames:
                writer.write(np.ascontiguousarray(frame[..., ::-1]))
            writer.release()
            write_whole(path, whole.read_bytes())

    def write_strip(self, path: Path, *, rows: int, columns: int) -> None:
        """A PNG: `rows` episodes spread over all of them, `columns` frames spread over each, first and last among them.

        Raises:
            OutputError: nothing was filmed, or the file cannot be written.
        """
        filmed = [episode for episode in self._episodes if episode]
        if not filmed:
            raise OutputError(f"{path}: no frame was filmed")
        chosen = _spread(filmed, min(rows, len(filmed)))
        picture = np.concatenate([np.concatenate(_spread(episode, columns), 1) for episode in chosen], 0)
        picture = self._cv2.resize(picture, None, fx=1 / SCALE, fy=1 / SCALE, interpolation=self._cv2.INTER_AREA)
        _write_png(self._cv2, path, np.ascontiguousarray(picture[..., ::-1]))


class ErrorPlot:
    """Strips of error over time, with mean and p99; dots on the axis where the instruction changes.

    Args:
        stamps_ns: of the observations. (N,)
        errors: in the units of the columns. (N, A)
        changes_ns: when another instruction began.

    Raises:
        DependencyError: OpenCV is not installed.
    """

    def __init__(self, stamps_ns: Sequence[int], errors: NDArray[np.float64], changes_ns: Sequence[int]) -> None:
        self._cv2 = require("cv2", extra="vision")
        stamps = np.asarray(stamps_ns, np.int64)
        first_ns = int(stamps.min()) if len(stamps) else 0
        self._seconds = (stamps - first_ns) / SECOND_NS
        self._changes = [(stamp_ns - first_ns) / SECOND_NS for stamp_ns in changes_ns]
        self._errors = errors
        self._end = float(self._seconds.max()) if len(stamps) else 0.0
        self._end = self._end or 1.0

    def write(self, path: Path, title: str, columns: Sequence[tuple[str, str]]) -> None:
        """Draw the columns, each (name, unit), and write the file whole or not at all.

        Raises:
            OutputError: there is nothing to draw, or the file cannot be written.
        """
        if not len(self._seconds):
            raise OutputError(f"{path}: there is no observation that both bundles acted on, so nothing to plot")
        height = TOP + len(columns) * (STRIP + GAP) + BOTTOM
        page = np.full((height, WIDTH, 3), 255, np.uint8)
        self._text(page, title, (LEFT, 26), 0.6, INK)
        self._legend(page)
        for number, (name, unit) in enumerate(columns):
            top = TOP + GAP + number * (STRIP + GAP)
            self._strip(page, top, f"{name} [{unit}]", self._errors[:, number])
        self._time_axis(page, TOP + len(columns) * (STRIP + GAP))
        _write_png(self._cv2, path, page)

    def _strip(self, page: Any, top: int, label: str, errors: NDArray[np.float64]) -> None:
        cv2, limit = self._cv2, _round_up(float(errors.max()))
        mean, p99, largest = float(errors.mean()), float(np.percentile(errors, 99)), float(errors.max())
        figures = f"mean {mean:.3g}   p99 {p99:.3g}   max {largest:.3g}"
        self._text(page, label, (LEFT, top - 8), 0.5, INK)
        self._text(page, figures, (WIDTH - RIGHT, top - 8), 0.45, GRAY, right=True)

        def y(value: float) -> int:
            return round(top + STRIP * (1 - value / limit))

        for share in (0.0, 0.5, 1.0):
            cv2.line(page, (LEFT, y(limit * share)), (WIDTH - RIGHT, y(limit * share)), GRID, 1)
            self._text(page, f"{limit * share:.3g}", (LEFT - 8, y(limit * share) + 5), 0.42, GRAY, right=True)
        for change in self._changes:
            cv2.line(page, (self._x(change), top), (self._x(change), top + STRIP), CHANGE, 1)
        points = [(self._x(second), y(error)) for second, error in zip(self._seconds, errors, strict=True)]
        for here, there, pause in zip(points, points[1:], np.diff(self._seconds), strict=False):
            if 0 <= pause <= BREAK_S:
                cv2.line(page, here, there, LINE, 1, cv2.LINE_AA)
        if len(points) * 3 < WIDTH:
            for point in points:
                cv2.circle(page, point, 2, LINE, -1, cv2.LINE_AA)
        for value, colour in ((mean, MEAN), (p99, P99)):
            cv2.line(page, (LEFT, y(value)), (WIDTH - RIGHT, y(value)), colour, 1)
        cv2.rectangle(page, (LEFT, top), (WIDTH - RIGHT, top + STRIP), GRAY, 1)

    def _time_axis(self, page: Any, bottom: int) -> None:
        step = _round_up(self._end / 10)
        for number in range(int(self._end / step + 1e-9) + 1):
            x = self._x(number * step)
            self._cv2.line(page, (x, bottom), (x, bottom + 5), GRAY, 1)
            self._text(page, f"{number * step:g}", (x, bottom + 20), 0.42, GRAY, centred=True)
        self._text(
            page, "seconds since the first observation", ((LEFT + WIDTH) // 2, bottom + 42), 0.45, INK, centred=True
        )

    def _legend(self, page: Any) -> None:
        x = LEFT
        entries = (
            ("largest error over a chunk's rows", LINE),
            ("mean", MEAN),
            ("p99", P99),
            ("another instruction", CHANGE),
        )
        for label, colour in entries:
            self._cv2.line(page, (x, 46), (x + 24, 46), colour, 2)
            x = self._text(page, label, (x + 32, 51), 0.45, INK) + 28

    def _x(self, second: float) -> int:
        return round(LEFT + (WIDTH - RIGHT - LEFT) * min(max(second / self._end, 0.0), 1.0))

    def _text(
        self,
        page: Any,
        text: str,
        at: tuple[int, int],
        size: float,
        colour: tuple[int, int, int],
        *,
        right: bool = False,
        centred: bool = False,
    ) -> int:
        """Draw a text that starts at, ends at or is centred on `at`; where it ends."""
        cv2 = self._cv2
        (length, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
        x = at[0] - (length if right else length // 2 if centred else 0)
        cv2.putText(page, text, (x, at[1]), cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)
        return int(x + length)


def _write_png(cv2: Any, path: Path, image_bgr: NDArray[np.uint8]) -> None:
    done, png = cv2.imencode(".png", image_bgr)
    if not done:
        raise OutputError(f"{path}: OpenCV cannot encode this picture as PNG")
    write_whole(path, png.tobytes())


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, ... times a power of ten; 1 for 0."""
    if value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step * power for step in (1.0, 2.0, 5.0, 10.0) if value <= step * power * (1 + 1e-9)))


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    places = np.linspace(0, len(items) - 1, count).round().astype(int)
    return [items[place] for place in places]
