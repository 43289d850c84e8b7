"""Every node as a process: what it says of arguments it cannot use, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make ros-build")
pytest.importorskip("edgevlm_msgs", reason="needs the built workspace: make ros-build")

import rclpy
from sensor_msgs.msg import Image
from support import tiny

from edgevlm_ros.processes import Processes, environment

HERE = Path(__file__).parent

NODES = ("policy_node", "command_gate", "vlm_node", "recorder")
READY_S, END_S = 20.0, 15.0


@dataclass
class Started:
    process: subprocess.Popen[str]
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text()

    def wait_for(self, *texts: str) -> None:
        end = time.monotonic() + READY_S
        while not any(text in self.text for text in texts):
            assert time.monotonic() < end, f"expected one of {texts} in:\n{self.text}"
            assert self.process.poll() is None, self.text
            time.sleep(0.02)

    def signal(self, *numbers: int, apart_s: float = 0.0) -> int:
        for number in numbers:
            if self.process.poll() is None:
                self.process.send_signal(number)
            time.sleep(apart_s)
        return self.process.wait(END_S)


class Start:
    def __init__(self, directory: Path, domain: int) -> None:
        self._directory, self._environment = directory, environment(domain)
        self._started: list[Started] = []

    def __call__(self, node: str, *arguments: str, words: Sequence[str] = (), **variables: str) -> Started:
        log = self._directory / f"{node}-{len(self._started)}.log"
        command = [sys.executable, "-m", f"edgevlm_ros.{node}", *words, "--ros-args", *arguments]
        with log.open("w") as stream:
            process = subprocess.Popen(
                command,
                env={**self._environment, **variables},
                stdout=stream,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=self._directory,
            )
        self._started.append(Started(process, log))
        return self._started[-1]

    def close(self) -> None:
        for started in self._started:
            if started.process.poll() is None:
                started.process.kill()
            started.process.wait(END_S)


@pytest.fixture
def start(tmp_path: Path, domain: int):  # type: ignore[no-untyped-def]
    start = Start(tmp_path, domain)
    yield start
    start.close()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.mono(tmp_path_factory.mktemp("bundles") / "mono")


def refused(started: Started) -> str:
    """The one line of a node that could not begin."""
    assert started.process.wait(READY_S) == 2, started.text
    assert "Traceback" not in started.text
    lines = [line for line in started.text.splitlines() if "[FATAL]" in line]
    assert len(lines) == 1, started.text
    return lines[0]


def test_a_missing_parameter_file_is_one_line_and_a_usage_error(start: Start) -> None:
    for started in [start(node, "--params-file", "/nowhere/limits.yaml") for node in NODES]:
        assert "/nowhere/limits.yaml: cannot be read" in refused(started)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("/**:\n  deadline_ms: 50.0\n", "outside of any ros__parameters", marks=pytest.mark.slow),
        pytest.param(
            "/**:\n  ros__parameters:\n    velocity: {{ velocity }}\n",
            "template that was not filled in",
            marks=pytest.mark.slow,
        ),
        ("/comand_gate:\n  ros__parameters:\n    deadline_ms: 50.0\n", "did you mean command_gate?"),
    ],
)
def test_a_file_that_is_none_is_one_line_and_a_usage_error(start: Start, tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "limits.yaml"
    file.write_text(text)
    line = refused(start("command_gate", "--params-file", str(file)))
    assert words in line
    assert str(file) in line


def test_arguments_that_rcl_refuses_are_one_line_and_a_usage_error(start: Start) -> None:
    assignment, option = start("recorder", "-p", "deadline_ms=3"), start("recorder", "--bogus")
    assert "deadline_ms=3" in refused(assignment)
    assert "--bogus" in refused(option)


def test_words_that_are_no_ros_arguments_are_reported(start: Start) -> None:
    started = start("command_gate", words=["-p", "deadline_ms:=50.0"])
    started.wait_for("change nothing: parameters and remaps come after --ros-args")
    assert started.signal(signal.SIGINT) == 0


def test_a_misspelt_parameter_is_refused_at_configure(start: Start) -> None:
    """Whatever it is of: also `autostrat`, with which configure would never come."""
    parameters = ("-p", "autostart:=true", "-p", "autostrat:=true", "-p", "deadlin_ms:=50.0")
    for started in [start(node, *parameters) for node in ("policy_node", "command_gate", "vlm_node")]:
        started.wait_for("configure refused")
        line = next(line for line in started.text.splitlines() if "configure refused" in line)
        assert "autostrat is declared by no node (did you mean autostart?)" in line
        assert "deadlin_ms is declared by no node (did you mean deadline_ms?)" in line
        assert started.signal(signal.SIGTERM) == 0


def test_a_misspelt_parameter_is_reported_without_configure(start: Start) -> None:
    started = start("policy_node", "-p", "autostrat:=true")
    started.wait_for("configure will be refused: parameters: autostrat")


def test_an_axis_that_the_contract_has_not_is_refused_at_configure(start: Start, bundle: Path) -> None:
    wrong = ("-p", "axes.dxx.velocity:=0.2", "-p", "axes.dx.positon:=[-0.1, 0.1]")
    started = start("command_gate", "-p", "autostart:=true", "-p", f"bundle:={bundle}", *wrong)
    started.wait_for("configure refused")
    assert "axes.dxx.velocity is declared by no node (the contract has the axes dx, dy; did you mean" in started.text
    assert "did you mean axes.dx.position?" in started.text


def test_the_recorder_refuses_a_misspelt_parameter_and_leaves_no_file(start: Start, tmp_path: Path) -> None:
    started = start("recorder", "-p", "topics_recrd:=[/a]", "-p", "topics_record:=[/a]")
    assert started.process.wait(READY_S) == 10
    assert "did you mean topics_record?" in started.text
    assert "Traceback" not in started.text
    assert not list(tmp_path.glob("*.mcap*"))


RUNNING = {
    "policy_node": "configure refused",  # again and again, every 50 ms
    "command_gate": "configure refused",
    "vlm_node": "configure refused",
    "recorder": "recording to",
}


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param((signal.SIGINT,), id="int", marks=pytest.mark.slow),
        pytest.param((signal.SIGTERM,), id="term"),
        pytest.param((signal.SIGINT, signal.SIGINT, signal.SIGTERM), id="thrice", marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_a_node_in_order(start: Start, node: str, numbers: tuple[int, ...]) -> None:
    own = ["-p", "topics_record:=[/a]"] if node == "recorder" else ["-p", "autostart:=true"]
    fast = [] if node == "recorder" else ["-p", "autostart_period_s:=0.05"]
    started = start(node, *own, *fast)
    started.wait_for(RUNNING[node])
    assert started.signal(*numbers) == 0, started.text
    assert "Traceback" not in started.text


@pytest.mark.parametrize("after_s", [0.1, *(pytest.param(s, marks=pytest.mark.slow) for s in (0.0, 0.2, 0.4, 0.8))])
def test_a_signal_while_a_node_starts_is_no_traceback_either(start: Start, bundle: Path, after_s: float) -> None:
    """From its first line on; Python itself takes some 50 ms before that."""
    started = start("policy_node", "-p", "autostart:=true", "-p", f"bundle:={bundle}")
    while not _catches(started.process.pid, signal.SIGTERM):
        time.sleep(0.002)
    time.sleep(after_s)
    assert started.signal(signal.SIGINT) == 0, started.text
    assert "Traceback" not in started.text


@pytest.mark.slow
def test_a_signal_during_activation_does_not_wait_for_it(start: Start, bundle: Path) -> None:
    started = start("policy_node", "-p", "autostart:=true", "-p", f"bundle:={bundle}", "-p", "check_s:=60.0")
    started.wait_for("configure: done")
    time.sleep(0.7)  # activation looks for cameras by now
    assert started.signal(signal.SIGINT) == 0, started.text
    assert "given up, the process is ending" in started.text


def test_a_signal_while_a_model_answers_cancels_the_answer(domain: int, tmp_path: Path) -> None:
    variables = {**environment(domain), "PYTHONPATH": f"{HERE.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    asked = {"autostart": True, "question": "for ever", "period_s": 0.05, "max_age_s": 60.0}
    with Processes(tmp_path, variables) as processes:
        process = processes.start("vlm", HERE / "colour_chat.py", parameters=asked)
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=domain)
        node = rclpy.create_node("camera", context=context)
        camera = node.create_publisher(Image, "image_raw", 5)
        try:
            end = time.monotonic() + READY_S
            while "activate: done" not in processes.log("vlm") or camera.get_subscription_count() == 0:
                assert time.monotonic() < end
                time.sleep(0.05)
            picture = Image(height=2, width=2, encoding="rgb8", step=6, data=bytes(12))
            picture.header.stamp = node.get_clock().now().to_msg()
            for _ in range(10):
                camera.publish(picture)
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            assert process.wait(3.0) == 0
        finally:
            node.destroy_node()
            rclpy.shutdown(context=context)
        assert "Traceback" not in processes.log("vlm")
        assert "still answers" not in processes.log("vlm")


def test_a_recording_is_complete_when_the_terminal_is_closed(start: Start, tmp_path: Path) -> None:
    started = start("recorder", "-p", "topics_record:=[/a]", "-p", "output:=run.mcap")
    started.wait_for("recording to")
    assert started.signal(signal.SIGHUP) == 0
    assert [path.name for path in tmp_path.glob("run.mcap*")] == ["run.mcap"]


@pytest.mark.parametrize("after_s", [0.05, 2.0])  # while it imports, and while it runs
def test_a_node_ends_with_the_process_that_started_it_where_that_is_asked_for(domain: int, after_s: float) -> None:
    code = (
        "import os, subprocess, sys, time; "
        "print(subprocess.Popen([sys.executable, '-m', 'edgevlm_ros.command_gate']).pid, flush=True); time.sleep(60)"
    )
    variables = {**environment(domain), "EDGEVLM_END_WITH_PARENT": "1"}
    parent = subprocess.Popen([sys.executable, "-c", code], env=variables, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    while not _catches(child, signal.SIGTERM):
        time.sleep(0.002)
    time.sleep(after_s)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + END_S
    while _alive(child):
        assert time.monotonic() < end
        time.sleep(0.05)


def _catches(pid: int, number: int) -> bool:
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
