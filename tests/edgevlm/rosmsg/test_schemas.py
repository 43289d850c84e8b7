"""The definitions that the runtime carries are those of the ROS workspace, and what is written by them is read back."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from mcap.writer import Writer as McapWriter

from edgevlm.data import LogWriter
from edgevlm.data.container import Container
from edgevlm.errors import DependencyError, LogError, OutputError
from edgevlm.rosmsg import own_schemas
from edgevlm.rosmsg.schemas import BODIES, STRING, assemble, definition

GENERATOR = Path(__file__).parents[3] / "ros2_ws/generate_schemas.py"


def test_the_runtime_knows_the_messages_of_the_workspace_as_they_are() -> None:
    generator = runpy.run_path(str(GENERATOR))
    current = generator["TARGET"].read_text()
    assert generator["generated"]() == current, "a .msg file changed: run ros2_ws/generate_schemas.py"
    assert set(own_schemas.BODIES) <= set(BODIES)


def test_a_definition_holds_each_type_it_uses_once_and_nothing_else() -> None:
    headings = [line for line in definition("nav_msgs/msg/Path").splitlines() if line.startswith("MSG: ")]
    assert headings == [
        "MSG: std_msgs/Header",
        "MSG: builtin_interfaces/Time",
        "MSG: geometry_msgs/PoseStamped",
        "MSG: geometry_msgs/Pose",
        "MSG: geometry_msgs/Point",
        "MSG: geometry_msgs/Quaternion",
    ]


def test_constants_bounds_comments_and_types_of_the_same_package_are_understood() -> None:
    files = {
        "a/msg/A": "# b/Unused u\nB[<=3] bs  # of this package\nstring<=4 KIND=c/D\nfloat32[2] pair\nc/msg/D other",
        "a/msg/B": "uint8 X=1\nbool[] flags",
        "c/msg/D": "string<=10[] names\nwstring wide",
    }
    text = assemble("a/msg/A", files.__getitem__)
    assert [line for line in text.splitlines() if line.startswith("MSG: ")] == ["MSG: a/B", "MSG: c/D"]


def test_a_line_that_is_no_field_is_refused_with_its_type() -> None:
    with pytest.raises(LogError, match="a/msg/A: its definition has a line that is no field"):
        assemble("a/msg/A", {"a/msg/A": "float64"}.__getitem__)


def test_an_unknown_type_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="acme_msgs/msg/Odd: expected one of"), LogWriter(tmp_path / "x.mcap") as log:
        log.raw("/odd", "acme_msgs/msg/Odd", b"\0\1\0\0", 1)
    assert not list(tmp_path.iterdir())


def test_raw_messages_equal_encoded_ones_byte_for_byte(tmp_path: Path) -> None:
    first, second = tmp_path / "first.mcap", tmp_path / "second.mcap"
    with LogWriter(first) as log:
        log.string("/say", 5, "go")
    (ref,) = Container(first).refs
    cdr = Container(first).read(ref)
    with LogWriter(second) as log:
        log.string("/say", 5, "go")
        log.raw("/heard", STRING, cdr, 7)
        log.raw("/heard", STRING, cdr, 9)
    container = Container(second)
    assert container.found == {"/say": STRING, "/heard": STRING}
    assert [(ref.log_ns, container.read(ref)) for ref in container.refs] == [(5, cdr), (7, cdr), (9, cdr)]


def test_a_part_stays_when_writing_fails_and_is_renamed_when_it_does_not(tmp_path: Path) -> None:
    path, part = tmp_path / "run.mcap", tmp_path / "run.mcap.part"
    log = LogWriter(path, part=part)
    log.string("/say", 1, "go")
    with pytest.raises(ValueError, match="stop"), log:
        raise ValueError("stop")
    assert [file.name for file in tmp_path.iterdir()] == ["run.mcap.part"]
    with pytest.raises(OutputError, match="what was written so far lies at"):
        LogWriter(path, part=part)
    part.unlink()
    with LogWriter(path, part=part) as log:
        log.string("/say", 1, "go")
    assert [file.name for file in tmp_path.iterdir()] == ["run.mcap"]


def test_what_was_flushed_can_be_read_while_writing_goes_on(tmp_path: Path) -> None:
    part = tmp_path / "run.mcap.part"
    with LogWriter(tmp_path / "run.mcap", part=part) as log:
        log.string("/say", 1, "go")
        if hasattr(McapWriter, "flush"):
            log.flush()
            assert len(Container(part).refs) == 1
        else:
            with pytest.raises(DependencyError, match="pip install -U mcap"):
                log.flush()
