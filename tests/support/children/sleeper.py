"""A child that does not end."""

import time


def main() -> None:
    """Wait for longer than anybody waits."""
    time.sleep(600)
