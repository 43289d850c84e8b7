"""Mend the pip wheels of ROS 2: their CMake files name the Python and the NumPy of the machine that built them.

    python ros2_ws/mend_wheels.py

Run by `make ros-build` after installing requirements.txt. Not needed where ROS 2 comes from apt.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path

import numpy as np

DIRECTORIES = re.compile(r'(INTERFACE_INCLUDE_DIRECTORIES ")/opt/python/[^"]*(")')


def mend(share: Path) -> int:
    """Replace the include directories in every generator's export; how many files were changed."""
    here = f"{sysconfig.get_path('include')};{np.get_include()}"
    changed = 0
    for path in sorted(share.glob("*/cmake/*rosidl_generator_pyExport.cmake")):
        text = path.read_text(encoding="utf-8")
        mended = DIRECTORIES.sub(lambda found: f"{found[1]}{here}{found[2]}", text)
        if mended != text:
            path.write_text(mended, encoding="utf-8")
            changed += 1
    return changed


if __name__ == "__main__":
    sys.stdout.write(f"mended {mend(Path(sys.prefix) / 'share')} CMake files of the ROS wheels\n")
