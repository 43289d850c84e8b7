"""A bundle beside its judge, for all tasks but policies: what their judges share.

The judge is the original model, or another bundle. Every form is asked the same, each engine run is compared with the
judge's stage, what is wrong on purpose must move the answer, and the two int8 forms must agree bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from edgevlm.bundle import MANIFEST, Bundle, open_bundle
from edgevlm.engines import Arrays, hooked, open_engine
from edgevlm.errors import FidelityError
from edgevlm.manifest.schema import Task
from edgevlm.options import RuntimeOptions
from edgevlm_calibration.progress import Progress
from edgevlm_calibration.runner import OpenModel, each
from edgevlm_export.families import build
from edgevlm_export.fidelity.controls import ControlFigures
from edgevlm_export.fidelity.form_equivalence import compare_forms, differing_forms
from edgevlm_export.fidelity.metrics import StageMeter, rows
from edgevlm_export.fidelity.probe import Probe
from edgevlm_export.stage_graph import StageGraph, stage_outputs

OPTIONS = RuntimeOptions(engine="ort", intra_threads=1, spinning=False)

Model = TypeVar("Model")
Said = TypeVar("Said")
Graph = TypeVar("Graph", bound=StageGraph)


class Reference(Protocol):
    """Who says what the right answer is."""

    @property
    def kind(self) -> str:
        """checkpoint or bundle"""
        ...

    @property
    def sha256(self) -> str: ...

    def stage(self, name: str, inputs: Arrays) -> Arrays | None:
        """What a stage should put out; None where only the whole answer is compared."""
        ...


class OfCheckpoint(Generic[Graph]):
    """A judge that is the PyTorch model."""

    kind = "checkpoint"

    def __init__(self, graph: Graph) -> None:
        self.sha256, self.graph = graph.source_sha256, graph

    def stage(self, name: str, inputs: Arrays) -> Arrays | None:
        """The stage's module in PyTorch on the same inputs."""
        return stage_outputs(self.graph.stage(name), inputs)


class OfBundle(Generic[Model]):
    """A judge that is another bundle, through the runtime."""

    kind = "bundle"

    def __init__(self, bundle: Bundle, model: Model) -> None:
        self.sha256, self.model = bundle.sha256, model

    def stage(self, name: str, inputs: Arrays) -> Arrays | None:
        """Not compared: the whole answer is."""
        return None


@dataclass(frozen=True)
class Comparison(Generic[Model, Said]):
    """What is asked and measured.

    Attributes:
        name: of the table in the figures.
        open: a bundle, with these engines, as a model.
        ask: everything that is compared.
        figures: an answer beside the right one.
        controls: what is wrong on purpose, of a model that gave this answer.
        visits: a few questions, to compare the forms of int8 bit by bit.
    """

    name: str
    open: OpenModel[Model]
    ask: Callable[[Model], Said]
    figures: Callable[[Said], dict[str, Any]]
    controls: Callable[[Model, Said], tuple[ControlFigures, ...]]
    visits: Sequence[Callable[[Model], object]]


def compare(
    bundle: Bundle,
    judge: Reference,
    comparison: Comparison[Model, Said],
    data: Mapping[str, Any],
    progress: Progress,
) -> tuple[dict[str, Any], tuple[ControlFigures, ...]]:
    """(the figures of an opened bundle, the controls among them); `data` tells on what they were measured.

    Raises:
        FidelityError: the forms differ.
    """
    forms = differing_forms(bundle)
    stages, compared = [], []
    controls: tuple[ControlFigures, ...] = ()
    for done, form in enumerate(forms):
        progress("verify", done, len(forms))
        meter, options = StageMeter(), OPTIONS.model_copy(update={"form": form})
        with comparison.open(bundle, options, engines=hooked(Probe(meter, judge.stage))) as model:
            said = comparison.ask(model)
        stages += rows(meter.figures(form))
        compared.append({"form": form, **comparison.figures(said)})
        if not controls:
            with comparison.open(bundle, options, engines=open_engine) as model:
                controls = comparison.controls(model, said)
    progress("verify", len(forms), len(forms))
    visit = each(lambda model, question: question(model))
    bits = compare_forms(bundle, comparison.open, visit, comparison.visits) if len(forms) > 1 else None
    figures = {
        "against": {"kind": judge.kind, "sha256": judge.sha256},
        "data": data,
        "stages": stages,
        comparison.name: compared,
        "controls": [{**asdict(control), "passed": control.passed} for control in controls],
        "forms_bit_equal": bits,
        "options": OPTIONS.model_dump(mode="json"),
    }
    return figures, controls


def is_exact(bundle: Bundle, judge: Reference) -> bool:
    """Whether the two may differ by rounding alone."""
    return bundle.manifest.precision == "fp32" and judge.kind == "checkpoint"


def open_source(against: Path, graphs: type[Graph], task: Task) -> Graph | Bundle:
    """What a bundle is compared with: a checkpoint directory's graph of its own task, or another bundle.

    Raises:
        BundleError, CheckpointError, FamilyError: something does not open.
        FidelityError: the checkpoint is of another task.
    """
    if (against / MANIFEST).is_file():
        return open_bundle(against)
    graph = build(against)
    if not isinstance(graph, graphs):
        raise FidelityError(f"{against}: expected a {task}'s checkpoint, got a {graph.task}; compare like with like")
    return graph
