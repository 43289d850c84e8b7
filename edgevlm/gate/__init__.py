"""The core of the command gate, without ROS: chunks, states and heartbeats in, commands within limits out."""
