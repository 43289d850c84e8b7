"""Two robots side by side, each with a policy and a gate in a namespace of its own: left/... and right/...

ros2 launch edgevlm_ros two_robots.launch.py bundle:=... gate_params:=... [first:=left second:=right]

Each argument holds for both; with `first_` or `second_` before it, for one: second_bundle:=..., first_gate_params:=...
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

SHARED = {  # argument of policy.launch.py -> default for both, description
    "bundle": ("", "directory of the bundle; must be given"),
    "gate_params": ("", "parameters of command_gate: the limits of your robot; must be given"),
    "topics": ("", "YAML topic map; empty: the convention"),
    "policy_params": (
        PathJoinSubstitution([FindPackageShare("edgevlm_ros"), "config", "policy.yaml"]),
        "parameters of policy_node",
    ),
    "use_sim_time": ("false", "take the time from /clock"),
}
ROBOTS = {"first": "left", "second": "right"}


def generate_launch_description() -> LaunchDescription:
    policy = PathJoinSubstitution([FindPackageShare("edgevlm_ros"), "launch", "policy.launch.py"])
    arguments, robots = [], []
    for key, name in ROBOTS.items():
        arguments.append(DeclareLaunchArgument(key, default_value=name, description="namespace"))
    for argument, (default, text) in SHARED.items():
        arguments.append(DeclareLaunchArgument(argument, default_value=default, description=f"{text}, of both robots"))
        for key in ROBOTS:
            own = LaunchConfiguration(argument)
            arguments.append(
                DeclareLaunchArgument(f"{key}_{argument}", default_value=own, description=f"{text}, of the {key} one")
            )
    for key in ROBOTS:
        own = [(argument, LaunchConfiguration(f"{key}_{argument}")) for argument in SHARED]
        robots.append(
            IncludeLaunchDescription(policy, launch_arguments=[*own, ("namespace", LaunchConfiguration(key))])
        )
    return LaunchDescription([*arguments, *robots])
