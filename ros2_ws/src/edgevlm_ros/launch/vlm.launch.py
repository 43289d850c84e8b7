"""A model that answers questions about a camera's pictures.

ros2 launch edgevlm_ros vlm.launch.py bundle:=/path/to/bundle image:=/front/image_raw
    [question:='Is the drawer open?' period_s:=2.0]
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterFile, ParameterValue
from launch_ros.substitutions import FindPackageShare


def generate_launch_description() -> LaunchDescription:
    config = PathJoinSubstitution([FindPackageShare("edgevlm_ros"), "config"])
    asked = {"bundle": str, "transport": str, "question": str, "period_s": float, "use_sim_time": bool}
    arguments = [
        DeclareLaunchArgument("bundle", description="directory of a bundle that answers in text"),
        DeclareLaunchArgument("image", default_value="image_raw", description="the camera's topic"),
        DeclareLaunchArgument("transport", default_value="raw", description="raw or compressed (<image>/compressed)"),
        DeclareLaunchArgument("question", default_value="", description="what is asked every period_s"),
        DeclareLaunchArgument("period_s", default_value="0.0", description="0: only when the service is called"),
        DeclareLaunchArgument("namespace", default_value="", description="of the node"),
        DeclareLaunchArgument("use_sim_time", default_value="false", description="take the time from /clock"),
        DeclareLaunchArgument(
            "params",
            default_value=PathJoinSubstitution([config, "vlm.yaml"]),
            description="more parameters of vlm_node: choices, max_new_tokens, max_age_s",
        ),
    ]
    image = LaunchConfiguration("image")
    node = Node(
        package="edgevlm_ros",
        executable="vlm_node",
        name="vlm_node",
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            ParameterFile(LaunchConfiguration("params")),
            {key: ParameterValue(LaunchConfiguration(key), value_type=kind) for key, kind in asked.items()},
            {"autostart": True},
        ],
        remappings=[("image_raw", image), ("image_raw/compressed", [image, "/compressed"])],
        additional_env={"EDGEVLM_END_WITH_PARENT": "1"},
        output="screen",
        respawn=True,
        respawn_delay=1.0,
    )
    profile = SetEnvironmentVariable(
        "FASTRTPS_DEFAULT_PROFILES_FILE",
        EnvironmentVariable(
            "FASTRTPS_DEFAULT_PROFILES_FILE", default_value=PathJoinSubstitution([config, "fastdds.xml"])
        ),
    )
    return LaunchDescription([*arguments, profile, node])
