"""What every node here shares: a lifecycle that can start by itself, diagnostics, one way to run and to end."""

from __future__ import annotations

import ctypes
import gc
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidNamespaceException, InvalidNodeNameException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.timer import Timer

from edgevlm.errors import EdgevlmError
from edgevlm_ros.arguments import (
    ArgumentsError,
    applies,
    parameter_files,
    rcl_message,
    section_faults,
    sections,
    stray,
)
from edgevlm_ros.declared import NODES
from edgevlm_ros.parameters import Parameters
from edgevlm_ros.shutdown import Ending, end_with_parent

_LEVELS = {"ok": DiagnosticStatus.OK, "warn": DiagnosticStatus.WARN, "error": DiagnosticStatus.ERROR}

STEP_END_S = 4.0  # a model's step that takes longer is left behind: ros2 launch sends harder signals after 5 s

_POOLED_BYTES = 32 << 20
_SWITCH_S = 0.0005  # a thread that has work waits this long for another that computes, instead of 5 ms


class Asked(Protocol):
    """Whether the process was asked to end."""

    asked: bool


class _Never:
    asked = False


class Runnable(Protocol):
    """A node that `run` can run: rclpy's, with a `close` that takes everything down.

    Attributes:
        ending: is set by `run`; a long callback looks at it.
    """

    ending: Asked

    def close(self) -> None:
        """Take everything down; called once, while ROS is still there."""


Report = tuple[str, str, str, Mapping[str, object]]  # section, level of _LEVELS, message, figures


class ShellNode(LifecycleNode):
    """A lifecycle node whose subclass gives `configure`, `activate`, `deactivate`, `cleanup` and `report`.

    `configure` and `activate` refuse by raising an EdgevlmError, which is logged and stands in the diagnostics; what a
    refused step had made is taken down again by `deactivate` and `cleanup`, which must not mind a half-built state.
    One thread runs all callbacks.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.active = False
        self.refusal = ""
        self.ending: Asked = _Never()
        self._declared: Parameters | None = None
        self._starter: Timer | None = None
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # What `get_clock().now()` reads, without all that it makes around it.
        self._ros_clock = self.get_clock().handle
        self.steady = Clock(clock_type=ClockType.STEADY_TIME)

    def begin(self, settings: Parameters) -> None:
        """Call at the end of the constructor, with parameters that have those of AUTOSTART among them."""
        self._declared = settings
        self.create_timer(settings["diagnostics_period_s"], self._publish_diagnostics, clock=self.steady)
        if settings["autostart"]:
            self._starter = self.create_timer(settings["autostart_period_s"], self._autostart, clock=self.steady)
        try:
            settings.refuse_undeclared()
        except EdgevlmError as error:  # `autostrat: true` would wait for ever, and say nothing
            self.refusal = f"configure will be refused: {error}"
            self.get_logger().error(self.refusal)

    def configure(self) -> None:
        """Load, warm up, make endpoints. Raises EdgevlmError to refuse."""

    def activate(self) -> None:
        """Check what is live and start. Raises EdgevlmError to refuse."""

    def deactivate(self) -> None:
        """Stop; nothing is published afterwards."""

    def cleanup(self) -> None:
        """Free what `configure` made."""

    def report(self) -> list[Report]:
        """Rows of diagnostics."""
        return []

    def now_ns(self) -> int:
        """ROS time."""
        return int(self._ros_clock.get_now().nanoseconds)

    def steady_ns(self) -> int:
        """Steady time."""
        return time.monotonic_ns()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._try("configure", self._configure, self.cleanup)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        tried = self._try("activate", self.activate, self.deactivate)
        if tried == TransitionCallbackReturn.SUCCESS:
            self.active = True
            self._started()
            return super().on_activate(state)
        return tried

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.active = False
        self._started()
        self.deactivate()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.cleanup()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Take everything down, whatever state it is in."""
        try:
            if self.active:
                self.active = False
                self.deactivate()
        finally:
            self.cleanup()

    def refuse_undeclared(self) -> None:
        """Before `configure`; a node whose contract decides names does it there."""
        if self._declared is not None:
            self._declared.refuse_undeclared()

    def _configure(self) -> None:
        self.refuse_undeclared()
        self.configure()

    def _try(self, what: str, step: Callable[[], None], undo: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            step()
        except Exception as error:  # noqa: BLE001 - rclpy swallows what escapes from here, and tells nobody
            undo()
            if self.ending.asked:
                self.get_logger().info(f"{what}: given up, the process is ending")
                return TransitionCallbackReturn.FAILURE
            known = isinstance(error, EdgevlmError)
            refusal = f"{what} refused: {error}" if known else f"{what} failed: {type(error).__name__}: {error}"
            if refusal != self.refusal:
                self.get_logger().error(refusal if known else f"{refusal}\n{traceback.format_exc()}")
            self.refusal = refusal
            return TransitionCallbackReturn.FAILURE
        self.refusal = ""
        self.get_logger().info(f"{what}: done")
        return TransitionCallbackReturn.SUCCESS

    def _started(self) -> None:
        """Leave the lifecycle to people: who deactivates a node does not want it to start again."""
        if self._starter is not None:
            self._starter.cancel()

    def _autostart(self) -> None:
        label = self._state_machine.current_state[1]
        if label == "unconfigured":
            self.trigger_configure()
        elif label == "inactive":
            self.trigger_activate()

    def _publish_diagnostics(self) -> None:
        own = ("error" if self.refusal else "ok", self.refusal or ("active" if self.active else "not active"))
        rows: list[Report] = [("state", *own, {**_vitals()}), *self.report()]
        name = self.get_fully_qualified_name()
        statuses = [
            DiagnosticStatus(
                level=_LEVELS[level],
                name=f"{name}: {section}",
                message=message,
                hardware_id=name,
                values=[KeyValue(key=key, value=_text(value)) for key, value in figures.items()],
            )
            for section, level, message, figures in rows
        ]
        array = DiagnosticArray(status=statuses)
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)
        notify("WATCHDOG=1")  # from the executor: one that hangs is silent


def _text(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _vitals() -> dict[str, object]:
    """Memory of this process, and the hottest sensor where the machine tells."""
    vitals: dict[str, object] = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            vitals["memory_mb"] = int(line.split()[1]) / 1024
    temperatures = []
    for path in Path("/sys/class/thermal").glob("thermal_zone*/temp"):
        try:
            temperatures.append(int(path.read_text()) / 1000)
        except (OSError, ValueError):
            continue  # a sensor that is off
    if temperatures:
        vitals["temperature_c"] = max(temperatures)
    return vitals


def _keep_memory() -> None:
    """Let the allocator keep blocks as large as an image instead of giving each back to the system.

    Otherwise every frame is copied into memory that the kernel has to map and clear first, which takes longer than the
    copy. glibc only (mallopt(3): M_TRIM_THRESHOLD, M_MMAP_THRESHOLD).
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option in (-1, -3):
            mallopt(option, _POOLED_BYTES)


def run(make: Callable[[], Runnable]) -> None:
    """Run a node until SIGINT or SIGTERM and take it down in order: exit code 0, or the error's.

    A callback under way is finished first; then the node is closed while ROS is still there, so that its last message
    goes out; further signals change nothing.
    """
    ending = Ending()
    end_with_parent()
    _keep_memory()
    sys.setswitchinterval(_SWITCH_S)
    try:
        files = {str(path): tuple(sections(path)) for path in parameter_files(sys.argv)}
        _init()
        try:
            _spin(_create(make, files), ending)
        finally:
            _free()
            rclpy.try_shutdown()
    except EdgevlmError as error:
        rclpy.logging.get_logger("edgevlm").fatal(str(error))
        traceback.clear_frames(error.__traceback__)  # a node that was refused while it was made
        _free()
        raise SystemExit(error.exit_code) from error
    finally:
        ending.over()


def _free() -> None:
    """Free what the node leaves in reference cycles, such as its state machine, also what was frozen.

    Any of it keeps the DDS participant and its threads, which then crash while the process takes its libraries down.
    """
    gc.unfreeze()
    gc.collect()


def _init() -> None:
    try:
        rclpy.init(args=sys.argv, signal_handler_options=rclpy.SignalHandlerOptions.NO)
    except RuntimeError as error:  # what rclpy raises of the layers below is one
        raise ArgumentsError(f"ROS arguments: {rcl_message(error)}; see docs.ros.org, 'ROS 2 arguments'") from error


def _create(make: Callable[[], Runnable], files: Mapping[str, tuple[str, ...]]) -> Any:
    try:
        node: Any = make()
    except (InvalidNodeNameException, InvalidNamespaceException) as error:
        raise ArgumentsError(f"ROS arguments: {rcl_message(error)}; correct __node or __ns") from error
    name = node.get_fully_qualified_name()
    faults = [f"{path}: {fault}" for path, named in files.items() for fault in section_faults(named, name, NODES)]
    if faults:
        node.destroy_node()
        raise ArgumentsError("; ".join(faults))
    if words := stray(sys.argv):
        node.get_logger().warning(f"{words} change nothing: parameters and remaps come after --ros-args")
    for path, named in files.items():
        if not any(applies(section, name) for section in named):
            node.get_logger().warning(f"{path}: none of its sections ({', '.join(named)}) is for {name}")
    return node


def _spin(node: Any, ending: Ending) -> None:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    node.ending = ending
    ending.wake = lambda: executor.create_task(lambda: None)  # a wait only ends when there is something to do
    notify("READY=1")
    try:
        while not ending.asked:
            executor.spin_once()
    except ExternalShutdownException:
        pass
    finally:
        notify("STOPPING=1")
        node.close()
        ending.wake = lambda: None  # it held the executor
        executor.remove_node(node)
        node.destroy_node()


def notify(state: str) -> None:
    """Tell systemd one state, such as `READY=1`; without NOTIFY_SOCKET nothing is sent. Source: sd_notify(3).

    A manager that cannot be reached is no fault of the node's.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
        channel.sendto(state.encode(), address)
