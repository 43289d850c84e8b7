"""A 30 Hz camera of 640x480 bgr8 frames against the real nodes for a minute, in real time.

    PYTHONPATH=tests python benchmarks/ros_latency.py --bundle DIR [--seconds 60] [--json F]

Camera, state, policy_node, command_gate and an observer are processes of their own. Printed with their limits: latency
(stamp of an observation to the first command computed from it), commands that came later than they were valid, the
error of the command period, what the nodes add to the model's own step (from the stamp, which a frame gets as it is
handed to DDS, to its chunk on the wire), frames that arrived, and CPU without input. The bare step of the same bundle
runs in this process during the same minute, in short blocks at the camera's pace.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.serialization import serialize_message
from ros.chaos.rig import GATE, TOPICS, read_record
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from edgevlm.bundle import open_bundle, write_manifest
from edgevlm.load import load_policy
from edgevlm.manifest.schema import Manifest, PolicyManifest
from edgevlm.options import RuntimeOptions
from edgevlm.profiler import machine, summarize, synthetic_observations
from edgevlm_ros.processes import Processes, environment, free_domain
from edgevlm_ros.qos import LATCHED, SENSOR
from edgevlm_ros.stamps import to_time

WIDTH, HEIGHT, RATE_HZ, STATE_HZ = 640, 480, 30.0, 60.0
PERIOD_MS = 1000 / RATE_HZ
COMMAND_PERIOD_MS = 25.0
WARM_UP_S = 3.0
IDLE_S = 20.0
BARE_EVERY_S, BARE_STEPS = 5.0, 10
TABLE = ("latency_ms", "command_age_ms", "overhead_ms", "before_step_ms", "after_step_ms", "step_ms", "bare_step_ms")
INSTRUCTION = "lift the blue puck"
S = 1_000_000_000


def with_camera(root: Path, destination: Path) -> Path:
    """A copy of a bundle whose contract asks for 640x480 bgr8 frames."""
    bundle = open_bundle(root)
    shutil.copytree(root, destination)
    contract = bundle.manifest.require(PolicyManifest).contract
    camera_format = {"width": WIDTH, "height": HEIGHT, "encoding": "bgr8"}
    changed = contract.model_copy(
        update={"cameras": tuple(camera.model_copy(update=camera_format) for camera in contract.cameras)}
    )

    def build_manifest(files: Mapping[str, Any]) -> Manifest:
        return bundle.manifest.model_copy(update={"contract": changed, "files": files})

    write_manifest(destination, build_manifest)
    return destination


def camera(path: Path) -> None:
    """The camera's process: frames serialized beforehand, stamped as they are handed over. Ends with its parent."""
    rclpy.init()
    images = rclpy.create_node("camera").create_publisher(Image, "front/image_raw", SENSOR)
    bodies = [_serialized(seed) for seed in range(8)]
    publish_ns: list[int] = []

    def send() -> None:
        first, rest = bodies[len(publish_ns) % len(bodies)]
        stamp = to_time(time.time_ns())
        begun_ns = time.perf_counter_ns()
        images.publish(
            first + np.array([stamp.sec], "<i4").tobytes() + np.array([stamp.nanosec], "<u4").tobytes() + rest
        )
        publish_ns.append(time.perf_counter_ns() - begun_ns)

    late_ns = _at_rate(RATE_HZ, send, path.with_suffix(".stop"))
    report = {"frames": len(publish_ns), "publish_ms": summarize(publish_ns), "late_ms": summarize(late_ns)}
    path.write_text(json.dumps(report))


def state(path: Path) -> None:
    """The process of the state, at its own rate. Ends as the camera does."""
    rclpy.init()
    node = rclpy.create_node("state")
    poses = node.create_publisher(PoseStamped, "hand_pose", SENSOR)
    joints = node.create_publisher(JointState, "joint_states", SENSOR)
    pose, joint = PoseStamped(), JointState(name=["gripper"], position=[0.07])
    pose.header.frame_id = "base"
    pose.pose.position.y, pose.pose.position.z = 0.62, 0.16

    def send() -> None:
        pose.header.stamp = joint.header.stamp = to_time(time.time_ns())
        poses.publish(pose)
        joints.publish(joint)

    _at_rate(STATE_HZ, send, path.with_suffix(".stop"))


def _at_rate(rate_hz: float, send: Callable[[], None], end: Path) -> list[int]:
    """Send until the file `end` is there; how late each sending began."""
    period_ns, due_ns, parent = round(S / rate_hz), time.monotonic_ns(), os.getppid()
    late_ns = []
    while os.getppid() == parent and not end.exists():
        due_ns += period_ns
        time.sleep(max(0, due_ns - time.monotonic_ns()) / S)
        late_ns.append(time.monotonic_ns() - due_ns)
        send()
    return late_ns


def _serialized(seed: int) -> tuple[bytes, bytes]:
    """What comes before and after the stamp of a frame on the wire."""
    pixels = np.random.default_rng(seed).integers(0, 256, HEIGHT * WIDTH * 3, np.uint8)
    image = Image(height=HEIGHT, width=WIDTH, encoding="bgr8", step=WIDTH * 3, data=array("B", pixels.tobytes()))
    image.header.frame_id = "front"
    data = serialize_message(image)
    return data[:4], data[12:]


class Graph:
    """Camera, policy, gate and observer. A context manager."""

    def __init__(self, bundle: Path, work: Path, domain: int, realtime_priority: int = 10) -> None:
        self.bundle, self._priority = bundle, realtime_priority
        self.record, self._sent = work / "record.jsonl", work / "camera.json"
        paths = os.pathsep.join([str(Path(__file__).parents[1] / "tests"), os.environ.get("PYTHONPATH", "")])
        self.processes = Processes(work / "logs", {**environment(domain), "PYTHONPATH": paths})
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self._node = rclpy.create_node("driver", context=self._context)
        self._instruction = self._node.create_publisher(String, "instruction", LATCHED)

    def start(self) -> None:
        """Start all, and wait until the gate follows."""
        self._instruction.publish(String(data=INSTRUCTION))
        common = {"bundle": str(self.bundle), "topics": str(TOPICS), "autostart": True, "autostart_period_s": 0.1}
        first = {"realtime_priority": self._priority}
        self.processes.start(
            "observer", "ros.chaos.observer", arguments=[str(self.record)], parameters={"camera": "not/watched"}
        )
        for name in ("camera", "state"):
            self.processes.start(name, Path(__file__), arguments=[f"--{name}", str(self._sent)])
        self.processes.start(
            "gate", "edgevlm_ros.command_gate", parameters={**GATE, "estop_topics": [], **common, **first}
        )
        self.processes.start("policy", "edgevlm_ros.policy_node", parameters={**common, "check_s": 1.0})
        end = time.monotonic() + 60
        while not (self.record.exists() and '"mode": "follow"' in self.record.read_text()):
            self.processes.check()
            if time.monotonic() > end:
                raise SystemExit(f"the gate does not follow:\n{self.processes.log('policy')[-2000:]}")
            time.sleep(0.2)

    def pid(self, name: str) -> int:
        """The process's number."""
        return self.processes[name].pid

    def end_camera(self) -> dict[str, Any]:
        """Stop camera and state; what they say of themselves."""
        self._sent.with_suffix(".stop").touch()
        for name in ("camera", "state"):
            self.processes[name].wait(10)
        report: dict[str, Any] = json.loads(self._sent.read_text())
        return report

    def __enter__(self) -> Graph:
        return self

    def __exit__(self, *_: object) -> None:
        self.processes.close()
        rclpy.shutdown(context=self._context)


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bare_steps(bundle: Path, seconds: float) -> list[int]:
    """Durations of the model's step without any node, in short blocks over that time."""
    durations: list[int] = []
    with load_policy(bundle, RuntimeOptions(intra_threads=1)) as policy:
        policy.warm_up()
        session = policy.session()
        source = synthetic_observations(policy.contract, (INSTRUCTION,), seed=3)
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            for _ in range(BARE_STEPS):
                observation = next(source)
                time.sleep(PERIOD_MS / 1000)
                session.act(observation)
                durations.append(session.last_times_ns["step"])
            time.sleep(max(0.0, min(BARE_EVERY_S, begin + seconds - time.monotonic())))
    return durations


def figures(lines: Sequence[Mapping[str, Any]], begin_ns: int, end_ns: int) -> dict[str, Any]:
    """What the observer saw between two system times."""
    mine = [line for line in lines if begin_ns <= line["r"] <= end_ns]
    commands = [line for line in mine if line["k"] == "command" and line["topic"] == "command/twist"]
    statuses = [line for line in mine if line["k"] == "status"]
    sent_ns = {line["stamp"]: line["s"] for line in commands}
    first: dict[int, int] = {}
    ages = []
    for status in statuses:
        if status["mode"] == "follow" and status["stamp"] in sent_ns:
            age_ns = sent_ns[status["stamp"]] - status["observed"]
            first.setdefault(status["observed"], age_ns)
            ages.append(age_ns)
    until = {status["stamp"]: status["valid_until"] for status in statuses}
    steps = {line["stamp"]: line["step_ms"] for line in mine if line["k"] == "stats" and not line["error"]}
    chunks = [line for line in mine if line["k"] == "chunk" and line["stamp"] in steps]
    overhead = [(chunk["s"] - chunk["stamp"]) - round(steps[chunk["stamp"]] * 1e6) for chunk in chunks]
    return {
        "latency_ms": summarize(list(first.values())[1:]),  # the first one began before this span
        "command_age_ms": summarize(ages),
        "period_error_ms": {of: summarize(_errors(commands, of)) for of in ("stamp", "s")},
        "overhead_ms": summarize(overhead),
        "before_step_ms": summarize([chunk["started"] - chunk["stamp"] for chunk in chunks]),
        "after_step_ms": summarize([chunk["s"] - chunk["ended"] for chunk in chunks]),
        "step_ms": summarize([round(ms * 1e6) for ms in steps.values()]),
        "commands": len(commands),
        "late_commands": sum(line["s"] > until.get(line["stamp"], line["s"]) for line in commands),
        "arrived_late": sum(line["r"] > until.get(line["stamp"], line["r"]) for line in commands),
        "modes": {mode: sum(s["mode"] == mode for s in statuses) for mode in {s["mode"] for s in statuses}},
    }


def _errors(commands: Sequence[Mapping[str, Any]], of: str) -> list[int]:
    times = np.array([line[of] for line in commands], np.int64)
    return [int(error) for error in np.abs(np.diff(times) - round(COMMAND_PERIOD_MS * 1e6))]


def measure(bundle: Path, work: Path, domain: int, seconds: float, realtime_priority: int) -> dict[str, Any]:
    """The whole run."""
    with Graph(with_camera(bundle, work / "vga"), work, domain, realtime_priority) as graph:
        graph.start()
        time.sleep(WARM_UP_S)
        begin_ns = time.time_ns()
        busy = {name: cpu_s(graph.pid(name)) for name in ("policy", "gate")}
        bare = bare_steps(graph.bundle, seconds)
        end_ns = time.time_ns()
        busy = {name: (cpu_s(graph.pid(name)) - before) / seconds for name, before in busy.items()}
        sent = graph.end_camera()
        time.sleep(2.0)
        idle = {name: cpu_s(graph.pid(name)) for name in busy}
        time.sleep(IDLE_S)
        idle = {name: (cpu_s(graph.pid(name)) - before) / IDLE_S for name, before in idle.items()}
    lines = read_record(graph.record)
    run = figures(lines, begin_ns, end_ns)
    received = max(int(line["frames_received"]) for line in lines if line["k"] == "stats")
    run |= {"camera": sent, "bare_step_ms": summarize(bare), "cpu_busy": busy, "cpu_idle": idle}
    run |= _frames(lines, received, sent["frames"])
    return run


def _frames(lines: Sequence[Mapping[str, Any]], received: int, sent: int) -> dict[str, Any]:
    """Of the frames from the first one that the policy got on; those before it was there are not its loss."""
    stats = [line for line in lines if line["k"] == "stats"]
    first, last = stats[0], stats[-1]
    expected = round((last["stamp"] - first["stamp"]) / S * RATE_HZ)
    got = last["frames_received"] - first["frames_received"]
    return {"frames_sent": expected, "frames_received": got, "frames_sent_in_all": sent, "frames_in_all": received}


def limits(run: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Each requirement: measured, limit, whether it is met."""
    latency = run["latency_ms"]
    rows: dict[str, tuple[float, float, bool]] = {}

    def at_most(name: str, value: float, limit: float) -> None:
        rows[name] = (value, limit, value <= limit)

    at_most("latency p99 - p50, ms", latency["p99"] - latency["p50"], round(PERIOD_MS, 1) + 0.1)
    at_most("commands later than their validity", run["late_commands"], 0)
    at_most("command period error p99, ms (stamps)", run["period_error_ms"]["stamp"]["p99"], 5.0)
    at_most("command period error p99, ms (sending)", run["period_error_ms"]["s"]["p99"], 5.0)
    at_most("overhead over the model's step p50, ms", run["overhead_ms"]["p50"], 4.0)
    share = run["frames_received"] / max(1, run["frames_sent"])
    rows["share of frames that arrive"] = (share, 0.99, share >= 0.99)
    for name, used in run["cpu_idle"].items():
        at_most(f"CPU of {name} without input, share of a core", used, 0.05)
    return {name: {"measured": m, "limit": limit, "met": met} for name, (m, limit, met) in rows.items()}


ROLES = {"camera": camera, "state": state}


def main() -> None:
    """Measure, print, write; exit 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--domain", type=int)
    parser.add_argument("--realtime-priority", type=int, default=10, help="the gate's parameter of that name")
    parser.add_argument("--json", type=Path)
    for role in ROLES:  # how this file starts its camera and its state
        parser.add_argument(f"--{role}", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    for role, play in ROLES.items():
        if path := getattr(args, role):
            play(path)
            return
    domain = free_domain() if args.domain is None else args.domain
    with tempfile.TemporaryDirectory() as work:
        run = measure(args.bundle.resolve(), Path(work), domain, args.seconds, args.realtime_priority)
    judged = limits(run)
    for name in TABLE:
        row = run[name]
        parts = "  ".join(f"{key} {row[key]:7.2f}" for key in ("p50", "p95", "p99", "max"))
        print(f"{name:16s} {parts}  n {row['n']}")
    sent = run["camera"]
    print(f"camera           publishing p50 {sent['publish_ms']['p50']:.2f} ms, {sent['frames']} frames")
    print("CPU while busy   " + ", ".join(f"{name} {used:.2f}" for name, used in run["cpu_busy"].items()))
    for name, row in judged.items():
        print(f"  {'met   ' if row['met'] else 'MISSED'} {name}: {row['measured']:.3f}, limit {row['limit']}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        report = {
            "seconds": args.seconds,
            "realtime_priority": args.realtime_priority,
            **run,
            "limits": judged,
            "machine": machine(),
        }
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    sys.exit(0 if all(row["met"] for row in judged.values()) else 1)


if __name__ == "__main__":
    main()
