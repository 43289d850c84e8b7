"""How every session of ONNX Runtime is made, and which kernels it really runs."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgevlm.engines.base import Kernels
from edgevlm.errors import EngineError, require
from edgevlm.onnx_file import OnnxFacts, OnnxNode, read_nodes
from edgevlm.options import RuntimeOptions

FATAL = 4  # what fails is raised; the engine's own lines would show names of the file to the terminal as they are

# Products of integers, and of floats.
_INTEGER = frozenset(
    {"QLinearMatMul", "QLinearConv", "QGemm", "MatMulInteger", "MatMulIntegerToFloat", "ConvInteger"}
    | {"DynamicQuantizeMatMul", "QAttention"}
)
_FLOAT = frozenset({"MatMul", "Gemm", "Conv", "FusedMatMul", "FusedGemm", "FusedConv", "Attention"})
_SAME_VALUES = frozenset({"Transpose", "Reshape", "Identity"})  # a dequantized weight may pass them


def open_session(model: Path | bytes, options: RuntimeOptions, facts: OnnxFacts, optimized: Path | None = None) -> Any:
    """A session of a file, or of a serialized graph, on the CPU. Raises EngineError, and what ONNX Runtime raises.

    Args:
        facts: of the graph.
        optimized: where to write the graph that the session runs.
    """
    ort = require("onnxruntime", extra="cpu")
    disabled = []
    if facts.computes_alone:
        disabled.append("ConstantFolding")  # such constants are then computed in a run, which ends; a load would not
    if ("", "DequantizeLinear") in facts.operators:
        # ONNX Runtime 1.22 and later fuse MatMul and Add to Gemm before they look for quantized MatMuls, and run none.
        disabled.append("MatMulAddFusion")
    chosen = _session_options(ort, options)
    if optimized is not None:
        chosen.optimized_model_filepath = str(optimized)
        beside = "session.optimized_model_external_initializers"
        chosen.add_session_config_entry(f"{beside}_file_name", f"{optimized.name}.weights")
        chosen.add_session_config_entry(f"{beside}_min_size_in_bytes", "1024")
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, chosen, ["CPUExecutionProvider"], disabled_optimizers=disabled)


def count_kernels(model: Path, options: RuntimeOptions, facts: OnnxFacts) -> Kernels:
    """How the products with quantized weights run, in the graph that ONNX Runtime makes of this file here.

    Raises as `open_session` does.
    """
    with tempfile.TemporaryDirectory(prefix="edgevlm-") as folder:
        optimized = Path(folder) / "optimized.onnx"
        open_session(model, options, facts, optimized)
        return kernels(*read_nodes(optimized))


def kernels(nodes: Sequence[OnnxNode], constants: frozenset[str]) -> Kernels:
    """The kernels of a graph's nodes, which are in the order in which they run."""
    integer = dequantized = 0
    weights: set[str] = set()
    for node in nodes:
        first = node.inputs[0] if node.inputs else ""
        if (node.operator == "DequantizeLinear" and first in constants) or (
            node.operator in _SAME_VALUES and first in weights
        ):
            weights.update(node.outputs)
        integer += node.operator in _INTEGER
        dequantized += node.operator in _FLOAT and not weights.isdisjoint(node.inputs)
    return Kernels(integer, dequantized)


def saturates() -> bool:
    """Whether this is an x86-64 without VNNI, whose 16-bit sums of uint8 x int8 products can overflow.

    ONNX Runtime then has exact kernels, which are slower; with VNNI they are not needed.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return True
    return not {"avx512_vnni", "avx_vnni"} & set(flags)


def _session_options(ort: Any, options: RuntimeOptions) -> Any:
    chosen = ort.SessionOptions()
    chosen.log_severity_level = FATAL
    chosen.intra_op_num_threads = options.intra_threads
    chosen.inter_op_num_threads = 1
    chosen.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    if not options.optimize:
        chosen.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    chosen.add_session_config_entry("session.intra_op.allow_spinning", "1" if options.spinning else "0")
    # Threads of a stage that has finished must not spin beside the next stage.
    chosen.add_session_config_entry("session.force_spinning_stop", "1")
    if saturates():
        chosen.add_session_config_entry("session.x64quantprecision", "1")
    if options.affinity:
        workers = len(options.affinity) - 1  # the calling thread is the first one
        if options.intra_threads != len(options.affinity):
            raise EngineError(
                f"options: expected one CPU in affinity for each of {options.intra_threads} intra_threads, "
                f"got {options.affinity}; give both the same number"
            )
        if workers:
            # ONNX Runtime counts processors from 1.
            groups = ";".join(str(cpu + 1) for cpu in options.affinity[1:])
            chosen.add_session_config_entry("session.intra_op_thread_affinities", groups)
    return chosen
