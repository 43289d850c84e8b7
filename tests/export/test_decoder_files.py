"""Weights too large for one message lie in a file of their own: listed, hashed, read by the engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from support import chats

import edgevlm
from edgevlm.bundle import file_sha256, open_bundle
from edgevlm.errors import TamperedError
from edgevlm.options import RuntimeOptions
from edgevlm_calibration.onnx_models import DATA, check_model, open_model, save_model, weight_bytes
from edgevlm_export.report import ExportReport

FEW = 20_000  # bytes, less than any stage here has
IMAGE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)


@pytest.fixture(scope="module")
def apart(
    chat_checkpoint: Callable[[str], Path],
    traced: Callable[..., ExportReport],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A bundle whose weights lie beside its graphs."""
    output = tmp_path_factory.mktemp("apart") / "bundle"
    traced(chat_checkpoint("llava"), output, limit_bytes=FEW)
    return output


def test_the_manifest_lists_the_weights_of_every_large_stage(apart: Path) -> None:
    manifest = open_bundle(apart).manifest
    for name, stage in manifest.stages.items():
        assert stage.data == (f"stages/{name}.onnx{DATA}",)
        entry = manifest.files[stage.data[0]]
        assert entry.bytes > FEW > manifest.files[stage.forms["cpu"]].bytes / 20
        assert entry.sha256 == file_sha256(apart / stage.data[0])


def test_it_answers_as_with_all_in_one_file(
    apart: Path, chat_bundle: Callable[[str, str], tuple[Path, ExportReport]]
) -> None:
    full, _ = chat_bundle("llava", "fp32")
    with edgevlm.load_chat(apart) as one, edgevlm.load_chat(full) as other:
        answers = [chat.ask(IMAGE, "What is this?", max_new_tokens=16).token_ids for chat in (one, other)]
    assert answers[0] == answers[1] and len(set(answers[0])) > 1
    assert not open_bundle(full).manifest.stages["decoder"].data


def test_a_changed_weight_is_detected(apart: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(apart, tmp_path / "copy"))
    path = copy / "stages" / f"decoder.onnx{DATA}"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(TamperedError, match=r"decoder\.onnx\.data"):
        edgevlm.load(copy)


def test_a_model_is_the_same_from_memory_and_from_two_files(apart: Path, tmp_path: Path) -> None:
    model = onnx.load(apart / "stages" / "vision.onnx")
    assert weight_bytes(model) > FEW
    check_model(model)
    data = save_model(model, tmp_path / "again.onnx", FEW)
    assert data is not None and data.read_bytes() == (apart / "stages" / f"vision.onnx{DATA}").read_bytes()
    assert (tmp_path / "again.onnx").read_bytes() == (apart / "stages" / "vision.onnx").read_bytes().replace(
        b"vision.onnx.data", b"again.onnx.data"
    ) or len((tmp_path / "again.onnx").read_bytes()) < FEW * 20
    pixels = np.random.default_rng(1).normal(size=(1, 3, chats.SIDE, chats.SIDE)).astype(np.float32)
    got = [open_model(model, RuntimeOptions(), limit).run(None, {"pixels": pixels})[0] for limit in (1 << 40, FEW)]
    np.testing.assert_array_equal(got[0], got[1])
