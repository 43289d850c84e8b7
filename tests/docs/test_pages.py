"""Pages are narrow, name only what is there, and README's figures are the measured ones."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType

import pytest
import yaml
from support.blocks import PAGES, ROOT

LONGEST = 120
TREES = ("edgevlm", "export", "calibration", "ros2_ws", "tests", "benchmarks", "examples", "docs", ".ci")
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)")
LIVING = [page for page in PAGES if page != "CHANGELOG.md"]
NOW = [page for page in LIVING if not page.startswith("docs/decisions/0")]  # a record says what was at its time


@pytest.mark.parametrize("page", LIVING)
def test_no_line_is_longer_than_a_narrow_window(page: str) -> None:
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    assert [(at, len(line)) for at, line in enumerate(lines, 1) if len(line) > LONGEST] == []


@pytest.mark.parametrize("page", NOW)
def test_every_path_that_a_page_names_is_there(page: str) -> None:
    named = {span for span in SPAN.findall((ROOT / page).read_text(encoding="utf-8")) if span.startswith(TREES)}
    paths = {span.split("::")[0] for span in named if re.fullmatch(r"[\w./-]+/[\w./-]*", span)}
    roots = [ROOT, (ROOT / page).parent, *(ROOT / name for name in ("export", "ros2_ws/src/edgevlm_ros"))]
    lost = [path for path in sorted(paths) if not any((root / path).exists() for root in roots)]
    assert [path for path in lost if "NNNN" not in path] == []


@pytest.mark.parametrize("page", LIVING)
def test_every_link_to_a_file_leads_to_one(page: str) -> None:
    links = {link for link in LINK.findall((ROOT / page).read_text(encoding="utf-8")) if "://" not in link}
    created = {link for link in links if re.search(r"(^|/)(reference/\w+|measured)\.md$", link)}  # by docs/hooks
    assert [link for link in sorted(links - created) if not ((ROOT / page).parent / link).exists()] == []


def test_every_page_is_in_the_navigation() -> None:
    entries = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")}
    assert [page for page in sorted(pages) if page not in entries and not page.startswith("decisions/0")] == []


def test_each_decision_has_a_number_of_its_own_in_its_title() -> None:
    records = sorted((ROOT / "docs/decisions").glob("0*.md"))
    assert len({path.name[:4] for path in records}) == len(records)
    titles = {path.name: path.read_text(encoding="utf-8").splitlines()[0] for path in records}
    assert [name for name, title in titles.items() if not title.startswith(f"# {name[:4]} ")] == []


def test_the_readme_has_the_measured_figures() -> None:
    rows = hook("measured").headline().splitlines()
    assert len(rows) > 4
    assert [row for row in rows if row not in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()] == []


def hook(name: str) -> ModuleType:
    """A module of docs/hooks, which are no package."""
    spec = importlib.util.spec_from_file_location(f"hook_{name}", ROOT / f"docs/hooks/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_hooks_that_the_site_names_are_there() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("hooks:"))
    assert [path for path in yaml.safe_load(line)["hooks"] if not (ROOT / path).exists()] == []
