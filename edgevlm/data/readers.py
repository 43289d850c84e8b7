"""Kinds of recordings, a row each. Whoever opens a recording by its path does it here."""

from __future__ import annotations

from pathlib import Path

from edgevlm.data.base import DataReader
from edgevlm.data.mcap_reader import McapReader

READERS: tuple[DataReader, ...] = (McapReader(),)  # the first that detects its kind; the last takes the rest


def reader(path: Path) -> DataReader:
    """The row for what lies at the path."""
    return next(row for row in READERS if row.detect(path))
