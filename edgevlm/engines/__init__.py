"""Engines that run stages; which one is used is decided once, when a bundle is opened."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib.util import find_spec
from typing import NamedTuple

from edgevlm.bundle import Bundle
from edgevlm.engines import openvino, ort
from edgevlm.engines.base import DeviceTensor, Engine, EngineFactory, KernelCounter, Kernels, Tensors
from edgevlm.engines.hooks import Hook, HookedEngine
from edgevlm.engines.host import Arrays, Host, HostTensors, to_numpy
from edgevlm.errors import DependencyError, install
from edgevlm.options import RuntimeOptions


class Row(NamedTuple):
    """One engine: how it opens, how it runs quantized stages, the module that it needs and the extra that brings it."""

    open: EngineFactory
    kernels: KernelCounter
    module: str
    extra: str


# "auto" takes the first whose module is installed.
ENGINES: Mapping[str, Row] = {
    "ort": Row(ort.open_engine, ort.kernels, "onnxruntime", "cpu"),
    "openvino": Row(openvino.open_engine, openvino.kernels, "openvino", "openvino"),
}


def pick_engine(options: RuntimeOptions) -> str:
    """The engine that `options` mean on this machine.

    Raises:
        DependencyError: none is installed; the message names the extras.
    """
    if options.engine != "auto":
        return options.engine
    for name, row in ENGINES.items():
        if find_spec(row.module) is not None:
            return name
    extras = " or ".join(install(row.extra) for row in ENGINES.values())
    raise DependencyError(
        f"no engine is installed, one of {list(ENGINES)} is needed; install one from your clone of edgevlm: {extras}"
    )


def open_engine(bundle: Bundle, stages: Collection[str], options: RuntimeOptions) -> Engine:
    """These stages of `bundle` in the engine that `options` mean. Raises DependencyError, EngineError."""
    return ENGINES[pick_engine(options)].open(bundle, stages, options)


def quantized_kernels(bundle: Bundle, options: RuntimeOptions) -> dict[str, Kernels]:
    """How each int8 stage of `bundle` runs in the engine that `options` mean. Raises DependencyError, EngineError."""
    row = ENGINES[pick_engine(options)]
    stages = bundle.manifest.stages.items()
    return {name: row.kernels(bundle, name, options) for name, stage in stages if stage.precision == "int8"}


def hooked(hook: Hook, engines: EngineFactory = open_engine) -> EngineFactory:
    """As `engines`, under `hook`: a model opens with it by `engines=hooked(hook)`."""

    def open_hooked(bundle: Bundle, stages: Collection[str], options: RuntimeOptions) -> Engine:
        return HookedEngine(engines(bundle, stages, options), hook)

    return open_hooked


__all__ = [
    "ENGINES",
    "Arrays",
    "DeviceTensor",
    "Engine",
    "EngineFactory",
    "Hook",
    "HookedEngine",
    "Host",
    "HostTensors",
    "Kernels",
    "Row",
    "Tensors",
    "hooked",
    "open_engine",
    "pick_engine",
    "quantized_kernels",
    "to_numpy",
]
