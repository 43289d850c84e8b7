"""ament_python package: nodes, launch files and configurations. The runtime is installed from the top of the clone."""

from glob import glob

from setuptools import setup

NAME = "edgevlm_ros"

setup(
    name=NAME,
    version="0.1.0",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", glob("launch/*.launch.py")),
        (f"share/{NAME}/config", glob("config/*")),
        (f"share/{NAME}/systemd", glob("systemd/*")),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    maintainer="edgevlm developers",
    maintainer_email="edgevlm@users.noreply.github.com",
    description="ROS 2 nodes of edgevlm",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            f"{program} = {NAME}.nodes:{program}"
            for program in ("policy_node", "command_gate", "command_relay", "vlm_node", "recorder")
        ]
    },
)
