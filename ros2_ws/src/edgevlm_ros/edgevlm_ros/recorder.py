"""recorder: what a robot saw, was told and did, in one MCAP that `edgevlm replay` and `edgevlm export --calib` take.

Messages are written as they came over the wire; their log time is their arrival in ROS time. Until the node ends
(SIGINT, SIGTERM) the recording lies at `<output>.part`, flushed every `flush_s`: after a crash that file is what there
is, and edgevlm reads it like any recording that was cut. With a bundle, the topic map is written beside it.
"""

from __future__ import annotations

if __name__ == "__main__":  # before anything that takes long to import
    from edgevlm_ros.shutdown import leave_at_once

    leave_at_once()

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

from edgevlm.bundle import read_manifest
from edgevlm.data.writer import LogWriter
from edgevlm.errors import ContractError, EdgevlmError, LogError, OutputError
from edgevlm.manifest.contract import Contract
from edgevlm.manifest.schema import PolicyManifest
from edgevlm.rosmsg.schemas import assemble
from edgevlm.rosmsg.topic_map import TopicMap, save_topics, topics_beside
from edgevlm_ros.lifecycle_node import Asked, run
from edgevlm_ros.parameters import Parameters
from edgevlm_ros.recorder_parameters import ITEMS
from edgevlm_ros.topics import live_topics, message_class

FOLLOWED = "policy_node/instruction"  # what the policy follows, also by service or action goal
PUBLISHED = ("action_chunk", "plan", "plan_path", "inference_stats", "gate_status", "command/*", FOLLOWED)
_DEPTH = 50  # messages that wait while a chunk of the file is compressed


class Recorder(Node):
    """See the module.

    Raises:
        EdgevlmError: a parameter, the bundle or the topic map is refused, or the recording cannot be written.
    """

    ending: Asked

    def __init__(self) -> None:
        super().__init__("recorder")
        settings = Parameters(self, ITEMS, frozen=lambda: self._started)
        settings.refuse_undeclared()
        self._started = False
        patterns = [topic for topic in settings["topics_record"] if topic]
        contract = _contract(settings["bundle"])
        if not patterns and contract is None:
            raise ContractError("nothing to record: expected `bundle` or `topics_record`, got neither; give one")
        self._map = live_topics(contract, settings["topics"]) if contract else None
        self._chosen: set[str] = set(self._map.cameras) if self._map and settings["topics"] else set()
        self._topic_patterns = patterns or list(PUBLISHED)
        self._with_inputs = not patterns
        self.path = _path(settings["output"])
        self.part = self.path.with_name(f"{self.path.name}.part")
        self._log = _open(self.path, self.part)
        self._recorded: dict[str, Subscription] = {}
        self._refused: set[str] = set()
        self._early: list[tuple[str, str, bytes]] = []  # came before the first /clock
        self.counts: Counter[str] = Counter()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(settings["discovery_s"], self._look, clock=steady)
        self.create_timer(settings["flush_s"], self._log.flush, clock=steady)
        self._started = True
        self._look()
        self._save_map()
        self.get_logger().info(f"recording to {self.part}")

    def close(self) -> None:
        """Complete the file and give it its name.

        Raises:
            OutputError: it cannot be written; what was flushed stays at `<output>.part`.
        """
        for topic, type_name, data in self._early:  # there never was a clock
            self._log.raw(topic, type_name, data, 0)
        self._save_map()
        self._log.close()
        summary = ", ".join(f"{topic} {count}" for topic, count in sorted(self.counts.items()))
        self.get_logger().info(f"recorded {self.path}: {summary or 'no message came'}")

    def _look(self) -> None:
        """Subscribe to what is wanted and live by now."""
        live = {topic: types for topic, types in self.get_topic_names_and_types() if types}
        inputs = self._inputs()
        for topic, types in sorted(live.items()):
            if topic in self._recorded or topic in self._refused:
                continue
            if topic in inputs or any(fnmatchcase(topic, pattern) for pattern in self._patterns()):
                self._subscribe(topic, types)

    def _inputs(self) -> set[str]:
        """The bundle's topics by their full names."""
        if not self._with_inputs or self._map is None:
            return set()
        self._choose_cameras()
        absolute = self._absolute()
        states = {source.topic for source in absolute.state.values()}
        return {*absolute.cameras.values(), *states, absolute.instruction}

    def _choose_cameras(self) -> None:
        """By convention a camera has two topics: the one that is published is taken, the compressed one first."""
        assert self._map is not None
        for name in [name for name in self._map.cameras if name not in self._chosen]:
            for topic in (f"{name}/image_raw/compressed", f"{name}/image_raw"):
                if self.count_publishers(self.resolve_topic_name(topic)):
                    self._chosen.add(name)
                    self._map = self._map.model_copy(update={"cameras": {**self._map.cameras, name: topic}})
                    self._save_map()
                    break

    def _subscribe(self, topic: str, types: Sequence[str]) -> None:
        infos = self.get_publishers_info_by_topic(topic)
        if not infos:
            return  # only subscribers so far
        if len(types) > 1:
            self._refuse(topic, f"it has the types {', '.join(types)}")
            return
        try:
            kind = message_class(types[0])
            installed_definition(types[0])
        except EdgevlmError as error:
            self._refuse(topic, str(error))
            return
        profiles = [info.qos_profile for info in infos]
        reliable = all(profile.reliability == ReliabilityPolicy.RELIABLE for profile in profiles)
        latched = all(profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for profile in profiles)
        qos = QoSProfile(
            depth=_DEPTH,
            history=HistoryPolicy.KEEP_LAST,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        take = self._taker(topic, types[0])
        self._recorded[topic] = self.create_subscription(kind, topic, take, qos, raw=True)
        self.get_logger().info(f"recording {topic} ({types[0]})")

    def _taker(self, topic: str, type_name: str) -> Callable[[bytes], None]:
        def take(data: bytes) -> None:
            self.counts[topic] += 1
            now_ns = int(self.get_clock().now().nanoseconds)
            if now_ns == 0:  # a simulated clock that nobody has set yet
                self._early.append((topic, type_name, data))
                return
            for early in self._early:
                self._log.raw(*early, now_ns)
            self._early.clear()
            self._log.raw(topic, type_name, data, now_ns)

        return take

    def _refuse(self, topic: str, why: str) -> None:
        self._refused.add(topic)
        self.get_logger().error(f"{topic} is not recorded: {why}")

    def _patterns(self) -> list[str]:
        """What is wanted by full names; a name without * is remapped like any other."""
        space = self.get_namespace().rstrip("/")
        return [
            self.resolve_topic_name(topic) if "*" not in topic else topic if topic[0] == "/" else f"{space}/{topic}"
            for topic in self._topic_patterns
        ]

    def _absolute(self) -> TopicMap:
        """The topic map with full names."""
        assert self._map is not None
        resolve = self.resolve_topic_name
        state = {
            name: source.model_copy(update={"topic": resolve(source.topic)}) for name, source in self._map.state.items()
        }
        cameras = {name: resolve(topic) for name, topic in self._map.cameras.items()}
        return TopicMap(cameras=cameras, state=state, instruction=resolve(self._map.instruction))

    def _save_map(self) -> None:
        """The topic map of the recording as it is; what the policy followed tells more than what it was told."""
        if self._map is None:
            return
        absolute = self._absolute()
        followed = self.resolve_topic_name(FOLLOWED)
        if self.counts[followed]:
            absolute = absolute.model_copy(update={"instruction": followed})
        save_topics(absolute, topics_beside(self.path))


def installed_definition(type_name: str) -> str:
    """The schema text of a type from the .msg files of the installed packages.

    Raises:
        LogError: it, or a type it uses, is not installed as a .msg file.
    """
    return assemble(type_name, _installed_body)


def _installed_body(type_name: str) -> str:
    package, _, name = type_name.partition("/msg/")
    shares = [Path(sys.prefix) / "share" / package]  # ROS from pip, which the search path need not name
    with suppress(PackageNotFoundError, ValueError):
        shares.insert(0, Path(get_package_share_directory(package)))
    for share in shares:
        file = share / "msg" / f"{name}.msg"
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise LogError(
        f"message type {type_name}: expected {name}.msg in one of {[str(share / 'msg') for share in shares]}, "
        "found none; install the package that defines it, and source its workspace"
    )


def _contract(bundle: str) -> Contract | None:
    return read_manifest(bundle).manifest.require(PolicyManifest).contract if bundle else None


def _path(output: str) -> Path:
    """Where the recording will lie.

    Raises:
        OutputError: something lies there already; a recording is never overwritten.
    """
    name = output or f"recording-{datetime.now(timezone.utc).astimezone():%Y%m%d-%H%M%S}.mcap"
    path = Path(name).expanduser().absolute()
    if path.suffix != ".mcap":
        path = path.with_name(f"{path.name}.mcap")
    for taken in (path, path.with_name(f"{path.name}.part")):
        if taken.exists():
            raise OutputError(
                f"{taken}: expected a free name, there is a recording; move it or choose another `output`"
            )
    return path


def _open(path: Path, part: Path) -> LogWriter:
    log = LogWriter(path, part=part, definitions=installed_definition)
    log.flush()  # refuses now what it would refuse later
    return log


def main() -> None:
    """Record until SIGINT or SIGTERM; exits with the error's code if it cannot begin or go on."""
    run(Recorder)


if __name__ == "__main__":
    main()
