"""A child that tells its environment."""

import os

from edgevlm.text.confined import reply


def main() -> None:
    """Every name."""
    reply(sorted(os.environ))
