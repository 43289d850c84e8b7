"""How a bundle is run on this machine; recorded in every profile."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgevlm.manifest.contract import Spec


class RuntimeOptions(Spec):
    """Frozen and complete: nothing is filled in later.

    Attributes:
        engine: which engine runs the stages; "auto" takes the first installed one of a written order.
        form: which file of a stage is run; "auto" is the engine's own, "tensorrt" runs the TensorRT form elsewhere.
        intra_threads: threads inside one operator; 0 leaves it to the engine.
        spinning: engine threads busy-wait between operators: faster alone, harmful beside other processes.
        optimize: let the engine rewrite the graph; off only to compare forms bit by bit.
        affinity: CPU numbers for the engine's threads; empty leaves it to the system.
        run_limit_s: a run of a stage that takes longer is ended by the engine, with a EngineError.
    """

    engine: Literal["auto", "ort", "openvino"] = "auto"
    form: Literal["auto", "cpu", "tensorrt"] = "auto"
    intra_threads: int = Field(default=0, ge=0, le=1024)
    spinning: bool = False
    optimize: bool = True
    affinity: tuple[int, ...] = ()
    run_limit_s: float = Field(default=300.0, gt=0, le=86_400)
