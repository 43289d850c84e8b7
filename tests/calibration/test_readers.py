"""A kind of recordings is one file and one row: a folder of arrays is calibrated on and replayed by its row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from support import tiny
from typer.testing import CliRunner

from edgevlm.bundle import file_sha256
from edgevlm.cli.app import app
from edgevlm.data import LogWriter, read_log, readers
from edgevlm.data.base import Data, Episode, Event, EventStream, FrameEvent, InstructionEvent, ReadOptions, StateEvent
from edgevlm.errors import LogError
from edgevlm.manifest.contract import Contract, Observation, Stamped
from edgevlm_calibration.calibrate import calibrate
from edgevlm_calibration.recordings import open_held_out, split_data

FRAMES, CAMERA = 12, "front"


@dataclass(frozen=True)
class ArrayStream:
    """The arrays as events: each frame comes at its stamp, the state before it."""

    data: Data
    first_ns: int
    last_ns: int
    stamps_are_time: bool = False
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[Event]:
        for episode in self.data.episodes:
            yield InstructionEvent(episode.start_ns, episode.instruction)
            for observation in episode.observations():
                assert observation.state is not None
                frame = observation.frames[CAMERA]
                yield StateEvent(frame.stamp_ns, observation.state)
                yield FrameEvent(frame.stamp_ns, CAMERA, frame)


class ArrayReader:
    """A folder with an .npz file for each episode."""

    def detect(self, path: Path) -> bool:
        return path.is_dir() and any(path.glob("*.npz"))

    def episodes(self, path: Path, contract: Contract, options: ReadOptions) -> Data:
        files = sorted(path.glob("*.npz"))
        digest = hashlib.sha256("".join(map(file_sha256, files)).encode()).hexdigest()
        return Data("log", digest, (), tuple(map(self._episode, range(len(files)), files)), (), options.stamps)

    def events(self, path: Path, contract: Contract, options: ReadOptions) -> EventStream:
        data = self.episodes(path, contract, options)
        stamps_ns = [each.frames[CAMERA].stamp_ns for episode in data.episodes for each in episode.observations()]
        return ArrayStream(data, data.episodes[0].start_ns, stamps_ns[-1])

    def _episode(self, index: int, path: Path) -> Episode:
        with np.load(path) as arrays:
            instruction, start_ns, length = str(arrays["instruction"]), int(arrays["start_ns"]), len(arrays["stamps"])
        return Episode(index, instruction, start_ns, length, partial(self._observations, path))

    def _observations(self, path: Path) -> Iterator[Observation]:
        with np.load(path) as arrays:
            instruction, rows = str(arrays["instruction"]), (arrays["frames"], arrays["states"], arrays["stamps"])
        for frame, state, (frame_ns, state_ns) in zip(*rows, strict=True):
            yield Observation({CAMERA: Stamped(frame, int(frame_ns))}, Stamped(state, int(state_ns)), instruction)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny.mono(tmp_path / "bundle")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Four episodes of two commands."""
    path, camera = tmp_path / "log.mcap", tiny.mono_contract().cameras[0]
    with LogWriter(path) as writer:
        for number in range(4 * FRAMES):
            stamp_ns = tiny.START_NS + number * tiny.PERIOD_NS
            if number % FRAMES == 0:
                writer.string("/instruction", stamp_ns, tiny.COMMANDS[number // FRAMES % 2])
            values = np.random.default_rng(number).uniform(-0.3, 0.3, 3)
            writer.joints("/joint_states", stamp_ns, dict(zip(("x", "y", "grip"), values.tolist(), strict=True)))
            writer.image("/front/image_raw", stamp_ns, tiny.image(camera, number), encoding="rgb8")
    return path


@pytest.fixture
def folder(tmp_path: Path, log: Path) -> Path:
    """What the recording holds, as arrays."""
    recording, folder = read_log(log, tiny.mono_contract()), tmp_path / "arrays"
    folder.mkdir()
    for episode in recording.episodes:
        rows = [(each.frames[CAMERA], each.state) for each in recording.observations(episode)]
        np.savez(
            folder / f"{episode.index}.npz",
            instruction=episode.instruction,
            start_ns=episode.start_ns,
            frames=np.array([frame.value for frame, _ in rows]),
            states=np.array([state.value for _, state in rows if state is not None]),
            stamps=np.array([(frame.stamp_ns, state.stamp_ns) for frame, state in rows if state is not None]),
        )
    return folder


@pytest.fixture
def array_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "READERS", (ArrayReader(), *readers.READERS))


@pytest.mark.usefixtures("array_row")
def test_a_folder_of_arrays_calibrates_as_the_recording_that_it_was_written_from(
    bundle: Path, log: Path, folder: Path
) -> None:
    table, other = (calibrate(bundle, data, samples=20) for data in (log, folder))
    assert table.log_sha256 == file_sha256(log) != other.log_sha256 and len(table.split.held_out) == 2
    assert other.model_copy(update={"log_sha256": table.log_sha256}) == table


@pytest.mark.usefixtures("array_row")
def test_what_was_not_calibrated_on_is_held_out_to_verify(folder: Path) -> None:
    data = open_held_out(folder, tiny.mono_contract(), None)
    assert (len(data.held_out), data.calibration) == (4, ())
    assert len(split_data(data).held_out) == 2


@pytest.mark.usefixtures("array_row")
def test_a_folder_of_arrays_is_replayed_as_the_recording_is(
    tmp_path: Path, bundle: Path, log: Path, folder: Path
) -> None:
    rows = []
    for data in (log, folder):
        output, target = tmp_path / f"replay of {data.name}.mcap", tmp_path / "figures.json"
        arguments = [data, "--bundle", bundle, "-o", output, "--json", target]
        result = CliRunner().invoke(app, ["replay", *map(str, arguments)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        rows.append(json.loads(target.read_text())["bundles"]["a"])
    assert rows[0]["acted"] == 4 * FRAMES
    assert all(rows[0][key] == rows[1][key] for key in ("acted", "failed", "frames_received", "matching"))


def test_what_no_row_detects_is_refused_as_no_recording(bundle: Path, folder: Path) -> None:
    with pytest.raises(LogError):
        calibrate(bundle, folder)
