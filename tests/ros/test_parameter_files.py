"""A parameter file that cannot be used is one line with what to change; one that can is read as rcl reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("edgevlm_ros", reason="needs the built workspace: make ros-build")

from edgevlm_ros.arguments import ArgumentsError, applies, parameter_files, rcl_message, section_faults, sections, stray

ROOT = Path(__file__).parents[2]
SHIPPED = [
    *sorted((ROOT / "ros2_ws/src/edgevlm_ros/config").glob("*.yaml")),
    *(ROOT / "examples/tabletop/ros" / name for name in ("real_time.yaml", "lock_step.yaml")),
]
OTHERS = ("command_gate", "policy_node")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty|nothing"),
        ("deadline_ms: 300.0\n", "ros__parameters: {deadline_ms"),
        ("/**:\n  deadline_ms: 300.0\n", "'\\*\\*/deadline_ms' outside"),
        ("/**:\n  ros_parameters:\n    a: 1\n", "did you mean ros__parameters"),
        ("/**:\n  ros__parameters:\n", "expected parameters, got nothing"),
        ("/**:\n  ros__parameters: 3\n", "expected parameters, got 3"),
        ("- 1\n", "got \\[1\\]"),
        ("/**:\n  ros__parameters:\n    velocity:\n", "velocity of /\\*\\* has no value"),
        ("/**:\n  ros__parameters:\n    axes: {dx: {velocity: <m/s>}}\n", "axes.dx.velocity of .* '<m/s>'"),
        ("/**:\n  ros__parameters:\n    velocity: {{ velocity }}\n", "template"),
        ("/**:\n\tros__parameters: {}\n", "expected YAML"),
        ("a: &a\n  b: *a\n", "outside of any"),
        ("[" * 20_000, "expected YAML"),
        ("a: 2024-13-45\n", "YAML|outside"),
    ],
)
def test_what_is_no_parameter_file_is_reported_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "limits.yaml"
    file.write_text(text)
    with pytest.raises(ArgumentsError, match=words) as refused:
        sections(file)
    assert str(refused.value).startswith(str(file))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("make", ["missing", "folder", "bytes", "large"])
def test_what_cannot_be_read_is_reported_in_one_line(tmp_path: Path, make: str) -> None:
    file = tmp_path / "limits.yaml"
    if make == "folder":
        file.mkdir()
    elif make == "bytes":
        file.write_bytes(b"\xff\xfe\x00")
    elif make == "large":
        with file.open("wb") as sparse:
            sparse.truncate(1 << 30)
    with pytest.raises(ArgumentsError, match="expected"):
        sections(file)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.name)
def test_every_file_that_ships_is_taken(file: Path) -> None:
    assert sections(file)


@pytest.mark.parametrize(
    ("section", "node", "is_for"),
    [
        ("/**", "/left/command_gate", True),
        ("/**/command_gate", "/command_gate", True),
        ("/**/command_gate", "/a/b/command_gate", True),
        ("/*/command_gate", "/left/command_gate", True),
        ("/*/command_gate", "/command_gate", False),
        ("/command_gate", "/left/command_gate", False),
        ("/left/*", "/left/command_gate", True),
        ("/command_gat", "/command_gate", False),
        ("/a.c", "/abc", False),
    ],
)
def test_sections_are_for_the_nodes_that_rcl_gives_them_to(section: str, node: str, is_for: bool) -> None:
    assert applies(section, node) is is_for


def test_a_misspelt_node_and_a_forgotten_namespace_are_faults() -> None:
    (typo,) = section_faults(["/comand_gate"], "/command_gate", OTHERS)
    assert "did you mean command_gate?" in typo
    (elsewhere,) = section_faults(["/command_gate"], "/left/command_gate", OTHERS)
    assert "write /**/command_gate" in elsewhere
    assert not section_faults(["/left/command_gate", "/right/command_gate"], "/left/command_gate", OTHERS)
    assert not section_faults(["/**/policy_node", "/camera_driver"], "/command_gate", OTHERS)


def test_files_and_stray_words_are_distinguished_as_rcl_does() -> None:
    line = [
        "node",
        "x.yaml",
        "--ros-args",
        "--params-file",
        "a.yaml",
        "-p",
        "x:=1",
        "--",
        "y",
        "--params-file",
        "b.yaml",
    ]
    assert parameter_files(line) == [Path("a.yaml")]
    assert stray(line) == ["x.yaml", "y", "--params-file", "b.yaml"]
    assert parameter_files(["node", "--ros-args", "--params-file"]) == []


def test_what_rcl_says_loses_the_places_of_its_sources() -> None:
    error = RuntimeError("failed to initialize rcl: Couldn't parse '-p x=3', at /project/src/rcl/arguments.c:352")
    assert rcl_message(error) == "Couldn't parse '-p x=3'"
