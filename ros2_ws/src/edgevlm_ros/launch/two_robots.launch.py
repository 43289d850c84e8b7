"""Two robots side by side, each with a policy and a gate in a namespace of its own: left/... and right/...

ros2 launch edgevlm_ros two_robots.launch.py bundle:=... gate_params:=... [first:=left second:=right]
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare


def generate_launch_description() -> LaunchDescription:
    policy = PathJoinSubstitution([FindPackageShare("edgevlm_ros"), "launch", "policy.launch.py"])
    names = {"first": "left", "second": "right"}
    arguments = [DeclareLaunchArgument(key, default_value=name, description="namespace") for key, name in names.items()]
    needed = {
        "bundle": "directory of the bundle",
        "gate_params": "parameters of command_gate: the limits of your robot",
    }
    arguments += [DeclareLaunchArgument(key, description=text) for key, text in needed.items()]
    shared = [(key, LaunchConfiguration(key)) for key in needed]
    robots = [
        IncludeLaunchDescription(policy, launch_arguments=[*shared, ("namespace", LaunchConfiguration(key))])
        for key in names
    ]
    return LaunchDescription([*arguments, *robots])
