"""Tiny bundles and policies with counted engines, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import talker, tiny
from support.talking import Opened
from support.tiny import Open

from edgevlm.bundle import open_bundle
from edgevlm.options import RuntimeOptions
from edgevlm.tasks import Policy


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {
        "mono": tiny.mono(folder / "mono"),
        "eight": tiny.mono(folder / "eight", slots=8),
        "duo": tiny.duo(folder / "duo"),
        "silent": tiny.silent(folder / "silent"),
        "masked": tiny.duo(folder / "masked", pad="mask"),
    }


@pytest.fixture(scope="module")
def open_policy(bundles: dict[str, Path]) -> Iterator[Open]:
    opened = []

    def open_it(name: str, **more: Any) -> tuple[Policy, tiny.Counted]:
        counted = tiny.Counted()
        policy = Policy(open_bundle(bundles[name]), RuntimeOptions(intra_threads=1), engines=counted, **more)
        opened.append(policy)
        return policy, counted

    yield open_it
    for policy in opened:
        policy.close()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    created: list[Opened] = []

    def one(**args: Any) -> Opened:
        created.append(Opened(talker.chat(tmp_path / f"chat_{len(created)}", **args)))
        return created[-1]

    yield one
    for item in created:
        item.chat.close()
