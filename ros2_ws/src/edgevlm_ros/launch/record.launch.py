"""As policy.launch.py, with a recorder: what the robot saw, was told and did, in one MCAP for replay and calibration.

ros2 launch edgevlm_ros record.launch.py bundle:=... gate_params:=... output:=run.mcap
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare


def generate_launch_description() -> LaunchDescription:
    policy = PathJoinSubstitution([FindPackageShare("edgevlm_ros"), "launch", "policy.launch.py"])
    recorder = Node(
        package="edgevlm_ros",
        executable="recorder",
        name="recorder",
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            {
                "bundle": ParameterValue(LaunchConfiguration("bundle"), value_type=str),
                "topics": ParameterValue(LaunchConfiguration("topics"), value_type=str),
                "output": ParameterValue(LaunchConfiguration("output"), value_type=str),
                "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
            }
        ],
        additional_env={"EDGEVLM_END_WITH_PARENT": "1"},
        output="screen",
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument("output", default_value="", description="the recording; empty: named by the date"),
            DeclareLaunchArgument("bundle", description="directory of the bundle"),
            DeclareLaunchArgument("gate_params", description="parameters of command_gate: the limits of your robot"),
            # The arguments that have defaults are taken over by their names.
            IncludeLaunchDescription(
                policy, launch_arguments=[(name, LaunchConfiguration(name)) for name in ("bundle", "gate_params")]
            ),
            recorder,
        ]
    )
