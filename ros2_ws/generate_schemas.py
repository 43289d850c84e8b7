"""Writes edgevlm/rosmsg/own_schemas.py: the .msg files of edgevlm_msgs, for a runtime that has no ROS.

Run it after a change of a .msg file; tests/edgevlm/rosmsg/test_schemas.py compares.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
MESSAGES = ROOT / "ros2_ws/src/edgevlm_msgs/msg"
TARGET = ROOT / "edgevlm/rosmsg/own_schemas.py"
HEAD = '''"""Message definitions of edgevlm_msgs without comments. Generated: edit ros2_ws/src/edgevlm_msgs, then run
ros2_ws/generate_schemas.py.
"""

from __future__ import annotations

'''


def bare(text: str) -> list[str]:
    """The lines of a definition without comments and blank ones, in single spaces."""
    lines = (" ".join(line.partition("#")[0].split()) for line in text.splitlines())
    return [line for line in lines if line]


def generated() -> str:
    """The text of the target."""
    names, versions, bodies = "", "", ""
    for file in sorted(MESSAGES.glob("*.msg")):
        constant = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", file.stem).upper()
        lines = bare(file.read_text())
        version = re.fullmatch(r"uint8 SCHEMA_VERSION = (\d+)", lines[0])
        assert version is not None, f"{file}: expected SCHEMA_VERSION first, got {lines[0]!r}"
        names += f'{constant} = "edgevlm_msgs/msg/{file.stem}"\n'
        versions += f"    {constant}: {version[1]},\n"
        bodies += f'    {constant}: """\\\n' + "".join(f"{line}\n" for line in lines) + '""",\n'
    return f"{HEAD}{names}\nSCHEMA_VERSIONS = {{\n{versions}}}\nBODIES = {{\n{bodies}}}\n"


if __name__ == "__main__":
    TARGET.write_text(generated())
