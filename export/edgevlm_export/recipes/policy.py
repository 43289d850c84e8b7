"""A policy: calibrated on the robot's recording, judged in action space on held-out episodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import onnx

from edgevlm.bundle import Bundle
from edgevlm.data.base import Data
from edgevlm.data.synthetic import make_up
from edgevlm.errors import CalibrationError
from edgevlm_calibration.policy import POLICY, POLICY_PROBE, check_samples
from edgevlm_calibration.progress import Progress
from edgevlm_calibration.recordings import open_log
from edgevlm_calibration.runner import calibrate_on, record
from edgevlm_calibration.table import Table, load_table
from edgevlm_export.fidelity.policy import CheckpointReference
from edgevlm_export.fidelity.verify import compare
from edgevlm_export.prepared import Prepared
from edgevlm_export.quantization.forms import StageArtifact, policy_int8_stage
from edgevlm_export.recipes.base import BundleOf, ExportOptions, Models
from edgevlm_export.recipes.int8_cost import Feeds, even_channels, measured_int8
from edgevlm_export.stage_graph import PolicyGraph, Stage

TABLE_SUFFIX = ".json"
PROBE = 8  # steps on which int8 is measured


@dataclass(frozen=True)
class PolicyRecipe:
    """See `Recipe`.

    Attributes:
        given: a table made before by `edgevlm calibrate`, of the stages as they are.
        feeds: what the stages were given in fp32, which evening out does not change.
    """

    graph: PolicyGraph
    data: Data
    samples: int = 256
    given: Table | None = None
    feeds: dict[str, Feeds] = field(default_factory=dict)

    @classmethod
    def open(cls, prepared: Prepared, options: ExportOptions) -> PolicyRecipe:
        """Raises LogError and CalibrationError, before the weights are loaded."""
        contract, source = prepared.contract, options.calibration
        assert contract is not None
        if options.texts is not None:
            raise CalibrationError("--texts belongs to a model of pictures and texts; a recording has its own")
        given = load_table(source) if source and source.suffix == TABLE_SUFFIX else None
        log = source if given is None else None
        if options.topics is not None and log is None:
            raise CalibrationError("--topics maps the topics of a recording, got none; give --calib LOG.mcap")
        data = (
            make_up(contract, prepared.tokenizer)
            if log is None
            else open_log(log, contract, options.topics, options.stamps)
        )
        if options.precision == "int8" and log:
            check_samples(data.calibration, options.samples)
        return cls(cast(PolicyGraph, prepared.load()), data, options.samples, given)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was left out of a damaged recording."""
        return self.data.warnings

    def parts(self) -> dict[str, Any]:
        """The contract."""
        return {"contract": self.graph.contract}

    def pre_quantize(self, models: Models, fp32: BundleOf, progress: Progress) -> Models:
        """Evened out; as they are where the adapter chooses (docs/decisions/0009), or a table of them is at hand."""
        if self.graph.own_choice:
            return models
        with fp32(models) as bundle:
            self.feeds.update(record(bundle, self.data, POLICY_PROBE, PROBE))
        return models if self.given else even_channels(models, self.feeds, progress)

    def table(self, bundle: Bundle, progress: Progress) -> Table:
        """The table at hand if it is of this model, else a new one."""
        if self.given is None:
            return calibrate_on(bundle, self.data, POLICY, samples=self.samples, progress=progress)
        if self.given.bundle_sha256 != bundle.sha256:
            raise CalibrationError(
                f"calibration table: expected one of the fp32 bundle {bundle.sha256[:16]}, got "
                f"one of {self.given.bundle_sha256[:16]}; export this checkpoint in fp32 with this version "
                "and calibrate again"
            )
        return self.given

    def int8(self, stage: Stage, model: onnx.ModelProto, table: Table) -> StageArtifact:
        """Where it keeps what the stage puts out; by the adapter's choice all but what runs once per instruction."""
        if not self.graph.own_choice:
            return measured_int8(stage, model, table, self.feeds[stage.name])
        return policy_int8_stage(self.graph, stage, model, table)

    def judge(self, bundle: Bundle, progress: Progress) -> dict[str, Any]:
        """Chunks and plans, in the units of the robot."""
        return compare(bundle, CheckpointReference(self.graph), self.data, progress)
