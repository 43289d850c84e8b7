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
from edgevlm_calibration.progress import Progress, silent
from edgevlm_calibration.table import Table
from edgevlm_export.courses import Course, ExportOptions, Models, open_course
from edgevlm_export.families import build
from edgevlm_export.report import ExportReport, stage_reports
from edgevlm_export.stage_graph import StageGraph
from edgevlm_export.stages import Made, float_stage
from edgevlm_export.trace import OPSET, trace

STAGES, TOKENIZER = "stages", "tokenizer.json"
PACKAGES = ("torch", "transformers", "onnx", "onnxscript")


def export(  # noqa: PLR0913  # the options of the command line's main verb
    source: Path,
    output: Path,
    *,
    precision: Precision = "fp32",
    calibration: Path | None = None,
    topics: Path | None = None,
    texts: Path | None = None,
    samples: int = 256,
    progress: Progress = silent,
) -> ExportReport:
    """Export the checkpoint directory `source` to a bundle at `output`.

    Args:
        calibration: int8 needs it. For a policy a recording of the robot, or (*.json) a table made by `calibrate`; for
            a model of pictures and texts a folder of pictures. Its held-out part judges; without it made-up data.
        topics: YAML that maps the recording's topics to the contract of a policy.
        texts: a file with one text a line, for a model of pictures and texts.
        samples: steps of the recording, or pictures of the folder, to use.

    Raises:
        CheckpointError, FamilyError: the source.
        LogError, CalibrationError, PictureError: the recording, the table or the pictures.
        QuantizationError: nothing was quantized, or an engine would refuse the graph.
        FidelityError: the bundle does not do what the source does.
        OutputError: the output cannot be written, or its place is taken.
    """
    if precision == "int8" and calibration is None:
        raise CalibrationError("int8: expected a recording or a calibration table, got neither; pass --calib LOG.mcap")
    graph = build(source)
    asked = ExportOptions(precision=precision, calibration=calibration, topics=topics, texts=texts, samples=samples)
    with new_directory(output) as work:
        course = open_course(graph, asked)
        job = Job(course, work, progress)
        models = job.trace()
        if precision == "int8":
            models = course.before_int8(models, progress)
        table = job.table(models) if precision == "int8" else None
        bundle = job.write(precision, models, table)
        fidelity = course.judge(bundle, progress)
        _write_records(bundle, fidelity, table)
    return ExportReport(
        bundle_sha256=bundle.sha256,
        family=graph.family,
        precision=precision,
        stages=stage_reports(bundle.manifest),
        samples=table.samples if table else 0,
        fidelity=fidelity,
        warnings=course.warnings,
    )


@dataclass(frozen=True)
class Job:
    """One export in its working directory."""

    course: Course
    work: Path
    progress: Progress

    @property
    def graph(self) -> StageGraph:
        """The model, cut into stages."""
        return self.course.graph

    def trace(self) -> Models:
        """Every stage as an fp32 graph."""
        models = {}
        for done, stage in enumerate(self.graph.stages):
            self.progress("trace", done, len(self.graph.stages))
            models[stage.name] = trace(stage)
        self.progress("trace", len(models), len(models))
        return models

    def table(self, models: Models) -> Table:
        """Ranges of these graphs, by way of their fp32 bundle."""
        root = self.work / ".fp32"
        try:
            return self.course.table(self.fp32(models, root), self.progress)
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
            made[name] = self.course.int8(stage, model, table) if table else float_stage(stage, model, precision)
        self.progress("compress", len(models), len(models))
        return self._write(self.work, precision, made, table)

    def _write(self, root: Path, precision: Precision, made: Mapping[str, Made], table: Table | None) -> Bundle:
        graph = self.graph
        (root / STAGES).mkdir()
        for item in made.values():
            for name, model in item.files.items():
                onnx.save(model, root / STAGES / name)
        if isinstance(graph.tokenizer, Path):
            shutil.copyfile(graph.tokenizer, root / TOKENIZER)
        else:
            (root / TOKENIZER).write_text(graph.tokenizer, encoding="utf-8")

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
                **self.course.parts(),
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
