"""Engines that run stages; which one is used is decided once, when a bundle is opened."""

from __future__ import annotations

from importlib.util import find_spec

from edgevlm.bundle import Bundle
from edgevlm.engines.base import Engine, EngineFactory
from edgevlm.engines.ort import OrtEngine
from edgevlm.errors import DependencyError, install
from edgevlm.options import RuntimeOptions

# engine -> (module it needs, extra that brings it); "auto" takes the first whose module is installed.
ENGINES = {"ort": ("onnxruntime", "cpu")}


def pick_engine(options: RuntimeOptions) -> str:
    """The engine that `options` mean on this machine.

    Raises:
        DependencyError: none is installed; the message names the extras.
    """
    if options.engine != "auto":
        return options.engine
    for name, (module, _) in ENGINES.items():
        if find_spec(module) is not None:
            return name
    extras = " or ".join(install(extra) for _, extra in ENGINES.values())
    raise DependencyError(
        f"no engine is installed, one of {list(ENGINES)} is needed; install one from your clone of edgevlm: {extras}"
    )


def open_engine(bundle: Bundle, stage: str, options: RuntimeOptions) -> Engine:
    """One stage of `bundle` in the engine that `options` mean; `ort` is the only one in this version."""
    assert pick_engine(options) == "ort"
    return OrtEngine(bundle, stage, options)


__all__ = ["ENGINES", "Engine", "EngineFactory", "OrtEngine", "open_engine", "pick_engine"]
