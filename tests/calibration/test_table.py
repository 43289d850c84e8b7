"""Claims about calibration tables on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgevlm.errors import CalibrationError, OutputError
from edgevlm_calibration.table import EpisodeRef, Split, Table, TensorRange, load_table

EPISODE = EpisodeRef(index=0, instruction="push", start_ns=1, observations=20)
TABLE = Table(
    bundle_sha256="a" * 64,
    log_sha256="b" * 64,
    observer="minmax",
    requested=256,
    samples=20,
    stage_runs={"vision": 20},
    stages={"vision": {"pixels": TensorRange(threshold=1.5, minimum=-1.5, maximum=1.0)}},
    split=Split(calibration=(EPISODE,), held_out=(EPISODE.model_copy(update={"index": 1}),)),
)


def test_a_saved_table_loads_as_it_was(tmp_path: Path) -> None:
    TABLE.save(tmp_path / "new" / "table.json")
    assert load_table(tmp_path / "new" / "table.json") == TABLE
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["table.json"]


def test_the_hash_depends_on_the_thresholds_only_through_the_content() -> None:
    wider = TABLE.model_copy(
        update={"stages": {"vision": {"pixels": TensorRange(threshold=2, minimum=-1.5, maximum=1)}}}
    )
    assert TABLE.sha256() == TABLE.model_copy().sha256() != wider.sha256()


def _broken(change: dict[str, Any]) -> str:
    return json.dumps({**TABLE.to_json(), **change})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected a calibration table in JSON"),
        ("[1]", "calibrate again"),
        (_broken({"extra": 1}), "extra"),
        (_broken({"format": "edgevlm.calibration/9.0"}), "format"),
        (_broken({"samples": 0}), "samples"),
        (_broken({"stages": {"v": {"x": {"threshold": 0, "minimum": 0, "maximum": 0}}}}), "threshold"),
    ],
)
def test_a_table_that_does_not_parse_says_where(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(CalibrationError, match=message):
        load_table(tmp_path / "table.json")


def test_a_missing_table_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="edgevlm calibrate"):
        load_table(tmp_path / "none.json")


def test_a_place_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="free some space"):
        TABLE.save(tmp_path / "file" / "table.json")
