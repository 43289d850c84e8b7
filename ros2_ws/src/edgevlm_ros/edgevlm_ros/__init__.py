"""ROS 2 nodes around edgevlm: thin shells that convert, call and convert back."""
