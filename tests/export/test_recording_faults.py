"""A recording that does not fit is refused by export, calibrate, verify and replay alike: one text, one exit code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard
from support.recordings import SECOND_NS, Row, read_rows, stamp_of, stamped, write_rows
from typer.testing import CliRunner

from edgevlm.bundle import write_record
from edgevlm.cli.app import app
from edgevlm.errors import EdgevlmError
from edgevlm.rosmsg.schemas import STRING, definition
from edgevlm_calibration.table import load_table

CAMERA, STATE = "/front/image_raw", "/joint_states"
Rows = list[Row]


def each(topic: str, change: Callable[[Any], None]) -> Callable[[Rows], Rows]:
    return lambda rows: [row.changed(change) if row.topic == topic else row for row in rows]


def shifted(topic: str, by_ns: int) -> Callable[[Rows], Rows]:
    return each(topic, lambda message: stamped(message, stamp_of(message) + by_ns))


def slow(rows: Rows) -> Rows:
    frames = [row for row in rows if row.topic == CAMERA]
    return [row for row in rows if row.topic != CAMERA or frames.index(row) % 12 in (0, 10)]


def small(message: Any) -> None:
    message.height, message.data = message.height - 1, message.data[: message.step * (message.height - 1)]


def twice(message: Any) -> None:
    message.name, message.position = [*message.name, "j2"], [*message.position, 0.0]


def uneven(message: Any) -> None:
    message.position = message.position[:1]


def far(message: Any) -> None:
    message.position = [57.3 * value * 100 for value in message.position]


def milliseconds(message: Any) -> None:
    message.header.stamp.nanosec //= 1_000_000


ITSELF = ("float64[] effort\n", "float64[] effort\nJointState[] more\n")


def renamed(message: Any) -> None:
    message.name = ["a", "b"]


FAULTS: dict[str, tuple[Callable[[Rows], Rows], str]] = {
    "rate": (slow, "expected 10 to 30 Hz, got 1.0 Hz by its stamps"),
    "size": (each(CAMERA, small), "expected 40x30, got 40x29"),
    "publishers": (
        lambda rows: [replace(row, channel=i % 2) if row.topic == CAMERA else row for i, row in enumerate(rows)],
        "expected one publisher, got 2 (channel",
    ),
    "named twice": (each(STATE, twice), "name 'j2' stands 2 times in one message"),
    "uneven lists": (each(STATE, uneven), "expected a number for each of 2 names, got 1 in position"),
    "other unit": (each(STATE, far), "standard deviations from what the model was trained on; give the `unit`"),
    "other joints": (each(STATE, renamed), "joints ['j1', 'j2'] are missing, it has a, b"),
    "camera ahead": (shifted(CAMERA, 3 * SECOND_NS // 10), "got -0.300 s (arrival minus stamp)"),
    "state an hour off": (shifted(STATE, -3600 * SECOND_NS), "got +3600.000 s (arrival minus stamp)"),
    "stands still": (each(CAMERA, lambda message: stamped(message, SECOND_NS)), "the stamp stands still: 96 messages"),
    "milliseconds": (each(CAMERA, milliseconds), "nanosec is always under 1000, as if it held milliseconds"),
    "log times of 0": (lambda rows: [replace(row, log_ns=0) for row in rows], "messages have the log time 0 ns"),
    "instructions at 0": (
        lambda rows: [
            replace(row, log_ns=0) if row.type_name == STRING else replace(row, log_ns=row.log_ns + 7200 * SECOND_NS)
            for row in rows
        ],
        "topic /instruction: its log times begin 7201 s before",
    ),
    "two types": (
        lambda rows: [Row(STATE, STRING, definition(STRING), rows[0].log_ns, b"\0\1\0\0\2\0\0\0x\0"), *rows],
        "expected messages of one type, got sensor_msgs/msg/JointState, std_msgs/msg/String",
    ),
    "two definitions": (
        lambda rows: [
            replace(row, schema=row.schema.replace("float64[] effort", "float32[] effort"))
            if row.topic == STATE and i > 50 else row
            for i, row in enumerate(rows)
        ],
        "got several that differ",
    ),
    "no fields": (lambda rows: [replace(row, schema="\n") for row in rows], "has no fields"),
    "holds itself": (
        lambda rows: [replace(row, schema=row.schema.replace(*ITSELF)) for row in rows],
        "holds itself: sensor_msgs/JointState in sensor_msgs/JointState",
    ),
    "ROS 1": (
        lambda rows: [replace(row, encoding="ros1", schema_encoding="ros1msg") for row in rows],
        "convert the recording to ROS 2",
    ),
    "compressed messages": (
        lambda rows: [replace(row, data=zstandard.ZstdCompressor().compress(row.data)) for row in rows],
        "the messages themselves are compressed (zstd",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def rows(log: Path) -> Rows:
    return read_rows(log)


def outcome(arguments: list[str | Path]) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(result.exception, EdgevlmError), (arguments, result.exception, result.output)
    return result.exception.exit_code, str(result.exception)


@pytest.mark.parametrize("name", FAULTS)
def test_every_verb_refuses_alike(
    name: str, rows: Rows, checkpoint: Path, fp32: tuple[Path, Any], tmp_path: Path
) -> None:
    change, says = FAULTS[name]
    path = write_rows(tmp_path / "log.mcap", change(rows))
    bundle = fp32[0]
    outcomes = {
        "export": outcome(["export", checkpoint, "-o", tmp_path / "out", "--int8", "--calib", path]),
        "calibrate": outcome(["calibrate", bundle, "--data", path, "-o", tmp_path / "table.json"]),
        "verify": outcome(["verify", bundle, "--against", bundle, "--data", path]),
        "replay": outcome(["replay", path, "--bundle", bundle, "-o", tmp_path / "out.mcap"]),
    }
    assert len(set(outcomes.values())) == 1, outcomes
    assert says in outcomes["export"][1]
    assert sorted(tmp_path.iterdir()) == [path], "something was left behind"


def test_by_log_times_a_wrong_clock_does_no_harm_and_what_is_written_says_so(
    rows: Rows, fp32: tuple[Path, Any], tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "log.mcap", shifted(CAMERA, 3 * SECOND_NS // 10)(rows), metadata=True)
    table = tmp_path / "table.json"
    result = CliRunner().invoke(
        app, ["calibrate", str(fp32[0]), "--data", str(path), "-o", str(table), "--stamps", "log"]
    )
    assert result.exit_code == 0, result.output
    by_log = load_table(table)
    assert by_log.stamps == "log" and by_log.to_json()["stamps"] == "log"
    calibrated = tmp_path / "calibrated"
    shutil.copytree(fp32[0], calibrated)
    write_record(calibrated, "calibration", by_log.to_json())
    figures = tmp_path / "figures.json"
    verify: list[str | Path] = ["verify", calibrated, "--against", calibrated, "--data", path, "--json", figures]
    result = CliRunner().invoke(app, [str(each) for each in verify])
    assert result.exit_code == 0, result.output
    assert json.loads(figures.read_text())["fidelity"]["data"]["stamps"] == "log"
    assert "--stamps log" in outcome([*verify, "--stamps", "header"])[1]
    plain = write_rows(tmp_path / "plain.mcap", rows, metadata=True)
    arguments = ["calibrate", str(fp32[0]), "--data", str(plain), "-o", str(table)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    by_header = load_table(table)
    assert "stamps" not in by_header.to_json(), "tables of header stamps are written as before there was a choice"
    assert by_header.stages == by_log.stages
