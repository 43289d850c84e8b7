"""An observation against its contract, before anything is taken from it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import ContractError, ShapeError, StampError
from edgevlm.manifest.contract import (
    SECOND_NS,
    CameraSpec,
    CheckedFrame,
    Contract,
    Observation,
    Stamped,
    check_frame,
    check_stamp,
    check_state,
)


class ValidatedObservation(NamedTuple):
    """An observation that fits: the same images, stamps as plain ints."""

    frames: dict[str, tuple[CheckedFrame, int]]  # camera -> (image, stamp_ns)
    newest_ns: int  # of the frames
    state: NDArray[np.float32] | None  # (S,) in the contract's units
    state_ns: int | None


def validate_observation(contract: Contract, observation: Observation) -> ValidatedObservation:
    """What `observation` holds, if all of it fits `contract` and belongs to one instant.

    Frames may be apart by the window's tolerance, the state by its `reset_after_s`, on either side.

    Raises:
        ContractError, ShapeError, NonFiniteError, StampError: naming the part that does not fit.
    """
    cameras = {camera.name: camera for camera in contract.cameras}
    if set(observation.frames) != set(cameras):
        raise ContractError(
            f"observation: expected a frame of each camera {sorted(cameras)}, got {sorted(observation.frames)}; "
            "wait until every camera has sent one"
        )
    frames = {name: validate_frame(cameras[name], frame) for name, frame in observation.frames.items()}
    newest_ns = max(stamp_ns for _, stamp_ns in frames.values())
    limit_ns = round(contract.window.tolerance_s * SECOND_NS)
    for name, (_, stamp_ns) in frames.items():
        _check_together(f"camera {name!r}", stamp_ns, newest_ns, limit_ns)
    state, state_ns = _see_state(contract, observation)
    if state_ns is not None:
        _check_together("state", state_ns, newest_ns, round(contract.window.reset_after_s * SECOND_NS))
    return ValidatedObservation(frames, newest_ns, state, state_ns)


def validate_frame(camera: CameraSpec, frame: Any) -> tuple[CheckedFrame, int]:
    """One camera's image and stamp. Raises ContractError, ShapeError, StampError."""
    what = f"camera {camera.name!r}"
    return check_frame(camera, _stamped(what, frame).value), check_stamp(what, frame.stamp_ns)


def _see_state(contract: Contract, observation: Observation) -> tuple[NDArray[np.float32] | None, int | None]:
    spec, state = contract.state, observation.state
    if (spec is None) != (state is None):
        expected = f"the state {list(spec.names)}" if spec else "no state"
        raise ShapeError(f"observation: expected {expected}, got {state!r:.80}; see the bundle's contract")
    if spec is None:
        return None, None
    return check_state(spec, _stamped("state", state).value), check_stamp("state", state.stamp_ns if state else None)


def _stamped(what: str, value: Any) -> Stamped[Any]:
    if not isinstance(value, Stamped):
        got = type(value).__name__
        raise ContractError(f"{what}: expected Stamped(value, stamp_ns), got {got}; every value carries its own stamp")
    return value


def _check_together(what: str, stamp_ns: int, newest_ns: int, limit_ns: int) -> None:
    apart_ns = stamp_ns - newest_ns
    if abs(apart_ns) > limit_ns:
        raise StampError(
            f"{what}: expected a stamp within {limit_ns / 1e6:g} ms of the newest frame ({newest_ns} ns), got "
            f"{stamp_ns} ns, {abs(apart_ns) / 1e6:.1f} ms {'before' if apart_ns < 0 else 'after'} it; "
            "check the sensors and their clocks"
        )
