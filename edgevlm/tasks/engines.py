"""Opening every stage of a bundle, so that nothing stays open where one of them is refused."""

from __future__ import annotations

from contextlib import ExitStack

from edgevlm.backends import Backend, BackendFactory
from edgevlm.bundle import Bundle
from edgevlm.graph import Clock, Graph
from edgevlm.options import RuntimeOptions


def open_graph(
    bundle: Bundle, options: RuntimeOptions, backends: BackendFactory, clock: Clock, opened: ExitStack
) -> Graph:
    """The stages of `bundle` as a graph; `opened` closes each of them when it unwinds."""
    engines: dict[str, Backend] = {}
    for name in bundle.manifest.stages:
        engines[name] = backends(bundle, name, options)
        opened.callback(engines[name].close)
    return Graph(engines, clock)
