"""Every node of edgevlm with the parameters that it declares whatever its bundle is. No ROS in here."""

from __future__ import annotations

from collections.abc import Mapping

from edgevlm_ros import gate_parameters, policy_parameters, recorder_parameters, relay_parameters, vlm_parameters
from edgevlm_ros.parameter_items import Item

NODES: Mapping[str, tuple[Item, ...]] = {
    "policy_node": policy_parameters.ITEMS,
    "command_gate": gate_parameters.ITEMS,
    "command_relay": relay_parameters.ITEMS,
    "vlm_node": vlm_parameters.ITEMS,
    "recorder": recorder_parameters.ITEMS,
}
