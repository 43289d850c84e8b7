"""A hook sees what passes an engine and may change it, on both sides, at every stage and no other engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import tiny

from edgevlm.bundle import Bundle, open_bundle
from edgevlm.engines import Arrays, Hook, Host, hooked, open_engine
from edgevlm.options import RuntimeOptions

OPTIONS = RuntimeOptions(intra_threads=1)
PIXELS = {"pixels": np.ones((1, 3, 8, 8), np.float32)}


class Scaled(Hook):
    """Inputs times `before`, outputs times `after`."""

    def __init__(self, before: float = 1.0, after: float = 1.0) -> None:
        self.factors, self.passed = (before, after), list[tuple[str, str, float]]()

    def before(self, stage: str, inputs: Arrays) -> Arrays:
        self.passed.append(("before", stage, float(next(iter(inputs.values())).flat[0])))
        return {name: array * np.float32(self.factors[0]) for name, array in inputs.items()}

    def after(self, stage: str, inputs: Arrays, outputs: Arrays) -> Arrays:
        self.passed.append(("after", stage, float(next(iter(inputs.values())).flat[0])))
        return {name: array * np.float32(self.factors[1]) for name, array in outputs.items()}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(tiny.mono(tmp_path / "bundle"))


def vision(bundle: Bundle, *hooks: Hook) -> np.ndarray:  # type: ignore[type-arg]
    engines = open_engine
    for hook in hooks:
        engines = hooked(hook, engines)
    host = Host(engines(bundle, bundle.manifest.stages, OPTIONS))
    assert host.stages == tuple(bundle.manifest.stages)
    try:
        return host.run("vision", PIXELS)["features"]
    finally:
        host.close()


def test_a_hook_that_does_nothing_changes_nothing(bundle: Bundle) -> None:
    np.testing.assert_array_equal(vision(bundle, Hook()), vision(bundle))


def test_the_stage_gets_what_before_returns_and_the_caller_what_after_returns(bundle: Bundle) -> None:
    hook = Scaled(before=3.0, after=-2.0)
    host = Host(open_engine(bundle, ["vision"], OPTIONS))
    expected = host.run("vision", {"pixels": PIXELS["pixels"] * np.float32(3.0)})["features"] * np.float32(-2.0)
    np.testing.assert_array_equal(vision(bundle, hook), expected)
    assert hook.passed == [("before", "vision", 1.0), ("after", "vision", 3.0)]
    assert np.abs(expected - vision(bundle)).max() > 0.1


def test_hooks_nest_and_the_outer_one_is_first_before_and_last_after(bundle: Bundle) -> None:
    inner, outer = Scaled(before=3.0), Scaled(before=5.0, after=0.0)
    assert not vision(bundle, inner, outer).any()
    assert outer.passed == [("before", "vision", 1.0), ("after", "vision", 5.0)]
    assert inner.passed == [("before", "vision", 5.0), ("after", "vision", 15.0)]


def test_outputs_that_a_hook_leaves_alone_are_those_that_were_named(bundle: Bundle) -> None:
    into = {"features": np.zeros_like(vision(bundle))}
    watched = Host(hooked(Hook())(bundle, bundle.manifest.stages, OPTIONS))
    assert watched.run("vision", PIXELS, into)["features"] is into["features"]
    np.testing.assert_array_equal(into["features"], vision(bundle))
