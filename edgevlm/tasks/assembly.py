"""Opening what a bundle computes with: its stages, so that nothing stays open where one is refused; embeddings."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from numpy.typing import NDArray

from edgevlm.bounded import map_numbers
from edgevlm.bundle import Bundle
from edgevlm.drivers import ChatDriver, DecoderDriver, DenoiseDriver, FuseDriver, PolicyDriver, Seq2SeqDriver
from edgevlm.engines import EngineFactory, Host
from edgevlm.errors import BundleError
from edgevlm.graph import Clock, Graph
from edgevlm.manifest.drivers import KVDecoderSpec, Seq2SeqSpec
from edgevlm.manifest.schema import DenoiseArgs
from edgevlm.onnx_numbers import check_rows
from edgevlm.options import RuntimeOptions


def open_graph(
    bundle: Bundle, options: RuntimeOptions, engines: EngineFactory, clock: Clock, resources: ExitStack
) -> Graph:
    """The stages of `bundle` as a graph; `resources` closes their engine when it unwinds."""
    host = Host(engines(bundle, bundle.manifest.stages, options))
    resources.callback(host.close)
    return Graph(host, clock)


def open_policy_driver(bundle: Bundle, graph: Graph) -> PolicyDriver:
    """The loop that a policy's manifest names. Raises BundleError."""
    args = bundle.manifest.policy().args
    if isinstance(args, DenoiseArgs):
        return DenoiseDriver(bundle.manifest, graph, open_rows(bundle, args.embeddings))
    return FuseDriver(bundle.manifest, graph)


def open_driver(bundle: Bundle, graph: Graph) -> ChatDriver:
    """The loop of a chat over its opened stages. Raises BundleError, TaskError."""
    embeddings = open_rows(bundle, bundle.manifest.loop(KVDecoderSpec).embeddings)
    if isinstance(bundle.manifest.driver, Seq2SeqSpec):
        return Seq2SeqDriver(bundle.manifest, graph, embeddings)
    return DecoderDriver(bundle.manifest, graph, embeddings)


def open_rows(bundle: Bundle, path: str) -> NDArray[Any]:
    """The rows that a decoder reads for its ids, mapped into memory. Raises BundleError."""
    try:
        rows = map_numbers(bundle.path(path))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: expected a .npy file ({error}); export the bundle again") from error
    check_rows(bundle.path(path), rows)
    return rows
