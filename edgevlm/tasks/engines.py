"""Opening what a bundle computes with: its stages, so that nothing stays open where one is refused; embeddings."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.backends import Backend, BackendFactory
from edgevlm.bundle import Bundle
from edgevlm.errors import BundleError
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


def open_embeddings(bundle: Bundle) -> NDArray[Any]:
    """The rows that a chat's decoder reads for its ids, mapped into memory. Raises BundleError, TaskError."""
    path = bundle.manifest.chat().args.embeddings
    try:
        rows: NDArray[Any] = np.load(bundle.path(path), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: expected a .npy file ({error}); export the bundle again") from error
    return rows
