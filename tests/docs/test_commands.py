"""Every fenced command of README and docs is one that its own program takes, as it stands there.

What can run without hours or a robot runs elsewhere (tests/export/test_readme.py, `make demo`); the rest is given to
the real parser.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import pytest
import tomllib
import typer.main
import yaml
from support.blocks import ROOT, Block, Command, blocks, commands

from edgevlm.cli.app import app
from edgevlm.rosmsg.topic_map import TopicMap

ROS = ROOT / "ros2_ws" / "src" / "edgevlm_ros"
sys.path.append(str(ROS))  # where the workspace is not built; what is imported from there needs no ROS
from edgevlm_ros.declared import NODES  # noqa: E402
from edgevlm_ros.parameter_items import AUTOSTART, Item, fit  # noqa: E402

MESSAGES = ROOT / "ros2_ws" / "src" / "edgevlm_msgs"
LANGUAGES = {"sh", "python", "yaml", "json", "text", "ini", "dockerfile", "xml", "flow"}
# What a page may have besides our own programs, as far as the first words go.
FOREIGN = (
    *(
        "cd",
        "sudo apt install",
        "sudo apt-get install",
        "sudo systemctl",
        "sudo loginctl",
        "sudo sysctl",
        "sudo usermod",
        "sudo useradd",
        "sudo mkdir",
        "sudo cp",
        "sudo mv",
        "sudo nvpmodel",
        "sudo jetson_clocks",
    ),
    *("python3 -m venv", "python -m colcon build", ".", "source", "export", "docker build", "docker run", "git clone"),
    *(".venv/bin/pre-commit install", "cmake", "ctest", "ros2 security", "ros2 bag", "ros2 doctor", "ros2 param"),
    *("ros2 lifecycle", "ros2 topic echo", "ros2 topic hz", "ros2 topic list", "ros2 pkg", "ros2 control", "ros2 node"),
    *("journalctl", "systemctl", "mkdir", "cp", "ln"),
)


@pytest.mark.parametrize("block", blocks(), ids=str)
def test_every_block_names_its_language(block: Block) -> None:
    assert block.language in LANGUAGES, f"{block}: expected one of {sorted(LANGUAGES)}, got {block.language!r}"


@pytest.mark.parametrize("command", commands(), ids=str)
def test_every_command_is_taken_by_its_program(command: Command) -> None:
    for begin, check in CHECKS.items():
        if command.words[: len(begin.split())] == tuple(begin.split()):
            check(command.words[len(begin.split()) :])
            return
    assert any(command.words[: len(words.split())] == tuple(words.split()) for words in FOREIGN), (
        f"{command}: no check knows this command; add one to CHECKS"
    )


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_every_python_block_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_every_yaml_block_is_one_that_its_reader_takes(block: Block) -> None:
    data = yaml.safe_load(block.text)
    assert isinstance(data, dict), str(block)
    if "instruction" in data and "cameras" in data:
        TopicMap.model_validate(data)
    for section, content in data.items():
        node = section.rpartition("/")[2]
        if isinstance(content, dict) and "ros__parameters" in content and node in {*NODES, "**"}:
            for key, value in flat(content["ros__parameters"]):
                nodes = [node] if node in NODES else [name for name, items in NODES.items() if declares(items, key)]
                assert nodes, f"{block}: no node declares {key!r}"
                parameter(nodes[0], key, value)


def flat(parameters: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in parameters.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def declares(items: Iterable[Item], key: str) -> bool:
    return key.startswith("axes.") or key in {item.name for item in (*AUTOSTART, *items)}


def edgevlm(words: tuple[str, ...]) -> None:
    if ">" in words:  # what the shell takes
        words = words[: words.index(">")]
    group = typer.main.get_command(app)
    with group.make_context("edgevlm", list(words)) as context:
        name, verb, rest = group.resolve_command(context, [*context._protected_args, *context.args])  # type: ignore[attr-defined]
        verb.make_context(name, rest, parent=context)


def make(words: tuple[str, ...]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = [word for word in words if "=" not in word]
    assert named and set(named) <= targets, f"make {words}: the Makefile has {sorted(targets)}"


def pip_install(words: tuple[str, ...]) -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    for word in words:
        assert not word.startswith("edgevlm"), f"pip install {word}: edgevlm is on no index; install '.[..]' in a clone"
        if result := re.fullmatch(r"\.\[(.*)\]", word):
            assert set(result[1].split(",")) <= extras, f"pip install {word}: the extras are {sorted(extras)}"


def ros2_launch(words: tuple[str, ...]) -> None:
    package, name, *arguments = words
    assert package == "edgevlm_ros"
    declared = declared_arguments(name)
    for argument in arguments:
        key, separator, value = argument.partition(":=")
        assert separator and value and key in declared, f"{name} {argument}: it declares {sorted(declared)}"


@cache
def declared_arguments(name: str) -> frozenset[str]:
    """The arguments of a launch file: the first words of each DeclareLaunchArgument, also from a table of names."""
    text = (ROS / "launch" / name).read_text()
    strings = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
    return frozenset(string for string in strings if isinstance(string, str) and string.isidentifier())


def ros2_run(words: tuple[str, ...]) -> None:
    package, executable, *rest = words
    assert package == "edgevlm_ros"
    assert f'"{executable}"' in (ROS / "setup.py").read_text(), f"ros2 run edgevlm_ros {executable}: no such program"
    assert not rest or rest[0] == "--ros-args"
    pairs = rest[1:]
    while pairs:
        option, value, *pairs = pairs
        assert option in ("-p", "-r", "--params-file", "--enclave"), f"{executable}: {option}"
        if option in ("--params-file", "--enclave"):
            continue
        key, separator, setting = value.partition(":=")
        assert separator and key and setting, f"{executable} {option} {value}"
        if option == "-p":
            parameter(executable, key, yaml.safe_load(setting))


def parameter(node: str, key: str, value: object) -> None:
    """The node declares it, and takes a value of that type. Parameters of an axis are the bundle's own."""
    items = {item.name: item for item in (*AUTOSTART, *NODES[node])}
    if not key.startswith("axes."):
        assert key in items, f"{node}: no parameter {key!r}"
        fit(items[key], value)


def ros2_topic_pub(words: tuple[str, ...]) -> None:
    plain = _without_options(words, {"--qos-durability", "--qos-reliability", "--qos-profile", "-r", "--rate"})
    topic, kind, content = plain
    assert kind == "std_msgs/msg/Bool" or kind == "std_msgs/msg/String", f"{topic}: {kind}"
    assert set(yaml.safe_load(content)) == {"data"}, content


def ros2_call(words: tuple[str, ...]) -> None:
    _, kind, *content = _without_options(words, set())
    package, folder, name = kind.split("/")
    if package != "edgevlm_msgs":
        assert kind in ("std_srvs/srv/Trigger", "std_srvs/srv/SetBool", "lifecycle_msgs/srv/ChangeState"), kind
        return
    request = (MESSAGES / folder / f"{name}.{folder}").read_text().split("---")[0]
    fields = set(re.findall(r"^[\w/\[\]<>=]+ +(\w+)(?: |$)", request, re.MULTILINE))
    assert set(yaml.safe_load(content[0])) <= fields, f"{kind} has {sorted(fields)}: {content[0]}"


def _without_options(words: tuple[str, ...], valued: set[str]) -> list[str]:
    plain, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        if word in valued:
            rest.pop(0)
        elif not word.startswith("-"):
            plain.append(word)
    return plain


def python_module(words: tuple[str, ...]) -> None:
    assert importlib.util.find_spec(words[0]) is not None, f"python -m {words[0]}: no such module"


CHECKS: Mapping[str, Callable[[tuple[str, ...]], None]] = {
    "edgevlm": edgevlm,
    "make": make,
    "pip install": pip_install,
    "ros2 launch": ros2_launch,
    "ros2 run": ros2_run,
    "ros2 topic pub": ros2_topic_pub,
    "ros2 service call": ros2_call,
    "ros2 action send_goal": ros2_call,
    "python -m edgevlm_tabletop": python_module,
    "python -m": lambda words: None if words[0] == "colcon" else python_module(words),
}
