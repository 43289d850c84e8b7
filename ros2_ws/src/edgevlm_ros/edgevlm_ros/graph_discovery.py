"""What is live: types and publishers from the graph, the rest from messages, seen by a node that lives for a moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import copy
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible

from edgevlm.errors import EdgevlmError, LogError
from edgevlm.manifest.contract import CameraSpec, Contract
from edgevlm.rosmsg.camera import read_message
from edgevlm.rosmsg.topic_facts import Facts, TopicFacts, uneven
from edgevlm.rosmsg.topic_map import TopicMap
from edgevlm.rosmsg.type_names import CAMERA_TYPES
from edgevlm_ros.lifecycle_node import ShellNode
from edgevlm_ros.qos import SENSOR
from edgevlm_ros.stamps import to_ns
from edgevlm_ros.topics import JOINT_STATE, StateAssembler, message_class, message_stamp_ns, state_types

_FRAMES = 6  # of each camera: enough for a rate
_STATES = 2
_TURN_S = 0.05


class Probe:
    """Looks at the topics of a contract for up to some seconds. Its own executor runs it, inside any callback."""

    def __init__(self, node: ShellNode, contract: Contract, topics: TopicMap) -> None:
        self._node, self._contract, self._topics = node, contract, topics
        names = [*topics.cameras.values(), *state_types(topics)]
        self._facts = {topic: TopicFacts(node.resolve_topic_name(topic)) for topic in dict.fromkeys(names)}
        self._cameras = {topics.cameras[camera.name]: camera for camera in contract.cameras}
        self._assembler = StateAssembler(contract.state, topics) if contract.state else None
        self._state: Any = None
        self._subscribed: set[str] = set()

    def look(self, for_s: float) -> Facts:
        """What there is; returns as soon as enough was seen."""
        helper = rclpy.create_node(
            f"{self._node.get_name()}_probe",
            namespace=self._node.get_namespace(),
            context=self._node.context,
            use_global_arguments=False,  # names are resolved already
            enable_rosout=False,
            start_parameter_services=False,
            parameter_overrides=[Parameter("use_sim_time", value=self._node.get_parameter("use_sim_time").value)],
        )
        executor = SingleThreadedExecutor(context=self._node.context)
        executor.add_node(helper)
        until_s = time.monotonic() + for_s
        try:
            while time.monotonic() < until_s and not self._enough() and not self._node.ending.asked:
                self._subscribe(helper)
                executor.spin_once(_TURN_S)
        except ExternalShutdownException:
            pass  # the process is about to end
        finally:
            executor.shutdown()
            helper.destroy_node()
        fields = self._contract.state.names if self._contract.state else ()
        reasons = self._assembler.reasons if self._assembler else {}
        missing = {name: reasons.get(name, "") for name in (self._assembler.missing if self._assembler else ())}
        numbers = {} if self._state is None else dict(zip(fields, self._state.reshape(-1, 1), strict=True))
        names = {
            name: tuple(types)
            for name, types in self._node.get_topic_names_and_types()
            if self._node.count_publishers(name)  # some names have only subscribers
        }
        return Facts(self._facts, names, numbers, missing, period=f"within {for_s:g} s")

    def _enough(self) -> bool:
        frames = all(len(set(self._facts[topic].stamps_ns)) >= _FRAMES for topic in self._cameras)
        states = all(facts.messages >= _STATES for topic, facts in self._facts.items() if topic not in self._cameras)
        return frames and states and not (self._assembler and self._assembler.missing)

    def _subscribe(self, helper: Node) -> None:
        expected = state_types(self._topics)
        for topic, facts in self._facts.items():
            infos = self._node.get_publishers_info_by_topic(facts.name)
            facts.publishers = tuple(
                (f"{info.node_namespace.rstrip('/')}/{info.node_name}", info.topic_type) for info in infos
            )
            if topic in self._subscribed or len(facts.types) != 1:
                continue
            (type_name,) = facts.types
            if topic in self._cameras:
                if type_name in CAMERA_TYPES:
                    self._listen(helper, topic, type_name, self._take_frame(facts, type_name, self._cameras[topic]))
            elif expected[topic] in ("", type_name):
                self._listen(helper, topic, type_name, self._take_state(helper, facts, topic))

    def _listen(self, helper: Node, topic: str, type_name: str, callback: Callable[[Any], None]) -> None:
        self._subscribed.add(topic)
        facts = self._facts[topic]
        try:
            kind = message_class(type_name)
        except EdgevlmError as error:
            facts.problem = str(error)
            return
        raw = topic in self._cameras

        def take(message: Any) -> None:
            facts.messages += 1
            try:
                callback(message)
            except EdgevlmError as error:
                facts.problem = str(error)

        self._helper_clock = helper.get_clock()
        helper.create_subscription(kind, facts.name, take, copy(SENSOR), raw=raw)

    def _stamp(self, facts: TopicFacts, stamp_ns: int) -> None:
        now_ns = int(self._helper_clock.now().nanoseconds)
        facts.stamps_ns = [*facts.stamps_ns, stamp_ns]
        if now_ns:  # a simulated clock that has not come yet tells nothing
            facts.ages_ns = [*facts.ages_ns, now_ns - stamp_ns]

    def _take_frame(self, facts: TopicFacts, type_name: str, camera: CameraSpec) -> Callable[[bytes], None]:
        def take(data: bytes) -> None:
            message = read_message(type_name, data)
            self._stamp(facts, message.stamp_ns)
            facts.frame_ids.add(message.frame_id)
            if message.compressed:
                header = message.header()
                facts.sizes.add((header.width, header.height))
            else:
                facts.encodings.add(message.encoding)
                facts.sizes.add((message.width, message.height))

        return take

    def _take_state(self, helper: Node, facts: TopicFacts, topic: str) -> Callable[[Any], None]:
        def take(message: Any) -> None:
            assert self._assembler is not None
            now_ns = int(helper.get_clock().now().nanoseconds)
            header = getattr(message, "header", None)
            if header is not None:
                facts.frame_ids.add(header.frame_id)
                if stamp_ns := to_ns(header.stamp):
                    self._stamp(facts, stamp_ns)
            if facts.types == (JOINT_STATE,):
                facts.joints.update(message.name)
                facts.uneven = uneven(message) or facts.uneven
            try:
                state = self._assembler.feed(topic, message, message_stamp_ns(message, now_ns))
            except LogError as error:
                facts.problem = str(error)
                return
            self._state = state.value if state is not None else self._state

        return take


def mismatch(node: Node, name: str, ours: QoSProfile) -> str:
    """Why a subscription with `ours` gets nothing from a publisher of this topic; empty when it gets all."""
    for info in node.get_publishers_info_by_topic(name):
        compatible, reason = qos_check_compatible(info.qos_profile, ours)
        if compatible == QoSCompatibility.ERROR:
            return f"the QoS of {info.node_name} and ours cannot match ({reason.strip()})"
    return ""
