"""A child that says nothing."""


def main() -> None:
    """End."""
