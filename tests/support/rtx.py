"""TensorRT-RTX builds a stage ahead of time, where that package is installed; nothing runs on a GPU."""

from __future__ import annotations

from typing import Any

from edgevlm.bundle import Bundle


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
