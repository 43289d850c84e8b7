"""A policy: calibrated on the robot's recording, judged in action space on held-out episodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import onnx
from numpy.typing import NDArray

from edgevlm.bundle import Bundle
from edgevlm.data.base import Data
from edgevlm.data.synthetic import make_up
from edgevlm.errors import CalibrationError
from edgevlm.text import Tokenizer
from edgevlm_calibration.hooks import Feeds
from edgevlm_calibration.policy import POLICY, POLICY_PROBE, check_samples
from edgevlm_calibration.progress import Progress
from edgevlm_calibration.recordings import open_log
from edgevlm_calibration.runner import calibrate_on, record
from edgevlm_calibration.table import Split, Table, load_table
from edgevlm_export.fidelity.metrics import cosine
from edgevlm_export.fidelity.policy import CheckpointReference
from edgevlm_export.fidelity.verify import compare
from edgevlm_export.prepared import Prepared
from edgevlm_export.quantization import QUANTIZERS
from edgevlm_export.quantization.base import Models, Quantizer, StageArtifact, outputs, single_file
from edgevlm_export.quantization.cost import keep_or_fp32
from edgevlm_export.recipes.base import BundleOf, ExportOptions
from edgevlm_export.stage_graph import PolicyGraph, Stage

TABLE_SUFFIX = ".json"
PROBE = 8  # steps on which a precision is measured


@dataclass(frozen=True)
class PolicyRecipe:
    """See `Recipe`.

    Attributes:
        earlier: a table by `edgevlm calibrate`, of the stages as they are.
        feeds: the inputs of the stages in fp32, which no preparation changes.
    """

    graph: PolicyGraph
    data: Data
    samples: int = 256
    earlier: Table | None = None
    feeds: Feeds = field(default_factory=dict)

    @classmethod
    def open(cls, prepared: Prepared, options: ExportOptions) -> PolicyRecipe:
        """Raises LogError and CalibrationError, before the weights are loaded."""
        contract, source = prepared.contract, options.calibration
        assert contract is not None
        if options.texts is not None:
            raise CalibrationError("--texts belongs to a model of pictures and texts; a recording has its own")
        earlier = load_table(source) if source and source.suffix == TABLE_SUFFIX else None
        log = source if earlier is None else None
        if options.topics is not None and log is None:
            raise CalibrationError("--topics maps the topics of a recording, got none; give --calib LOG.mcap")
        data = (
            make_up(contract, prepared.tokenizer)
            if log is None
            else open_log(log, contract, options.topics, options.stamps)
        )
        if log and QUANTIZERS[options.precision].needs_table:
            check_samples(data.calibration, options.samples)
        return cls(cast(PolicyGraph, prepared.load()), data, options.samples, earlier)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was left out of a damaged recording."""
        return self.data.warnings

    def parts(self) -> dict[str, Any]:
        """The contract."""
        return {"contract": self.graph.contract}

    def pre_quantize(self, quantizer: Quantizer, models: Models, fp32: BundleOf, progress: Progress) -> Models:
        """As they are where the adapter chooses (docs/decisions/0009), or a table of them is at hand."""
        if self.graph.own_choice:
            return models
        with fp32(models) as bundle:
            self.feeds.update(record(bundle, self.data, POLICY_PROBE, PROBE))
        return models if self.earlier else quantizer.prepare(models, self.feeds, progress)

    def table(self, bundle: Bundle, progress: Progress) -> Table:
        """The table at hand if it is of this model, else a new one."""
        if self.earlier is None:
            return calibrate_on(bundle, self.data, POLICY, samples=self.samples, progress=progress)
        if self.earlier.bundle_sha256 != bundle.sha256:
            raise CalibrationError(
                f"calibration table: expected one of the fp32 bundle {bundle.sha256[:16]}, got "
                f"one of {self.earlier.bundle_sha256[:16]}; export this checkpoint in fp32 with this version "
                "and calibrate again"
            )
        return self.earlier

    def check(
        self, stage: Stage, model: onnx.ModelProto, artifact: StageArtifact, table: Table | None
    ) -> StageArtifact:
        """By what the stage puts out; by the adapter's choice all but what runs once per instruction is kept."""
        if not self.graph.own_choice:
            return keep_or_fp32(stage, model, artifact, self.feeds[stage.name])
        if table and stage.frame_cache == "instruction" and {port.kind for port in stage.inputs} <= {"ids", "mask"}:
            return single_file(stage.name, model, "fp32", self._text_reason(stage, model, artifact, table))
        return artifact

    def _text_reason(self, stage: Stage, model: onnx.ModelProto, artifact: StageArtifact, table: Table) -> str:
        """What the precision would cost and gain in a stage that runs once per instruction: measured, not believed."""
        graph, split = self.graph, table.split
        assert graph.tokenizer is not None and graph.contract.instruction is not None  # a stage of words reads words
        assert isinstance(split, Split)
        tokenizer = Tokenizer(graph.tokenizer, graph.contract.instruction)
        encoded = [tokenizer.encode(text) for text in sorted({episode.instruction for episode in split.calibration})]
        kinds = {port.kind: port.name for port in stage.inputs}
        inputs: list[dict[str, NDArray[Any]]] = [{kinds["ids"]: ids, kinds["mask"]: mask} for ids, mask in encoded]
        worst = min(map(cosine, outputs(model, inputs), outputs(artifact.model("cpu"), inputs)))
        return (
            f"runs once per instruction: {table.stage_runs.get(stage.name, 0)} times in {table.samples} calibration "
            f"steps, so {artifact.precision} would save next to nothing and change its output (worst cosine "
            f"{worst:.5f} over {len(inputs)} instructions)"
        )

    def judge(self, bundle: Bundle, progress: Progress) -> dict[str, Any]:
        """Chunks and plans, in the units of the robot."""
        return compare(bundle, CheckpointReference(self.graph), self.data, progress)
