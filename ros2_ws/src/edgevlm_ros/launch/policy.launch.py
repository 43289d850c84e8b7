"""A policy and its command gate on a robot whose camera and state topics are live.

ros2 launch edgevlm_ros policy.launch.py bundle:=/path/to/bundle gate_params:=limits.yaml [topics:=map.yaml]
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterFile, ParameterValue
from launch_ros.substitutions import FindPackageShare


def generate_launch_description() -> LaunchDescription:
    config = PathJoinSubstitution([FindPackageShare("edgevlm_ros"), "config"])
    arguments = [
        DeclareLaunchArgument("bundle", description="directory of the bundle"),
        DeclareLaunchArgument("topics", default_value="", description="YAML topic map; empty: the convention"),
        DeclareLaunchArgument("namespace", default_value="", description="of both nodes, for several robots"),
        DeclareLaunchArgument("use_sim_time", default_value="false", description="take the time from /clock"),
        DeclareLaunchArgument(
            "policy_params",
            default_value=PathJoinSubstitution([config, "policy.yaml"]),
            description="parameters of policy_node",
        ),
        DeclareLaunchArgument("gate_params", description="parameters of command_gate: the limits of your robot"),
    ]
    common = {
        "bundle": ParameterValue(LaunchConfiguration("bundle"), value_type=str),
        "topics": ParameterValue(LaunchConfiguration("topics"), value_type=str),
        "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
        "autostart": True,
    }
    nodes = [
        Node(
            package="edgevlm_ros",
            executable=executable,
            name=executable,
            namespace=LaunchConfiguration("namespace"),
            parameters=[ParameterFile(LaunchConfiguration(params)), common],
            additional_env={"EDGEVLM_END_WITH_PARENT": "1"},
            output="screen",
            respawn=True,
            respawn_delay=1.0,
        )
        for executable, params in (("policy_node", "policy_params"), ("command_gate", "gate_params"))
    ]
    profile = SetEnvironmentVariable(
        "FASTRTPS_DEFAULT_PROFILES_FILE",
        EnvironmentVariable(
            "FASTRTPS_DEFAULT_PROFILES_FILE", default_value=PathJoinSubstitution([config, "fastdds.xml"])
        ),
    )
    return LaunchDescription([*arguments, profile, *nodes])
