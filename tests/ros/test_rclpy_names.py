"""Every name and keyword of rclpy that nodes use exists in Humble's rclpy and in Jazzy's.

The lists in `rclpy_names/` are taken from upstream's branches; each begins with the commit.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LISTS = Path(__file__).parent / "rclpy_names"
BRANCHES = ("humble", "jazzy")
COMPAT = "ros2_ws/src/edgevlm_ros/edgevlm_ros/compat.py"


def listed(kind: str, branch: str) -> dict[str, set[str]]:
    lines = (LISTS / f"{kind}_{branch}.txt").read_text().splitlines()
    assert f"branch {branch}, commit " in lines[0]
    return {name: set(rest.split()) for name, _, rest in (line.partition(":") for line in lines[1:])}


def trees() -> dict[str, ast.Module]:
    files = sorted(path for tree in ("ros2_ws", "examples") for path in (ROOT / tree).rglob("*.py"))
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in files}


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, name) of each import from rclpy; the name is "" where the module itself is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rclpy":
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] == "rclpy")


def attributes(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, name) of each `rclpy.name` and `rclpy.module.name` in the text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            path = ast.unparse(node).split(".")
            if path[0] == "rclpy" and all(part.isidentifier() for part in path):
                yield ".".join(path[:-1]), path[-1]


def unknown(uses: Iterator[tuple[str, str]], names: Mapping[str, set[str]]) -> list[str]:
    def exists(module: str, name: str) -> bool:
        if module in names:
            return not name or name in names[module] or f"{module}.{name}" in names
        owner, _, attribute = module.rpartition(".")  # the attribute of a class
        return attribute in names.get(owner, ())

    return [f"{module}: {name}" for module, name in uses if not exists(module, name)]


def alternatives(tree: ast.Module) -> list[list[ast.Module]]:
    """The parts of the module of which one is enough: of each `try` its body and each handler."""
    tries = [node for node in tree.body if isinstance(node, ast.Try)]
    return [[ast.Module(part.body, []) for part in (node, *node.handlers)] for node in tries]


@pytest.mark.parametrize("branch", BRANCHES)
def test_every_name_of_rclpy_is_there(branch: str) -> None:
    names = listed("names", branch)
    missing = {
        file: [*unknown(imports(tree), names), *unknown(attributes(tree), names)]
        for file, tree in trees().items()
        if file != COMPAT
    }
    assert sum(len(list(imports(tree))) for tree in trees().values()) > 50
    assert {file: lost for file, lost in missing.items() if lost} == {}


@pytest.mark.parametrize("branch", BRANCHES)
def test_compat_finds_each_of_its_names_somewhere(branch: str) -> None:
    names = listed("names", branch)
    places = alternatives(trees()[COMPAT])
    assert places
    for parts in places:
        assert any(not unknown(imports(part), names) for part in parts), branch


def test_the_lists_tell_the_branches_apart() -> None:
    """Without this the tests above could read anything."""
    old = ast.parse("from rclpy.event_handler import SubscriptionEventCallbacks")
    assert unknown(imports(old), listed("names", "humble")) == ["rclpy.event_handler: SubscriptionEventCallbacks"]
    assert not unknown(imports(old), listed("names", "jazzy"))
    assert unknown(attributes(ast.parse("rclpy.nothing()")), listed("names", "jazzy")) == ["rclpy: nothing"]


@pytest.mark.parametrize("branch", BRANCHES)
def test_every_keyword_is_taken(branch: str) -> None:
    """By the name of what is called: `create_timer` has no `autostart` on Humble."""
    keywords = listed("keywords", branch)
    missing, calls = [], 0
    for file, tree in trees().items():
        imported = {name for module, name in imports(tree)}
        if not imported:
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            method = isinstance(node.func, ast.Attribute)
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if not method and name not in imported:
                continue  # a function of ours
            taken = keywords.get(name)
            if taken is None or "**" in taken:
                continue
            calls += 1
            lost = [keyword.arg for keyword in node.keywords if keyword.arg and keyword.arg not in taken]
            missing += [f"{file}:{node.lineno}: {name}({keyword}=)" for keyword in lost]
    assert calls > 50
    assert not missing
