"""edgevlm replay: the same bytes every time, readable by any tool, and a difference that a person can act on."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from support import tiny
from typer.testing import CliRunner

from edgevlm import load
from edgevlm.cli.app import app
from edgevlm.data import LogWriter, read_log
from edgevlm.errors import ContractError, LogError, OutputError, ShapeError

FRAMES = 8
STEP_NS = tiny.PERIOD_NS


def record(path: Path, frames: int = FRAMES, *, command: str | None = tiny.COMMANDS[0]) -> Path:
    """Frames at 10 Hz, a state with each; the instruction changes in the middle."""
    contract = tiny.mono_contract()
    with LogWriter(path, chunk_bytes=4000) as log:
        for number in range(frames):
            stamp_ns = tiny.START_NS + number * STEP_NS
            if command is not None and number in (0, frames // 2):
                log.string("/instruction", stamp_ns, command if number == 0 else tiny.COMMANDS[1])
            values = np.random.default_rng(number).uniform(-0.3, 0.3, 3)
            log.joints("/joint_states", stamp_ns, dict(zip(("x", "y", "grip"), values.tolist(), strict=True)))
            log.image("/front/image_raw", stamp_ns, tiny.image(contract.cameras[0], number), encoding="rgb8")
        if command is None:
            log.string("/instruction", tiny.START_NS + frames * STEP_NS, "")
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return record(tmp_path / "log.mcap")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny.mono(tmp_path / "one")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The same contract, a head that was scaled differently."""
    path = tiny.mono(tmp_path / "two")

    def widen(manifest: dict[str, Any]) -> None:
        manifest["contract"]["action"]["groups"][0]["scale"] = [0.05, 0.06]

    tiny.rewrite(path, widen)
    return path


def replay(*arguments: str | Path) -> None:
    result = CliRunner().invoke(app, ["replay", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def figures(tmp_path: Path, *arguments: str | Path) -> Any:
    target = tmp_path / "figures.json"
    replay(*arguments, "--json", target)
    return json.loads(target.read_text())


def messages(path: Path) -> dict[str, list[Any]]:
    """Topic -> decoded messages, by the library's own reader."""
    written: dict[str, list[Any]] = {}
    with path.open("rb") as stream:
        reader = make_reader(stream, decoder_factories=[DecoderFactory()])
        assert reader.get_header().profile == "ros2"
        for schema, channel, message, value in reader.iter_decoded_messages():
            assert schema is not None and schema.encoding == "ros2msg"
            written.setdefault(channel.topic, []).append((message, value))
    return written


def test_one_bundle_writes_the_chunks_plans_and_counts_that_its_session_gives(
    log: Path, bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.mcap"
    output = figures(tmp_path, log, "--bundle", bundle, "-o", out)
    with load(bundle) as policy:
        recording = read_log(log, policy.contract)
        session = policy.session()
        want = [session.act(o) for episode in recording.episodes for o in recording.observations(episode)]
        sha256 = policy.bundle.sha256
    written = messages(out)
    assert sorted(written) == ["/a/action_chunk", "/a/inference_stats", "/a/plan"]  # no path: the plan has no z
    assert len(want) == FRAMES
    for chunk, (message, value) in zip(want, written["/a/action_chunk"], strict=True):
        assert np.array_equal(np.array(value.values, np.float32).reshape(chunk.values.shape), chunk.values)
        stamp_ns = value.header.stamp.sec * 10**9 + value.header.stamp.nanosec
        assert stamp_ns == chunk.observed_ns == message.log_time
        assert (value.names, value.units, value.step_s) == (["dx", "dy", "grip"], ["m", "m", "1"], 0.05)
        assert (value.bundle_sha256, value.sequence, value.cameras) == (sha256, chunk.sequence, ["front"])
    for chunk, (_, value) in zip(want, written["/a/plan"], strict=True):
        assert chunk.plan is not None and value.step == chunk.plan.step
        assert np.array_equal(np.array(value.waypoints, np.float32).reshape(2, 2), chunk.plan.waypoints)
    instructions = [value.instruction for _, value in written["/a/action_chunk"]]
    assert instructions == [tiny.COMMANDS[0]] * 4 + [tiny.COMMANDS[1]] * 4
    last = written["/a/inference_stats"][-1][1]
    assert (last.acted, last.failed, last.frames_received, last.observations_dropped) == (FRAMES, 0, FRAMES, 0)
    assert last.step_ms == last.latency_ms == 0.0 and set(last.stage_ms) == {0.0} and "vision" in last.stages
    row = output["bundles"]["a"]
    assert row["acted"] == FRAMES and row["step_ms"]["n"] == FRAMES - 3 and row["step_ms"]["p50"] > 0
    assert output["difference"] is None


def test_repeated_it_gives_the_same_bytes(log: Path, bundle: Path, other: Path, tmp_path: Path) -> None:
    outs = [tmp_path / "out_1.mcap", tmp_path / "out_2.mcap"]
    for out in outs:
        replay(log, "--bundle", bundle, "--bundle", other, "-o", out)
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_two_bundles_are_compared_column_by_column(log: Path, bundle: Path, other: Path, tmp_path: Path) -> None:
    out, plot = tmp_path / "out.mcap", tmp_path / "plot.png"
    output = figures(tmp_path, log, "--bundle", bundle, "--bundle", other, "-o", out, "--plot", plot, "--worst", 3)
    written = messages(out)
    a, b = (
        np.array([value.values for _, value in written[f"/{name}/action_chunk"]]).reshape(FRAMES, 5, 3) for name in "ab"
    )
    errors = np.abs(a - b).max(axis=1)
    assert errors[:, 1].min() > 0 and errors[:, 0].max() == 0
    assert np.allclose([value.position for _, value in written["/difference"]], errors, rtol=1e-9, atol=0)
    assert {tuple(value.name) for _, value in written["/difference"]} == {("dx", "dy", "grip")}
    row = output["difference"]["columns"]["dy"]
    assert row == {
        "unit": "m",
        "mean": pytest.approx(errors[:, 1].mean()),
        "p99": pytest.approx(np.percentile(errors[:, 1], 99)),
        "max": pytest.approx(errors[:, 1].max()),
    }
    worst = output["difference"]["worst"]
    order = np.argsort(-errors[:, 1], kind="stable")[:3]
    assert [(one["stamp_ns"] - tiny.START_NS) // STEP_NS for one in worst] == order.tolist()
    assert {one["column"] for one in worst} == {"dy"}
    assert all(one["error"] == pytest.approx(abs(one["a"] - one["b"])) for one in worst)
    picture = cv2.imread(str(plot))
    assert picture is not None and picture.shape[1] == 1280 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 10


def test_a_bundle_differs_from_itself_nowhere(log: Path, bundle: Path, tmp_path: Path) -> None:
    output = figures(tmp_path, log, "--bundle", bundle, "--bundle", bundle, "-o", tmp_path / "out.mcap")
    assert output["difference"]["observations"] == FRAMES
    assert {row["max"] for row in output["difference"]["columns"].values()} == {0.0}


def test_real_time_takes_the_recorded_time_and_tells_durations(log: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mcap"
    command = [sys.executable, "-m", "edgevlm.cli", "replay", log, "--bundle", bundle, "-o", out, "--real-time"]
    done = subprocess.run([*map(str, command), "--json", "-"], capture_output=True, text=True, check=True)
    output = json.loads(done.stdout)
    row = output["bundles"]["a"]
    assert output["real_time"] and row["acted"] + row["observations_dropped"] == FRAMES
    written = messages(out)
    times = [message.log_time for message, _ in written["/a/action_chunk"]]
    assert times[-1] - times[0] >= (FRAMES - 3) * STEP_NS  # it waited for the recorded times
    assert all(value.step_ms > 0 for _, value in written["/a/inference_stats"])


def test_a_cut_recording_is_used_as_far_as_it_goes_and_says_so(log: Path, bundle: Path, tmp_path: Path) -> None:
    data = log.read_bytes()
    log.write_bytes(data[: len(data) // 2])
    output = figures(tmp_path, log, "--bundle", bundle, "-o", tmp_path / "out.mcap")
    assert 0 < output["bundles"]["a"]["acted"] < FRAMES
    assert "is cut" in output["warnings"][0]


def test_an_earlier_result_is_replaced_at_once(log: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mcap"
    out.write_text("an earlier one")
    replay(log, "--bundle", bundle, "-o", out)
    assert len(messages(out)["/a/plan"]) == FRAMES


def differs(root: Path, bundle: Path, log: Path) -> list[str | Path]:
    slower = tiny.mono(root / "slower")
    tiny.rewrite(slower, lambda manifest: manifest["contract"]["action"].update(step_s=0.1))
    return [log, "--bundle", bundle, "--bundle", slower]


def idle(root: Path, bundle: Path, log: Path) -> list[str | Path]:
    return [record(root / "idle.mcap", command=None), "--bundle", bundle]


def unknown_words(root: Path, bundle: Path, log: Path) -> list[str | Path]:
    return [record(root / "words.mcap", frames=1, command="defenestrate"), "--bundle", bundle]


def other_topics(root: Path, bundle: Path, log: Path) -> list[str | Path]:
    (root / "log.topics.yaml").write_text(
        "cameras: {front: /eye}\nstate:\n  x: {topic: /s, joint: x}\n  y: {topic: /s, joint: y}\n"
        "  grip: {topic: /s, joint: grip}\ninstruction: /instruction\n"
    )
    return [log, "--bundle", bundle]


def other_size(root: Path, bundle: Path, log: Path) -> list[str | Path]:
    tiny.rewrite(bundle, lambda manifest: manifest["contract"]["cameras"][0].update(width=17))
    return [log, "--bundle", bundle]


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (differs, ContractError, r"differ at action\.step_s: 0\.05 and 0\.1"),
        (idle, LogError, "acted on nothing.*'without_instruction': 8"),
        (unknown_words, LogError, "InstructionError"),
        (other_topics, LogError, "/eye for camera 'front'"),
        (other_size, ShapeError, "/front/image_raw"),
    ],
)
def test_what_cannot_be_replayed_is_refused_and_leaves_nothing(
    make: Callable[[Path, Path, Path], list[str | Path]],
    error: type[Exception],
    says: str,
    log: Path,
    bundle: Path,
    tmp_path: Path,
) -> None:
    arguments = make(tmp_path, bundle, log)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=says):
        replay(*arguments, "-o", tmp_path / "out.mcap")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_output_that_cannot_be_written_has_its_exit_code(log: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "edgevlm.cli", "replay", log, "--bundle", bundle, "-o", tmp_path / "file/out.mcap"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == OutputError.exit_code and "OutputError" in done.stderr


@pytest.mark.parametrize(
    "more", [[], ["--bundle", "x", "--bundle", "x", "--bundle", "x"], ["--bundle", "x", "--plot", "p.png"]]
)
def test_too_few_or_too_many_bundles_are_wrong_usage(log: Path, tmp_path: Path, more: list[str]) -> None:
    result = CliRunner().invoke(app, ["replay", str(log), "-o", str(tmp_path / "out.mcap"), *more])
    assert result.exit_code == 2
    assert re.search("bundle", result.output)


def test_the_recording_itself_is_never_the_output(log: Path, bundle: Path) -> None:
    before = log.read_bytes()
    result = CliRunner().invoke(app, ["replay", str(log), "--bundle", str(bundle), "-o", str(log)])
    assert result.exit_code == 2 and log.read_bytes() == before


def test_the_topic_map_may_be_an_argument(log: Path, bundle: Path, tmp_path: Path) -> None:
    shutil.copyfile(log, tmp_path / "copy.mcap")
    topics = tmp_path / "map.yaml"
    topics.write_text(
        "cameras: {front: /front/image_raw}\nstate:\n  x: {topic: /joint_states, joint: y}\n"
        "  y: {topic: /joint_states, joint: x}\n  grip: {topic: /joint_states, joint: grip}\n"
        "instruction: /instruction\n"
    )
    plain, mapped = tmp_path / "plain.mcap", tmp_path / "mapped.mcap"
    replay(log, "--bundle", bundle, "-o", plain)
    replay(log, "--bundle", bundle, "-o", mapped, "--topics", topics)
    one, two = (messages(path)["/a/action_chunk"] for path in (plain, mapped))
    assert len(one) == len(two) == FRAMES and one[0][1].values != two[0][1].values  # x and y were exchanged
