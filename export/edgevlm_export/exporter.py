"""Checkpoint -> bundle: trace, calibrate, quantize, reload, prove. The output appears only when all of it is done."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevlm.bundle import Bundle, new_directory, open_bundle, write_manifest, write_record
from edgevlm.errors import CalibrationError, FidelityError
from edgevlm.manifest.schema import FORMAT, CalibrationRef, FileEntry, Manifest, Precision, StageSpec
from edgevlm.profiler import machine
from edgevlm.rosmsg.state import Stamps
from edgevlm_calibration.onnx_models import DATA, LIMIT_BYTES, save_model
from edgevlm_calibration.progress import Progress, silent
from edgevlm_calibration.table import Table
from edgevlm_export.checkpoint import Checkpoint
from edgevlm_export.hub import resolve
from edgevlm_export.preflight import preflight
from edgevlm_export.quantization import QUANTIZERS
from edgevlm_export.quantization.base import Models, Quantizer, StageArtifact, single_file
from edgevlm_export.quantization.passes.forbidden import check_tensorrt
from edgevlm_export.recipes import ExportOptions, Recipe, open_recipe
from edgevlm_export.report import ExportReport, export_report
from edgevlm_export.stage_graph import TOKENIZER, StageGraph
from edgevlm_export.tracing.stitch import OPSET
from edgevlm_export.tracing.trace import trace

STAGES = "stages"
PACKAGES = ("torch", "transformers", "onnx", "onnxscript")


def export(  # noqa: PLR0913  # the options of the command line's main verb
    source: str | Path,
    output: Path,
    *,
    precision: Precision = "fp32",
    calibration: Path | None = None,
    topics: Path | None = None,
    stamps: Stamps = "header",
    texts: Path | None = None,
    samples: int = 256,
    robot: Path | None = None,
    context: int | None = None,
    limit_bytes: int = LIMIT_BYTES,
    progress: Progress = silent,
) -> ExportReport:
    """Export the checkpoint `source` to a bundle at `output`.

    Args:
        source: a directory, or (a text) the id of a model of the Hugging Face hub: "org/name", "org/name@revision".
        calibration: int8 needs it. For a policy a recording of the robot, or (*.json) a table made by `calibrate`; for
            a model of pictures and texts a folder of pictures. Its held-out part judges; without it made-up data.
        topics, stamps: how the recording of a policy is read, see `edgevlm.data.read_log`; topics is a YAML file.
        texts: a file with one text a line, for a model of pictures and texts.
        samples: steps of the recording, or pictures of the folder, to use.
        robot: what a LeRobot policy does not say of the robot.
        context: tokens that a chat shall hold; null for what is usual.
        limit_bytes: a stage with more weights has them in a file beside it.

    Raises:
        CheckpointError, FamilyError, ContractError: the source, or the robot file it needs.
        LogError, CalibrationError, PictureError: the recording, the table or the pictures.
        QuantizationError, FidelityError: nothing was quantized, or the bundle does not do what the source does.
        OutputError: the output cannot be written, or its place is taken.
    """
    quantizer = QUANTIZERS[precision]
    if quantizer.needs_table and calibration is None:
        raise CalibrationError(
            f"{precision}: expected a recording or a calibration table, got neither; pass --calib LOG.mcap"
        )
    checkpoint = resolve(source, progress)
    asked = ExportOptions(
        precision=precision, calibration=calibration, topics=topics, stamps=stamps, texts=texts, samples=samples
    )
    with new_directory(output) as work:
        job = Job(open_recipe(preflight(checkpoint, context, robot), asked), quantizer, work, progress, limit_bytes)
        models = job.prepare(job.trace())
        table = job.table(models)
        bundle, fidelity = job.proven(models, table)
        report = export_report(bundle, table.samples if table else 0, fidelity, job.recipe.warnings)
        return _recorded(report, bundle, table, checkpoint)


@dataclass(frozen=True)
class Job:
    """One export in its working directory."""

    recipe: Recipe
    quantizer: Quantizer
    work: Path
    progress: Progress
    limit_bytes: int = LIMIT_BYTES

    @property
    def graph(self) -> StageGraph:
        """The model, cut into stages."""
        return self.recipe.graph

    def trace(self) -> Models:
        """Every stage as an fp32 graph."""
        models = {}
        for done, stage in enumerate(self.graph.stages):
            self.progress("trace", done, len(self.graph.stages))
            models[stage.name] = trace(stage)
        self.progress("trace", len(models), len(models))
        return models

    def prepare(self, models: Models) -> Models:
        """The same functions, in a form that suits the precision better; what it is measured on is recorded."""
        if not self.quantizer.measured:
            return models
        return self.recipe.pre_quantize(self.quantizer, models, self.fp32_reference, self.progress)

    def table(self, models: Models) -> Table | None:
        """Ranges of these graphs, by way of their fp32 bundle, where the precision needs them."""
        if not self.quantizer.needs_table:
            return None
        with self.fp32_reference(models) as bundle:
            return self.recipe.table(bundle, self.progress)

    @contextmanager
    def fp32_reference(self, models: Models) -> Iterator[Bundle]:
        """The fp32 bundle of these graphs, for a while."""
        root = self.work / ".fp32"
        try:
            yield self.fp32(models, root)
        finally:
            shutil.rmtree(root, ignore_errors=True)

    def fp32(self, models: Models, root: Path) -> Bundle:
        """The fp32 bundle of these graphs, in a new directory `root`."""
        root.mkdir()
        return self._write(root, "fp32", {name: single_file(name, model, "fp32") for name, model in models.items()})

    def proven(self, models: Models, table: Table | None) -> tuple[Bundle, dict[str, Any]]:
        """The bundle that its judge accepts, and the figures.

        As long as the judge refuses it, the stage that was measured to keep least of its fp32 form goes back to that,
        with the reason; the last one does not, for nothing of the precision would be left.

        Raises:
            FidelityError: the judge accepts none.
        """
        precision, artifacts = self.quantizer.precision, self.compress(models, table)
        while True:
            bundle = self._write(self.work, precision, artifacts, table)
            try:
                return bundle, self.recipe.judge(bundle, self.progress)
            except FidelityError as error:
                cosines = {name: item.cosine for name, item in artifacts.items() if item.cosine is not None}
                if len(cosines) < 2:
                    raise
                weakest = min(cosines, key=lambda name: cosines[name])
                reason = (
                    f"{precision} keeps a cosine of {cosines[weakest]:.4f}, and the judge refused the whole: {error}"
                )
                artifacts[weakest] = single_file(weakest, models[weakest], "fp32", reason)
                _empty(self.work)

    def write(self, models: Models, table: Table | None) -> Bundle:
        """The bundle in the working directory, reopened from disk."""
        return self._write(self.work, self.quantizer.precision, self.compress(models, table), table)

    def compress(self, models: Models, table: Table | None) -> dict[str, StageArtifact]:
        """Every stage in the precision, or in fp32 where that costs too much."""
        artifacts = {}
        for done, (name, model) in enumerate(models.items()):
            self.progress("compress", done, len(models))
            stage = self.graph.stage(name)
            artifact = self.quantizer.quantize(stage, model, table)
            measured = self.quantizer.measured
            artifacts[name] = self.recipe.check(stage, model, artifact, table) if measured else artifact
        self.progress("compress", len(models), len(models))
        return artifacts

    def _write(
        self,
        root: Path,
        precision: Precision,
        artifacts: Mapping[str, StageArtifact],
        table: Table | None = None,
    ) -> Bundle:
        graph = self.graph
        (root / STAGES).mkdir()
        for name, item in artifacts.items():
            check_tensorrt(name, item.model("tensorrt"))
            for file, model in item.files.items():
                save_model(model, root / STAGES / file, self.limit_bytes)
        graph.write_files(root)

        def manifest(files: Mapping[str, FileEntry]) -> Manifest:
            return Manifest.build(
                format=FORMAT,
                family=graph.family,
                task=graph.task,
                precision=precision,
                driver=graph.driver,
                stages={name: self._spec(name, item, files) for name, item in artifacts.items()},
                preprocess=graph.preprocess,
                tokenizer=None if graph.tokenizer is None else TOKENIZER,
                **self.recipe.parts(),
                calibration=CalibrationRef(table_sha256=table.sha256(), samples=table.samples) if table else None,
                source_sha256=graph.source_sha256,
                files=files,
                extensions=graph.extensions,
            )

        write_manifest(root, manifest)
        return open_bundle(root)

    def _spec(self, name: str, artifact: StageArtifact, written: Mapping[str, FileEntry]) -> StageSpec:
        stage = self.graph.stage(name)
        data = [f"{STAGES}/{file}{DATA}" for file in artifact.files]
        return StageSpec(
            inputs=stage.inputs,
            outputs=stage.outputs,
            forms={form: f"{STAGES}/{file}" for form, file in artifact.forms.items()},
            data=tuple(path for path in data if path in written),
            opset=OPSET,
            precision=artifact.precision,
            reason=artifact.reason,
            quantized_nodes=artifact.quantized_nodes,
            frame_cache=stage.frame_cache,
            dynamic=stage.dynamic,
        )


def _empty(directory: Path) -> None:
    for item in directory.iterdir():
        if item.is_dir():
            shutil.rmtree(item)
        else:
            item.unlink()


def _recorded(report: ExportReport, bundle: Bundle, table: Table | None, checkpoint: Checkpoint) -> ExportReport:
    """The report, of which the records beside the bundle now tell."""
    write_record(bundle.root, "fidelity", report.fidelity)
    if table is not None:
        write_record(bundle.root, "calibration", table.to_json())
    tools = {name: importlib.metadata.version(name) for name in PACKAGES}
    origin = {"machine": machine(), "tools": tools, "opset": OPSET, "hub": checkpoint.origin}
    if kernels := report.to_json()["integer_kernels"]:
        origin["integer_kernels"] = kernels
    write_record(bundle.root, "export", origin)
    return report
