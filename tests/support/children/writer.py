"""A child that writes too much."""

import sys

from edgevlm.text.confined import limit_self


def main() -> None:
    """Write more than a reply may have."""
    limit_self()
    sys.stdout.write("1" * (1 << 22))
