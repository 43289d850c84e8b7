"""Checkpoint -> bundle: trace, calibrate, quantize, reload, prove. The output appears only when all of it is done."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from edgevlm.bundle import Bundle, new_directory, open_bundle, write_manifest, write_record
from edgevlm.errors import CalibrationError
from edgevlm.manifest import FORMAT, CalibrationRef, FileEntry, Manifest, Precision, StageSpec
from edgevlm.profiler import machine
from edgevlm_calibration.calibrate import calibrate_on, check_samples
from edgevlm_calibration.progress import Progress, silent
from edgevlm_calibration.sources import Data, make_up, open_log
from edgevlm_calibration.table import Table, load_table
from edgevlm_export.families import build
from edgevlm_export.judge import OriginalJudge
from edgevlm_export.report import ExportReport, stage_reports
from edgevlm_export.stage_graph import StageGraph
from edgevlm_export.stages import Made, float_stage, int8_stage
from edgevlm_export.trace import OPSET, trace
from edgevlm_export.verify import compare

STAGES, TOKENIZER = "stages", "tokenizer.json"
TABLE_SUFFIX = ".json"
PACKAGES = ("torch", "onnx", "onnxscript")

Models = Mapping[str, onnx.ModelProto]


def export(  # noqa: PLR0913  # the options of the command line's main verb
    source: Path,
    output: Path,
    *,
    precision: Precision = "fp32",
    calibration: Path | None = None,
    topics: Path | None = None,
    samples: int = 256,
    progress: Progress = silent,
) -> ExportReport:
    """Export the checkpoint directory `source` to a bundle at `output`.

    Args:
        calibration: a recording of the robot, or (*.json) a table made by `calibrate`; int8 needs one. With a
            recording the bundle is judged on its held-out episodes, else on made-up ones, and the record says so.
        topics: YAML that maps the recording's topics to the contract.
        samples: steps of the recording to calibrate on.

    Raises:
        CheckpointError, FamilyError: the source.
        LogError, CalibrationError: the recording or the table.
        QuantizationError: nothing was quantized, or an engine would refuse the graph.
        FidelityError: the bundle does not do what the source does.
        OutputError: the output cannot be written, or its place is taken.
    """
    if precision == "int8" and calibration is None:
        raise CalibrationError("int8: expected a recording or a calibration table, got neither; pass --calib LOG.mcap")
    graph = build(source)
    given = load_table(calibration) if calibration and calibration.suffix == TABLE_SUFFIX else None
    with new_directory(output) as work:
        log = calibration if given is None else None
        data = open_log(log, graph.contract, topics) if log else make_up(graph.contract, graph.tokenizer)
        if precision == "int8" and log:
            check_samples(data.calibration, samples)
        job = Job(graph, work, data, progress)
        models = job.trace()
        table = job.table(models, given, samples) if precision == "int8" else None
        bundle = job.write(precision, models, table)
        fidelity = compare(bundle, OriginalJudge(graph), data, progress)
        _write_records(bundle, fidelity, table)
    return ExportReport(
        bundle_sha256=bundle.sha256,
        family=graph.family,
        precision=precision,
        stages=stage_reports(bundle.manifest),
        samples=table.samples if table else 0,
        fidelity=fidelity,
        warnings=data.warnings,
    )


@dataclass(frozen=True)
class Job:
    """One export in its working directory."""

    graph: StageGraph
    work: Path
    data: Data
    progress: Progress

    def trace(self) -> Models:
        """Every stage as an fp32 graph."""
        models = {}
        for done, stage in enumerate(self.graph.stages):
            self.progress("trace", done, len(self.graph.stages))
            models[stage.name] = trace(stage)
        self.progress("trace", len(models), len(models))
        return models

    def table(self, models: Models, given: Table | None, samples: int) -> Table:
        """The table at hand if it is of this model, else a new one; both belong to the fp32 bundle of these graphs."""
        root = self.work / ".fp32"
        try:
            bundle = self.fp32(models, root)
            if given is None:
                return calibrate_on(bundle, self.data, samples=samples, progress=self.progress)
            if given.bundle_sha256 != bundle.sha256:
                raise CalibrationError(
                    f"calibration table: expected one of the fp32 bundle {bundle.sha256[:16]}, got "
                    f"one of {given.bundle_sha256[:16]}; export this checkpoint in fp32 with this version "
                    "and calibrate again"
                )
            return given
        finally:
            shutil.rmtree(root, ignore_errors=True)

    def fp32(self, models: Models, root: Path) -> Bundle:
        """The fp32 bundle of these graphs, in a new directory `root`."""
        root.mkdir()
        made = {name: float_stage(self.graph.stage(name), model, "fp32") for name, model in models.items()}
        return self._write(root, "fp32", made, None)

    def write(self, precision: Precision, models: Models, table: Table | None) -> Bundle:
        """The bundle of this precision in the working directory, reopened from disk."""
        made = {}
        for done, (name, model) in enumerate(models.items()):
            self.progress("compress", done, len(models))
            stage = self.graph.stage(name)
            made[name] = int8_stage(self.graph, stage, model, table) if table else float_stage(stage, model, precision)
        self.progress("compress", len(models), len(models))
        return self._write(self.work, precision, made, table)

    def _write(self, root: Path, precision: Precision, made: Mapping[str, Made], table: Table | None) -> Bundle:
        graph = self.graph
        (root / STAGES).mkdir()
        for item in made.values():
            for name, model in item.files.items():
                onnx.save(model, root / STAGES / name)
        shutil.copyfile(graph.tokenizer, root / TOKENIZER)

        def manifest(files: Mapping[str, FileEntry]) -> Manifest:
            return Manifest(
                format=FORMAT,
                family=graph.family,
                task=graph.task,
                precision=precision,
                driver=graph.driver,
                stages={name: self._spec(name, item) for name, item in made.items()},
                preprocess=graph.preprocess,
                tokenizer=TOKENIZER,
                contract=graph.contract,
                calibration=CalibrationRef(table_sha256=table.sha256(), samples=table.samples) if table else None,
                source_sha256=graph.source_sha256,
                files=files,
                extensions=graph.extensions,
            )

        write_manifest(root, manifest)
        return open_bundle(root)

    def _spec(self, name: str, made: Made) -> StageSpec:
        stage = self.graph.stage(name)
        return StageSpec(
            inputs=stage.inputs,
            outputs=stage.outputs,
            forms={form: f"{STAGES}/{file}" for form, file in made.forms.items()},
            opset=OPSET,
            precision=made.precision,
            reason=made.reason,
            quantized_nodes=made.quantized_nodes,
            frame_cache=stage.frame_cache,
            dynamic=stage.dynamic,
        )


def _write_records(bundle: Bundle, fidelity: Mapping[str, object], table: Table | None) -> None:
    write_record(bundle.root, "fidelity", fidelity)
    if table is not None:
        write_record(bundle.root, "calibration", table.to_json())
    tools = {name: importlib.metadata.version(name) for name in PACKAGES}
    write_record(bundle.root, "export", {"machine": machine(), "tools": tools, "opset": OPSET})
