"""A folder of pictures goes by the rule of recordings: a few bad ones are left out and named, more are refused."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from support.picture_files import jpeg, scene

from edgevlm.data.pictures import open_pictures
from edgevlm.errors import CalibrationError, PictureError


def folder(place: Path, bad: int, good: int) -> Path:
    for number in range(good):
        (place / f"{number:03}.jpg").write_bytes(jpeg(scene(seed=number)))
    for number in range(bad):
        (place / f"x{number:03}.jpg").write_bytes(jpeg(scene(seed=number))[:400])
    return place


def test_one_bad_picture_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        data = open_pictures(folder(tmp_path, 1, 9))
    assert len(data.calibration) + len(data.held_out) == 9
    assert "1 of 10 damaged picture(s) left out; the first at x000.jpg" in caplog.text


def test_more_than_the_share_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="expected at most 5% damaged pictures, got 2 or more of 11"):
        open_pictures(folder(tmp_path, 2, 9))


def test_what_is_left_must_be_enough(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="5 can be decoded"):
        open_pictures(folder(tmp_path, 1, 5))
