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
from edgevlm.manifest.drivers import DenoiseArgs, Seq2SeqArgs
from edgevlm.manifest.schema import ChatManifest, PolicyManifest
from edgevlm.onnx_numbers import check_rows
from edgevlm.options import RuntimeOptions


def open_graph(
    bundle: Bundle, options: RuntimeOptions, engines: EngineFactory, clock: Clock, resources: ExitStack
) -> Graph:
    """The stages of `bundle` as a graph; `resources` closes their engine when it unwinds."""
    host = Host(engines(bundle, bundle.manifest.stages, options))
    resources.callback(host.close)
    return Graph(host, clock)


def open_policy_driver(bundle: Bundle, manifest: PolicyManifest, graph: Graph) -> PolicyDriver:
    """The loop that a policy's manifest names. Raises BundleError."""
    args = manifest.driver.args
    if isinstance(args, DenoiseArgs):
        return DenoiseDriver(args, manifest, graph, open_rows(bundle, args.embeddings))
    return FuseDriver(args, manifest, graph)


def open_chat_driver(bundle: Bundle, manifest: ChatManifest, graph: Graph) -> ChatDriver:
    """The loop of a chat over its opened stages. Raises BundleError."""
    args = manifest.driver.args
    embeddings = open_rows(bundle, args.embeddings)
    if isinstance(args, Seq2SeqArgs):
        return Seq2SeqDriver(args, manifest.stages, graph, embeddings)
    return DecoderDriver(args, manifest.stages, graph, embeddings)


def open_rows(bundle: Bundle, path: str) -> NDArray[Any]:
    """The rows that a decoder reads for its ids, mapped into memory. Raises BundleError."""
    try:
        rows = map_numbers(bundle.path(path))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: expected a .npy file ({error}); export the bundle again") from error
    check_rows(bundle.path(path), rows)
    return rows
