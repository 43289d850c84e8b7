"""The TensorRT form of every stage is parsed and built ahead of time for SM86; it is not run: no GPU is used."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgevlm.bundle import Bundle, open_bundle
from edgevlm_export.report import ExportReport

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="needs pip install 'edgevlm[tensorrt-rtx]'"
)


def build(bundle: Bundle, name: str) -> Any:
    """The serialized engine of one stage."""
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    stage = bundle.manifest.stages[name]
    content = bundle.path(stage.forms["tensorrt"]).read_bytes()
    assert parser.parse(content), [str(parser.get_error(i)) for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    if stage.dynamic:
        profile = builder.create_optimization_profile()
        for port in stage.inputs:
            shapes = [[stage.dynamic[d][i] if isinstance(d, str) else d for d in port.shape] for i in range(3)]
            profile.set_shape(port.name, *shapes)
        config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_stage_builds_for_sm86(
    precision: str, hub_source: Path, photos: Path, traced: Callable[..., ExportReport], tmp_path: Path
) -> None:
    more = {"precision": precision, "calibration": photos} if precision == "int8" else {}
    traced(hub_source, tmp_path / "bundle", **more)
    bundle = open_bundle(tmp_path / "bundle")
    for name in bundle.manifest.stages:
        engine = build(bundle, name)
        assert engine is not None and engine.nbytes > 1000, name
