"""Checkpoint -> bundle. PyTorch lives here, never in the runtime."""
