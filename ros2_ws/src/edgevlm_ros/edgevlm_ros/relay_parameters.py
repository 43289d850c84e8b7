"""What command_relay can be told by parameters."""

from __future__ import annotations

from dataclasses import replace

from edgevlm.manifest.action_kinds import ACTION_KINDS, BY_JOINT
from edgevlm_ros.parameter_items import AUTOSTART, Item

KINDS = tuple(dict.fromkeys(name for row in ACTION_KINDS.values() for names in row.commands.values() for name in names))

ITEMS = (
    *(replace(item, default=True) if item.name == "autostart" else item for item in AUTOSTART),
    Item("command_valid_s", 0.1, "how long after its stamp a command may be used; as the gate has it", 0.001, 60.0),
    Item("period_s", 0.02, "how often a command that rests is sent while none is valid", 0.001, 1.0),
    Item("future_s", 0.1, "how far a stamp may lie ahead of the clock", 0.001, 60.0),
    Item("state_topic", "joint_states", "where joints are held, measured: sensor_msgs/msg/JointState"),
    Item("state_max_age_s", 0.2, "oldest measured position to hold; without one the last command is held", 0.001, 60.0),
    *(
        Item(f"{kind}.to", "", f"the controller's topic for what comes on command/{kind}; empty: none")
        for kind in KINDS
    ),
    *(
        Item(
            f"{kind}.joints",
            [""],
            "send std_msgs/msg/Float64MultiArray with these joints in this order; empty: as it came",
        )
        for kind in BY_JOINT
    ),
    Item("twist.stamped", True, "false: the controller takes geometry_msgs/msg/Twist"),
)
