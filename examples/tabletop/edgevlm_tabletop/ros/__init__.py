"""The simulated robot in ROS 2: its simulator as a node, the director of its episodes, a demo and a gate over DDS."""
