"""What policy_node can be told by parameters, and the frozen values made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from edgevlm.errors import ContractError
from edgevlm.loop.matching import MatchSpec
from edgevlm.manifest.contract import Contract
from edgevlm.options import RuntimeOptions
from edgevlm_ros.parameter_items import AUTOSTART, Item, one_line

ITEMS = (
    *AUTOSTART,
    Item("bundle", "", "directory of the policy's bundle"),
    Item("topics", "", "YAML file that names the topics; empty: <camera>/image_raw[/compressed] and joint_states"),
    Item("engine", "auto", "which engine runs the stages"),
    Item("intra_threads", 1, "threads inside one operator; 0 leaves it to the engine", 0, 1024),
    Item("match.tolerance_s", 0.0, "between the stamps of one observation's frames; 0: the contract's", 0.0, 10.0),
    Item("match.state_tolerance_s", 0.1, "how much older than the lead camera's frame a state may be", 1e-6, 10.0),
    Item("match.max_age_s", 0.5, "oldest frame or state that is taken, by its stamp", 1e-3, 3600.0),
    Item("match.wait_s", 0.05, "how long a frame waits for its partners", 0.0, 10.0),
    Item("match.future_s", 0.1, "how far a stamp may lie ahead of the clock", 1e-6, 3600.0),
    Item("match.reset_after_s", 0.0, "a clock that jumps back by more has restarted; 0: the contract's", 0.0, 3600.0),
    Item("wait_for_state", False, "wait until the newest state before a frame is certain"),
    Item("poll_s", 0.1, "longest time between two heartbeats of a model that has nothing to do", 0.001, 10.0),
    Item("success_topic", "success", "std_msgs/Bool: true ends a goal with success"),
    Item("goal_timeout_s", 60.0, "of a goal that names none, in ROS time", 0.1, 86_400.0),
    Item("failures_to_abort", 10, "failed steps in a row that end a goal", 1, 1_000_000),
    Item("check_contract", True, "compare live topics with the contract at activation"),
    Item("check_s", 2.0, "how long activation looks at live topics", 0.1, 60.0),
    Item("rate_tolerance", 2.0, "factor by which a camera's rate may leave the contract's range", 1.0, 1000.0),
    Item("silence_s", 0.5, "how long a source or the model may be silent before it is an error", 0.01, 3600.0),
)


def check(values: Mapping[str, Any]) -> None:
    """Refuse what no contract could make good.

    Raises:
        ValueError, ContractError: which value, and why.
    """
    runtime_options(values)
    if not values["success_topic"]:
        raise ContractError("success_topic: expected a topic, got an empty name")


def runtime_options(values: Mapping[str, Any]) -> RuntimeOptions:
    """How the bundle is run.

    Raises:
        ContractError: an unknown engine.
    """
    try:
        return RuntimeOptions(engine=values["engine"], intra_threads=values["intra_threads"])
    except ValidationError as error:
        raise ContractError(one_line(error)) from error


def match_spec(values: Mapping[str, Any], contract: Contract) -> MatchSpec:
    """What belongs together; where a value is 0, as the contract says."""
    return MatchSpec(
        tolerance_s=values["match.tolerance_s"] or contract.window.tolerance_s,
        state_tolerance_s=values["match.state_tolerance_s"],
        max_age_s=values["match.max_age_s"],
        wait_s=values["match.wait_s"],
        wait_for_state=values["wait_for_state"],
        future_s=values["match.future_s"],
        reset_after_s=values["match.reset_after_s"] or contract.window.reset_after_s,
    )
