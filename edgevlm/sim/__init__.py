"""Closed loops around a policy in a simulator: episodes and their figures."""
