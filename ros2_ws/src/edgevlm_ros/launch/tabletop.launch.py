"""The simulated tabletop robot with its policy and gate; tell it what to do by `instruction` or `execute_instruction`.

    ros2 launch edgevlm_ros tabletop.launch.py bundle:=build/tabletop-int8 config:=examples/tabletop/ros

Needs edgevlm with the extra `sim`. The robot waits for the service `tabletop_sim/reset`.
"""

import sys

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, IncludeLaunchDescription
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare


def generate_launch_description() -> LaunchDescription:
    policy = PathJoinSubstitution([FindPackageShare("edgevlm_ros"), "launch", "policy.launch.py"])
    params = PathJoinSubstitution([LaunchConfiguration("config"), "real_time.yaml"])
    topics = PathJoinSubstitution([LaunchConfiguration("config"), "topics.yaml"])
    simulator = ExecuteProcess(
        cmd=[sys.executable, "-m", "edgevlm_tabletop.ros.sim_node", "--ros-args", "--params-file", params],
        additional_env={"EDGEVLM_END_WITH_PARENT": "1"},
        output="screen",
    )
    bundle = LaunchConfiguration("bundle")
    given = [("bundle", bundle), ("topics", topics), ("policy_params", params), ("gate_params", params)]
    return LaunchDescription(
        [
            DeclareLaunchArgument("bundle", description="directory of the bundle"),
            DeclareLaunchArgument("config", description="directory with real_time.yaml and topics.yaml"),
            simulator,
            IncludeLaunchDescription(policy, launch_arguments=given),
        ]
    )
