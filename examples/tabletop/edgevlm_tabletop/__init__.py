"""The trained default of edgevlm: a simulated tabletop robot, its experts, its data and its training."""
