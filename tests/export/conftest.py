"""Exports that several claims look at, made once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import onnx
import pytest
from support import captioners, chats, hub, lerobot_policies, owls, pairs
from support.film import contract, write_checkpoint
from support.film_log import write_log

from edgevlm_export import exporter
from edgevlm_export.exporter import export
from edgevlm_export.report import ExportReport
from edgevlm_export.stage_graph import Stage
from edgevlm_export.tracing.trace import trace


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), "front", "wrist")


@pytest.fixture(scope="session")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("log") / "log.mcap", contract("front", "wrist"))


@pytest.fixture(scope="session")
def int8(checkpoint: Path, log: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportReport]:
    output = tmp_path_factory.mktemp("int8") / "bundle"
    return output, export(checkpoint, output, precision="int8", calibration=log)


@pytest.fixture(scope="session")
def fp32(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportReport]:
    output = tmp_path_factory.mktemp("fp32") / "bundle"
    return output, export(checkpoint, output)


CHATS = ("llava", "smolvlm", "idefics3", "paligemma", "paligemma2")
_TRACED: dict[str, bytes] = {}
Exported = tuple[Path, ExportReport]


@pytest.fixture
def traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For claims about what comes after tracing: a stage of known ports and weights is not traced a second time."""
    monkeypatch.setattr(exporter, "trace", remembered)


def remembered(stage: Stage) -> onnx.ModelProto:
    """As `trace`, once for each stage of known ports and weights."""
    digest = hashlib.sha256(f"{stage.name} {stage.inputs} {stage.outputs}".encode())
    for name, value in sorted(stage.module.state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    if digest.hexdigest() not in _TRACED:
        _TRACED[digest.hexdigest()] = trace(stage).SerializeToString()
    return onnx.load_model_from_string(_TRACED[digest.hexdigest()])


@pytest.fixture(scope="session", params=["clip", "siglip"])
def family(request: pytest.FixtureRequest) -> str:
    """Each family of two encoders in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def hub_source(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint directory saved with upstream code."""
    return Path(getattr(hub, family)(tmp_path_factory.mktemp(family) / "checkpoint"))


@pytest.fixture(scope="session")
def hub_fp32(hub_source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportReport]:
    output = tmp_path_factory.mktemp("hub-fp32") / "bundle"
    return output, once(hub_source, output)


@pytest.fixture(scope="session", params=[*CHATS, "blip2", "blip", "blip_vqa"])
def chat_family(request: pytest.FixtureRequest) -> str:
    """Each family of chats in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def chat_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The checkpoint directory of a family of chats, saved with upstream code, once."""

    @cache
    def get(name: str) -> Path:
        maker = getattr(chats, name) if name in CHATS else getattr(captioners, name)
        return Path(maker(tmp_path_factory.mktemp(name) / "checkpoint"))

    return get


@pytest.fixture(scope="session")
def chat_bundle(
    chat_checkpoint: Callable[[str], Path], photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Exported]:
    """A family of chats in a precision, exported once."""

    @cache
    def get(name: str, precision: str) -> Exported:
        output = tmp_path_factory.mktemp(f"{name}-{precision}") / "bundle"
        more = {"calibration": photos} if precision == "int8" else {}
        return output, once(chat_checkpoint(name), output, precision=precision, **more)

    return get


@pytest.fixture(scope="session")
def chat_source(chat_family: str, chat_checkpoint: Callable[[str], Path]) -> Path:
    """A checkpoint directory saved with upstream code."""
    return chat_checkpoint(chat_family)


@pytest.fixture(scope="session")
def chat_fp32(chat_family: str, chat_bundle: Callable[[str, str], Exported]) -> Exported:
    return chat_bundle(chat_family, "fp32")


@pytest.fixture(scope="session", params=["owlvit", "owlv2"])
def owl_family(request: pytest.FixtureRequest) -> str:
    """Each family of detectors in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def owl_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The checkpoint directory of a family of detectors, saved with upstream code, once."""

    @cache
    def get(name: str) -> Path:
        return Path(getattr(owls, name)(tmp_path_factory.mktemp(name) / "checkpoint"))

    return get


@pytest.fixture(scope="session")
def owl_bundle(
    owl_checkpoint: Callable[[str], Path], photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Exported]:
    """A family of detectors in a precision, exported once."""

    @cache
    def get(name: str, precision: str) -> Exported:
        output = tmp_path_factory.mktemp(f"{name}-{precision}") / "bundle"
        more = {"calibration": photos} if precision == "int8" else {}
        return output, once(owl_checkpoint(name), output, precision=precision, **more)

    return get


@pytest.fixture(scope="session")
def owl_fp32(owl_family: str, owl_bundle: Callable[[str, str], Exported]) -> Exported:
    return owl_bundle(owl_family, "fp32")


@pytest.fixture(scope="session")
def owl_source(owl_family: str, owl_checkpoint: Callable[[str], Path]) -> Path:
    """A checkpoint directory saved with upstream code."""
    return owl_checkpoint(owl_family)


PAIRS: dict[str, Callable[[Path], Path]] = {
    "visual_bert": pairs.visual_bert,
    "visual_bert_reasoning": partial(pairs.visual_bert, reasoning=True),
    "blip_matching": captioners.blip_matching,
}


@pytest.fixture(scope="session")
def pair_bundle(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Exported]:
    """A model of PAIRS in a precision, exported once; its checkpoint and its data lie beside the bundle."""
    folder = pairs.regions_folder(tmp_path_factory.mktemp("regions") / "folder")

    @cache
    def source(name: str) -> Path:
        return PAIRS[name](tmp_path_factory.mktemp(name) / "checkpoint")

    @cache
    def get(name: str, precision: str) -> Exported:
        work = tmp_path_factory.mktemp(f"{name}-{precision}")
        data = photos if name == "blip_matching" else folder
        (work / "checkpoint").symlink_to(source(name))
        (work / "data").symlink_to(data)
        more = {"calibration": data} if precision == "int8" else {}
        return work / "bundle", once(work / "checkpoint", work / "bundle", precision=precision, **more)

    return get


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of real photographs."""
    folder = tmp_path_factory.mktemp("photos")
    for path in hub.photographs():
        (folder / path.name).symlink_to(path)
    return folder


def once(source: Path, output: Path, **more: Any) -> ExportReport:
    """An export that traces nothing twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "trace", remembered)
        return export(source, output, **more)


@pytest.fixture(scope="session")
def traced() -> Callable[..., ExportReport]:
    """`export` that traces nothing twice."""
    return once


@pytest.fixture(scope="session")
def remembered_trace() -> Callable[[Stage], onnx.ModelProto]:
    """`trace` that traces nothing twice."""
    return remembered


@pytest.fixture(scope="session")
def smolvla_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeRobot policy that takes words (`policy`), one with outlier channels (`outliers`), a robot file and a log."""
    return lerobot_policies.write_smolvla(tmp_path_factory.mktemp("smolvla-files"))


@pytest.fixture(scope="session")
def smolvla_bundle(smolvla_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """That policy in a precision, exported once."""

    @cache
    def get(precision: str) -> Path:
        output = tmp_path_factory.mktemp(f"smolvla-{precision}") / "bundle"
        more = {"calibration": smolvla_files / "log.mcap"} if precision == "int8" else {}
        once(smolvla_files / "policy", output, precision=precision, robot=smolvla_files / "robot.yaml", **more)
        return output

    return get
