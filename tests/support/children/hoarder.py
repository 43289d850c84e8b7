"""A child that takes memory."""

from edgevlm.text.confined import limit_self


def main() -> None:
    """Take more than the limit."""
    limit_self(memory_mb=64)
    bytearray(1 << 30)
