"""Control loops around a policy, without ROS: chunk execution, closed-loop episodes in a simulator."""
