"""Exports that several claims look at, made once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest
from support import captioners, chats, hub, lerobot_policies, owls, pairs
from support.film import contract, write_checkpoint
from support.film_log import write_log
from support.shared import Shared

from edgevlm.engines import Kernels
from edgevlm.text.confined import run_confined
from edgevlm_export import exporter
from edgevlm_export.exporter import export
from edgevlm_export.families.common import prompts
from edgevlm_export.report import ExportReport, StageReport
from edgevlm_export.stage_graph import Stage
from edgevlm_export.tracing.trace import trace

slow = partial(pytest.param, marks=pytest.mark.slow)
CHATS = ("llava", "smolvlm", "idefics3", "paligemma", "paligemma2")
ALIKE = ("idefics3", "paligemma", "blip")  # each much like one of the others
PAIRS: dict[str, Callable[[Path], Path]] = {
    "visual_bert": pairs.visual_bert,
    "visual_bert_reasoning": partial(pairs.visual_bert, reasoning=True),
    "blip_matching": captioners.blip_matching,
}
Exported = tuple[Path, ExportReport]
Bundles = Callable[[str, str], Exported]
Checkpoints = Callable[[str], Path]


class Exports:
    """Checkpoints, traced stages and bundles, each made once in a test run; none is to be changed."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def checkpoint(self, name: str, make: Callable[[Path], object]) -> Path:
        """What `make(folder)` wrote."""
        return self._shared.folder(f"{name}-checkpoint", lambda folder: make(folder / "checkpoint")) / "checkpoint"

    def trace(self, stage: Stage) -> onnx.ModelProto:
        """As `trace`, once for each stage of known ports and weights."""
        digest = hashlib.sha256(f"{stage.name} {stage.inputs} {stage.outputs}".encode())
        for name, value in sorted(stage.module.state_dict().items()):
            digest.update(name.encode() + value.numpy().tobytes())
        folder = self._shared.folder(
            f"traced-{digest.hexdigest()}",
            lambda folder: (folder / "stage.onnx").write_bytes(trace(stage).SerializeToString()),
        )
        return onnx.load_model(folder / "stage.onnx")

    def confined(self, module: str, request: object, **more: Any) -> Any:
        """As `run_confined`, once for each request: a process that imports transformers takes seconds to begin."""
        asked = json.dumps([module, request], sort_keys=True)
        folder = self._shared.folder(
            f"answer-{hashlib.sha256(asked.encode()).hexdigest()}",
            lambda folder: (folder / "answer.json").write_text(json.dumps(run_confined(module, request, **more))),
        )
        return json.loads((folder / "answer.json").read_text())

    def export(self, source: Path, output: Path, **more: Any) -> ExportReport:
        """`export` that traces nothing twice."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exporter, "trace", self.trace)
            return export(source, output, **more)

    def bundle(self, name: str, source: Path, **more: Any) -> Exported:
        """The bundle of a checkpoint, which lies beside it, and its report."""

        def make(folder: Path) -> None:
            (folder / "checkpoint").symlink_to(source)
            report = self.export(source, folder / "bundle", **more)
            (folder / "report.json").write_text(json.dumps(report.to_json()))

        folder = self._shared.folder(f"{name}-{more.get('precision', 'fp32')}", make)
        report = json.loads((folder / "report.json").read_text())
        stages = tuple(StageReport(**stage) for stage in report["stages"])
        kernels = {stage: Kernels(**each) for stage, each in report["integer_kernels"].items()}
        values = {"stages": stages, "warnings": tuple(report["warnings"]), "integer_kernels": kernels}
        return folder / "bundle", ExportReport(**report | values)


@pytest.fixture(scope="session")
def exports(shared: Shared) -> Exports:
    return Exports(shared)


@pytest.fixture(scope="session", autouse=True)
def templates_once(exports: Exports) -> Iterator[None]:
    """A chat template that many exports share becomes data once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompts, "run_confined", exports.confined)
        yield


@pytest.fixture(scope="session")
def traced(exports: Exports) -> Callable[..., ExportReport]:
    """`export` that traces nothing twice."""
    return exports.export


@pytest.fixture(scope="session")
def remembered_trace(exports: Exports) -> Callable[[Stage], onnx.ModelProto]:
    """`trace` that traces nothing twice."""
    return exports.trace


@pytest.fixture
def traced_once(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    """For claims about what comes after tracing: a stage of known ports and weights is not traced a second time."""
    monkeypatch.setattr(exporter, "trace", exports.trace)


@pytest.fixture(scope="session")
def checkpoint(exports: Exports) -> Path:
    return exports.checkpoint("film", lambda folder: write_checkpoint(folder, "front", "wrist"))


@pytest.fixture(scope="session")
def log(shared: Shared) -> Path:
    views = contract("front", "wrist")
    return shared.folder("film-log", lambda folder: write_log(folder / "log.mcap", views)) / "log.mcap"


@pytest.fixture(scope="session")
def int8(checkpoint: Path, log: Path, exports: Exports) -> Exported:
    return exports.bundle("film", checkpoint, precision="int8", calibration=log)


@pytest.fixture(scope="session")
def fp32(checkpoint: Path, exports: Exports) -> Exported:
    return exports.bundle("film", checkpoint)


@pytest.fixture(scope="session")
def photos(shared: Shared) -> Path:
    """A folder of real photographs."""

    def link(folder: Path) -> None:
        for path in hub.photographs():
            (folder / path.name).symlink_to(path)

    return shared.folder("photos", link)


@pytest.fixture(scope="session", params=["clip", "siglip"])
def family(request: pytest.FixtureRequest) -> str:
    """Each family of two encoders in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def hub_source(family: str, exports: Exports) -> Path:
    """A checkpoint directory saved with upstream code."""
    return exports.checkpoint(family, getattr(hub, family))


@pytest.fixture(scope="session")
def hub_fp32(family: str, hub_source: Path, exports: Exports) -> Exported:
    return exports.bundle(family, hub_source)


@pytest.fixture(scope="session")
def hub_int8(family: str, hub_source: Path, photos: Path, exports: Exports) -> Exported:
    return exports.bundle(family, hub_source, precision="int8", calibration=photos)


@pytest.fixture(scope="session", params=["llava", "smolvlm", "paligemma2", "blip2", "blip_vqa", *map(slow, ALIKE)])
def chat_family(request: pytest.FixtureRequest) -> str:
    """Each family of chats in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def chat_checkpoint(exports: Exports) -> Checkpoints:
    """The checkpoint directory of a family of chats, saved with upstream code, once."""
    return lambda name: exports.checkpoint(name, getattr(chats if name in CHATS else captioners, name))


@pytest.fixture(scope="session")
def chat_bundle(chat_checkpoint: Checkpoints, photos: Path, exports: Exports) -> Bundles:
    """A family of chats in a precision, exported once."""
    return lambda name, precision: exports.bundle(name, chat_checkpoint(name), **in_precision(precision, photos))


@pytest.fixture(scope="session")
def chat_source(chat_family: str, chat_checkpoint: Checkpoints) -> Path:
    """A checkpoint directory saved with upstream code."""
    return chat_checkpoint(chat_family)


@pytest.fixture(scope="session")
def chat_fp32(chat_family: str, chat_bundle: Bundles) -> Exported:
    return chat_bundle(chat_family, "fp32")


@pytest.fixture(scope="session", params=["owlvit", "owlv2"])
def owl_family(request: pytest.FixtureRequest) -> str:
    """Each family of detectors in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def owl_checkpoint(exports: Exports) -> Checkpoints:
    """The checkpoint directory of a family of detectors, saved with upstream code, once."""
    return lambda name: exports.checkpoint(name, getattr(owls, name))


@pytest.fixture(scope="session")
def owl_bundle(owl_checkpoint: Checkpoints, photos: Path, exports: Exports) -> Bundles:
    """A family of detectors in a precision, exported once."""
    return lambda name, precision: exports.bundle(name, owl_checkpoint(name), **in_precision(precision, photos))


@pytest.fixture(scope="session")
def owl_fp32(owl_family: str, owl_bundle: Bundles) -> Exported:
    return owl_bundle(owl_family, "fp32")


@pytest.fixture(scope="session")
def owl_source(owl_family: str, owl_checkpoint: Checkpoints) -> Path:
    """A checkpoint directory saved with upstream code."""
    return owl_checkpoint(owl_family)


@pytest.fixture(scope="session")
def pair_data(photos: Path, shared: Shared) -> Checkpoints:
    """What a model of PAIRS is calibrated and judged on."""
    regions = shared.folder("regions", lambda folder: pairs.regions_folder(folder / "folder")) / "folder"
    return lambda name: photos if name == "blip_matching" else regions


@pytest.fixture(scope="session")
def pair_bundle(pair_data: Checkpoints, exports: Exports) -> Bundles:
    """A model of PAIRS in a precision, exported once."""

    def get(name: str, precision: str) -> Exported:
        source = exports.checkpoint(name, PAIRS[name])
        return exports.bundle(name, source, **in_precision(precision, pair_data(name)))

    return get


@pytest.fixture(scope="session")
def golden_bundle(exports: Exports) -> Callable[[str], Path]:
    """The LeRobot policy of a golden case."""

    def make(folder: Path, case: str) -> None:
        lerobot_policies.write_policy(folder / "policy", case)
        lerobot_policies.write_robot(folder / "robot.yaml", case=case)

    def get(case: str) -> Path:
        files = exports.checkpoint(f"golden-{case}", lambda folder: make(folder, case))
        return exports.bundle(f"golden-{case}", files / "policy", robot=files / "robot.yaml")[0]

    return get


@pytest.fixture(scope="session")
def smolvla_files(shared: Shared) -> Path:
    """A LeRobot policy that takes words (`policy`), one with outlier channels (`outliers`), a robot file and a log."""
    return shared.folder("smolvla-files", lambda folder: lerobot_policies.write_smolvla(folder))


@pytest.fixture(scope="session")
def smolvla_bundle(smolvla_files: Path, exports: Exports) -> Callable[[str], Path]:
    """That policy in a precision, exported once."""
    robot = smolvla_files / "robot.yaml"

    def get(precision: str) -> Path:
        more = in_precision(precision, smolvla_files / "log.mcap")
        return exports.bundle("smolvla", smolvla_files / "policy", robot=robot, **more)[0]

    return get


def in_precision(precision: str, data: Path) -> dict[str, Any]:
    """The arguments of an export that is calibrated where it has to be."""
    return {"precision": precision} | ({"calibration": data} if precision == "int8" else {})
