"""Does a bundle do what its source does? Measured through the runtime, in the units of the robot.

The bundle is opened from disk and driven by the runtime's own policy over held-out episodes, beside a judge: the
original PyTorch model in one native forward, or another bundle. Negative controls must move the actions by far more
than the bundle is off; the two int8 forms must agree bit for bit when the engine rewrites nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle import MANIFEST, Bundle, open_bundle
from edgevlm.data.base import Data, Episode
from edgevlm.data.synthetic import make_up
from edgevlm.engines import EngineFactory, hooked
from edgevlm.errors import ContractError, FidelityError
from edgevlm.manifest.contract import Observation
from edgevlm.manifest.schema import Form, PolicyManifest, Task
from edgevlm.options import RuntimeOptions
from edgevlm.rosmsg.state import Stamps
from edgevlm.tasks.policy import Policy, Session
from edgevlm_calibration.policy import play
from edgevlm_calibration.policy import steps as evenly
from edgevlm_calibration.progress import Progress, silent
from edgevlm_calibration.recordings import open_held_out, split_data
from edgevlm_calibration.sampling import evenly_spaced
from edgevlm_export.families import build
from edgevlm_export.fidelity.chat import verify_chat
from edgevlm_export.fidelity.controls import ControlFigures, ShuffledFeatures, control_figures, twists
from edgevlm_export.fidelity.detector import verify_detector
from edgevlm_export.fidelity.form_equivalence import compare_forms, differing_forms
from edgevlm_export.fidelity.metrics import ActionMeter, StageMeter, rows
from edgevlm_export.fidelity.policy import BundleReference, CheckpointReference, Decision, PolicyReference, decision
from edgevlm_export.fidelity.probe import Probe
from edgevlm_export.fidelity.retriever import verify_retriever
from edgevlm_export.fidelity.scorer import verify_scorer
from edgevlm_export.hub import resolve
from edgevlm_export.stage_graph import PolicyGraph

STEPS = 200  # compared in all, evenly over the held-out episodes
FORM_STEPS = 12  # compared bit by bit
STAGE_RUNS, STAGE_EVERY = 32, 4  # of each stage the first runs are compared, then one in so many
FP32_LIMIT = 1e-3  # largest normalized action error of an fp32 bundle; rounding alone stays below 1e-5
OPTIONS = RuntimeOptions(engine="ort", intra_threads=1, spinning=False)

# task -> what verifies it; a policy alone has recordings, topics and a robot file
VERIFIERS: Mapping[Task, Callable[[Bundle, Path, Path | None, Progress], dict[str, Any]]] = {
    "retriever": verify_retriever,
    "scorer": verify_scorer,
    "detector": verify_detector,
    "chat": verify_chat,
}


def verify(  # noqa: PLR0913  # the options of the command line's verb
    bundle: Path,
    *,
    against: str | Path,
    data: Path | None = None,
    topics: Path | None = None,
    stamps: Stamps | None = None,
    robot: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """The figures of `bundle` against a checkpoint or another bundle.

    `against` is a directory, or (a text) the id of a model of the Hugging Face hub, as an export takes it; a LeRobot
    checkpoint needs the robot file that the bundle was made with. Without `stamps` a recording is read as the bundle's
    export read its own. Without `data` the episodes are made up from the
    contract, and the figures say so.

    Raises:
        BundleError, CheckpointError, FamilyError, LogError: something does not open.
        ContractError: the two have different contracts.
        FidelityError: the bundle is off, a control did not move the actions, or the forms differ.
    """
    opened = open_bundle(bundle)
    against = resolve(against, progress).path
    if opened.manifest.task in VERIFIERS:
        return VERIFIERS[opened.manifest.task](opened, against, data, progress)
    judge: PolicyReference
    if (against / MANIFEST).is_file():
        judge = BundleReference(open_bundle(against), OPTIONS)
    else:
        judge = CheckpointReference(_policy(against, robot))
    return compare(opened, judge, _data(opened, data, topics, stamps), progress)


def _policy(checkpoint: Path, robot: Path | None) -> PolicyGraph:
    graph = build(checkpoint, robot=robot)
    if not isinstance(graph, PolicyGraph):
        raise FidelityError(f"{checkpoint}: expected a policy's checkpoint, got a {graph.task}; compare like with like")
    return graph


def _data(bundle: Bundle, data: Path | None, topics: Path | None, stamps: Stamps | None) -> Data:
    manifest, contract = bundle.manifest, bundle.manifest.require(PolicyManifest).contract
    if data is None:
        return make_up(contract, bundle.tokenizer() if manifest.tokenizer is not None else None)
    table = bundle.records().get("calibration", {})
    judged = bundle.records().get("fidelity", {}).get("data", {})
    stamps = stamps or ("log" if "log" in (table.get("stamps"), judged.get("stamps")) else "header")
    read = open_held_out(data, contract, topics, stamps)
    return split_data(read) if table.get("log_sha256") == read.sha256 else read


def compare(bundle: Bundle, judge: PolicyReference, data: Data, progress: Progress = silent) -> dict[str, Any]:
    """The figures of an opened bundle on the held-out episodes of `data`; raises as `verify` does."""
    if judge.contract != bundle.manifest.require(PolicyManifest).contract:
        raise ContractError(
            f"{bundle.root}: its contract is not that of the {judge.kind} it is compared with; "
            "compare bundles of one checkpoint"
        )
    forms = differing_forms(bundle)
    run = _Run(bundle, judge, data.held_out)
    steps = run.play(forms, progress)
    controls = run.controls(forms[0])
    samples = evenly(data.held_out, FORM_STEPS)
    bits = compare_forms(bundle, Policy, play, samples, progress) if len(forms) > 1 else None
    figures: dict[str, Any] = {
        "against": {"kind": judge.kind, "sha256": judge.sha256},
        "data": _described(data, steps),
        "stages": [row for form in forms for row in rows(run.stages[form].figures(form))],
        "pipeline": [row for form in forms for row in rows(run.actions[form].columns(form))],
        "units": [row for form in forms for row in rows(run.actions[form].units(form))],
        "plan": [row for form in forms if (plan := run.actions[form].plan(form)) for row in rows([plan])],
        "controls": [{**asdict(control), "passed": control.passed} for control in controls],
        "forms_bit_equal": bits,
        "options": OPTIONS.model_dump(mode="json"),
    }
    _accept(run, forms[0], controls, data)
    return figures


def _described(data: Data, steps: int) -> dict[str, Any]:
    note = (
        ""
        if data.kind == "log"
        else "made-up pictures and states: this shows that the graphs agree, not how the robot will fare"
    )
    return {
        "kind": data.kind,
        "log_sha256": data.sha256,
        "stamps": data.stamps,
        "note": note,
        "steps": steps,
        "held_out_episodes": [{"index": one.index, "instruction": one.instruction} for one in data.held_out],
        "warnings": list(data.warnings),
    }


def _accept(run: _Run, form: Form, controls: tuple[ControlFigures, ...], data: Data) -> None:
    if run.bundle.manifest.precision == "fp32" and run.judge.kind == "checkpoint":
        worst = float(run.actions[form].normalized().max())
        if worst > FP32_LIMIT:
            raise FidelityError(
                f"expected fp32 actions within {FP32_LIMIT} (normalized) of the original's, "
                f"got {worst:.3g}; the cut into stages loses something: compare each stage in the family's adapter"
            )
    if not controls:
        raise FidelityError(
            "no negative control could be run: expected at least 2 held-out episodes; record more and export again"
        )
    hint = "try --precision fp16, or more calibration data"
    if data.kind == "synthetic":
        hint = "these pictures were made up, the model was trained on others: judge it on a recording of the robot"
    for control in controls:
        if not control.passed:
            raise FidelityError(
                f"negative control {control.control!r}: expected it to move the actions at least "
                f"{control.needed:g} times the bundle's error {control.error:.3g}, it moved them {control.moved:.3g} "
                f"({control.factor:.2f} times, normalized units); the model ignores this input or the quantization "
                f"lost it: {hint}"
            )


class _Run:
    """One bundle beside its judge, over episodes."""

    def __init__(self, bundle: Bundle, judge: PolicyReference, episodes: tuple[Episode, ...]) -> None:
        self.bundle, self.judge, self._episodes = bundle, judge, episodes
        self.stages: dict[Form, StageMeter] = {}
        self.actions: dict[Form, ActionMeter] = {}
        self._wanted = evenly_spaced([episode.length for episode in episodes], STEPS)
        self._judged: dict[tuple[int, int], Decision] = {}

    def play(self, forms: tuple[Form, ...], progress: Progress) -> int:
        """Every form over the same steps; returns how many."""
        total, done = sum(map(len, self._wanted)), 0
        policies: dict[Form, Policy] = {}
        for form in forms:
            self.stages[form], self.actions[form] = StageMeter(), ActionMeter(self.judge.contract)
            policies[form] = Policy(self.bundle, OPTIONS.model_copy(update={"form": form}), engines=self._tapped(form))
        for episode, wanted in zip(self._episodes, self._wanted, strict=True):
            self.judge.reset()
            sessions = {form: policy.session() for form, policy in policies.items()}
            for step, observation in _upto(wanted, episode.observations()):
                if step not in wanted:
                    self.judge.see(observation)
                    for session in sessions.values():
                        _push(session, observation)
                    continue
                want = self.judge.act(observation)
                self._judged[episode.index, step] = want
                for form, session in sessions.items():
                    self.actions[form].add(decision(session.act(observation)), want)
                done += 1
                progress("verify", done, total)
        for policy in policies.values():
            policy.close()
        return done

    def controls(self, form: Form) -> tuple[ControlFigures, ...]:
        """Every negative control that these episodes allow, on the steps that were compared."""
        options = OPTIONS.model_copy(update={"form": form})
        error = self.actions[form].normalized()
        shuffled = ShuffledFeatures(set(self.bundle.manifest.require(PolicyManifest).driver.args.vision.values()))
        found = []
        with Policy(self.bundle, options) as policy:
            for name, twist in twists(self.judge.contract).items():
                twisted = [twist(episode, self._episodes) for episode in self._episodes]
                if all(one is not None for one in twisted):
                    moved = self._moved(policy, [one for one in twisted if one is not None])
                    found.append(control_figures(name, moved, error))
        with Policy(self.bundle, options, engines=hooked(shuffled)) as policy:
            moved = self._moved(policy, [episode.observations() for episode in self._episodes])
            found.append(control_figures("shuffled-features", moved, error))
        return tuple(found)

    def _moved(self, policy: Policy, twisted: list[Iterator[Observation]]) -> NDArray[np.float64]:
        meter = ActionMeter(self.judge.contract)
        for episode, wanted, observations in zip(self._episodes, self._wanted, twisted, strict=True):
            session = policy.session()
            for step, observation in _upto(wanted, observations):
                if step in wanted:
                    meter.add(decision(session.act(observation)), self._judged[episode.index, step])
                else:
                    _push(session, observation)
        return meter.normalized()

    def _tapped(self, form: Form) -> EngineFactory:
        return hooked(Probe(self.stages[form], self.judge.stage, _compares))


def _compares(run: int) -> bool:
    return run < STAGE_RUNS or run % STAGE_EVERY == 0


def _upto(wanted: tuple[int, ...], observations: Iterator[Observation]) -> Iterator[tuple[int, Observation]]:
    """(step, observation) up to the last wanted step."""
    last = max(wanted, default=-1)
    for step, observation in enumerate(observations):
        if step > last:
            return
        yield step, observation


def _push(session: Session, observation: Observation) -> None:
    for camera, frame in observation.frames.items():
        session.push(camera, frame)
