"""Frames with captions -> an mp4 and a picture strip."""

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

CAPTION_HEIGHT = 36
TEXT = 0.75
SCALE = 2


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
            (length, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, TEXT, 1)
            at = (width - length - 8 if right_aligned else 8, height + 25)
            cv2.putText(page, text, at, cv2.FONT_HERSHEY_SIMPLEX, TEXT, (235, 235, 235), 1, cv2.LINE_AA)
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
        done, png = self._cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
        if not done:
            raise OutputError(f"{path}: OpenCV cannot encode this picture as PNG")
        write_whole(path, png.tobytes())


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    places = np.linspace(0, len(items) - 1, count).round().astype(int)
    return [items[place] for place in places]
