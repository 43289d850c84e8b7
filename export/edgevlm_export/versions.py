"""Libraries whose results are compared to the bit: versions that are known to give others are refused."""

from __future__ import annotations

import importlib.metadata

from edgevlm.errors import DependencyError

# package -> (first major version that is another, why)
OTHERS = {"pillow": (13, "it resizes tall pictures vertically first, the runtime horizontally, as Pillow 10 to 12 do")}


def check_versions() -> None:
    """Raises DependencyError: with what to install."""
    for package, (first, why) in OTHERS.items():
        found = importlib.metadata.version(package)
        if int(found.partition(".")[0]) >= first:
            raise DependencyError(
                f"{package}: expected a version before {first}, got {found}: {why}, so pictures cannot be "
                f"compared to the bit: pip install '{package}<{first}'"
            )
