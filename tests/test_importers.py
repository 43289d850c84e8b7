"""A module that only one other imports is mostly a piece of it. 49 once, 24 now, and never more."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "edgevlm",
    "export/edgevlm_export",
    "calibration/edgevlm_calibration",
    "ros2_ws/src/edgevlm_ros/edgevlm_ros",
)
# Modules that list others of their package. A verb, a driver, a family, .. is a row there and has one importer rightly.
TABLES = (
    *("edgevlm.cli.app", "edgevlm.cli.tasks", "edgevlm.data.readers", "edgevlm.drivers", "edgevlm.engines"),
    *("edgevlm.manifest.drivers", "edgevlm.tasks", "edgevlm_export.families", "edgevlm_export.quantization"),
    *("edgevlm_export.recipes", "edgevlm_ros.nodes"),
)
PASSES = "edgevlm_export.quantization.passes"  # a graph rewrite each
LIMIT = 24  # half of what there was


def sources(root: Path, packages: Collection[str]) -> dict[str, Path]:
    """Every module by its dotted name."""
    return {
        ".".join(path.relative_to(folder.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for folder in (root / package for package in packages)
        for path in sorted(folder.rglob("*.py"))
    }


def imports(tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    """(module, name, the name here) of each import of names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name, alias.asname or alias.name) for alias in node.names)


def exports(tree: ast.Module) -> set[str]:
    """What `__all__` lists and the module does not use by itself."""
    listed: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            listed = set(ast.literal_eval(node.value))
    return listed - {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def single_importers(paths: Mapping[str, Path], tables: Collection[str], passes: str) -> dict[str, str]:
    """Modules that exactly one module imports -> that module; without packages, tables and their rows.

    A name that a package hands on (`from edgevlm.text import Tokenizer`) counts for the module that defines it.
    """
    trees = {module: ast.parse(path.read_text()) for module, path in paths.items()}
    packages = {module for module, path in paths.items() if path.name == "__init__.py"}
    handed = {
        (package, here): (module, name)
        for package in packages
        for module, name, here in imports(trees[package])
        if here in exports(trees[package])
    }

    def definer(module: str, name: str) -> str:
        if f"{module}.{name}" in paths:
            return f"{module}.{name}"
        return definer(*handed[module, name]) if (module, name) in handed else module

    importers, rows = defaultdict(set), set()
    for importer, tree in trees.items():
        for module, name, here in imports(tree):
            if (importer, here) not in handed:
                importers[definer(module, name)].add(importer)
    for table in set(tables) & set(paths):
        package = table if table in packages else table.rpartition(".")[0]
        texts = {node.value for node in ast.walk(trees[table]) if isinstance(node, ast.Constant)}  # families, by name
        listed = {definer(module, name) for module, name, _ in imports(trees[table])}
        rows |= {module for module in paths if module.rpartition(".")[0] == package} & (
            listed | {f"{package}.{text}" for text in texts}
        )
    rows |= {module for module in paths if module.rpartition(".")[0] == passes} | packages | set(tables)
    return {module: min(importers[module]) for module in sorted({*paths} - rows) if len(importers[module]) == 1}


def test_modules_with_one_importer_become_fewer() -> None:
    pieces = single_importers(sources(ROOT, PACKAGES), TABLES, PASSES)
    lines = "\n".join(f"{module} <- {importer}" for module, importer in pieces.items())
    assert len(pieces) <= LIMIT, f"expected at most {LIMIT}, got {len(pieces)}: join one to its importer\n{lines}"


def test_the_count_knows_a_piece_a_row_and_what_a_package_hands_on(tmp_path: Path) -> None:
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("from shop.row import A\nfrom shop.shared import B\n__all__ = ['A', 'B']\n")
    (package / "row.py").write_text("from shop.piece import A\n")
    (package / "piece.py").write_text("A = 1\n")
    (package / "shared.py").write_text("B = 1\n")
    (package / "one.py").write_text("from shop import B\nfrom shop.row import A\n")
    (package / "two.py").write_text("from shop import B\n")
    paths = sources(tmp_path, ["shop"])
    assert single_importers(paths, ["shop"], "") == {"shop.piece": "shop.row"}
    assert single_importers(paths, [], "") == {"shop.piece": "shop.row", "shop.row": "shop.one"}
