"""Claims about whole exports, on a two-camera robot that does not exist."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.film import contract, edit_config, write_checkpoint
from support.film_log import write_log

import edgevlm
from edgevlm.bundle import open_bundle
from edgevlm.errors import CalibrationError, CheckpointError, FamilyError, FidelityError, LogError, OutputError
from edgevlm_calibration.calibrate import calibrate
from edgevlm_export.exporter import export
from edgevlm_export.quantization.passes.forbidden import check_tensorrt
from edgevlm_export.report import ExportReport

Exported = tuple[Path, ExportReport]


def test_exports_from_a_log_and_from_its_table_have_one_sha256(
    int8: Exported, fp32: Exported, checkpoint: Path, log: Path, tmp_path: Path
) -> None:
    calibrate(fp32[0], log).save(tmp_path / "table.json")
    again = export(checkpoint, tmp_path / "again", precision="int8", calibration=tmp_path / "table.json")
    assert again.bundle_sha256 == int8[1].bundle_sha256 == open_bundle(int8[0]).sha256
    assert again.bundle_sha256 != fp32[1].bundle_sha256


def test_int8_quantizes_every_stage_that_runs_each_step(int8: Exported) -> None:
    stages = {stage.stage: stage for stage in int8[1].stages}
    assert {name for name, stage in stages.items() if stage.precision == "int8"} == {"vision", "pool", "head"}
    assert all(stages[name].quantized_nodes > 0 for name in ("vision", "pool", "head"))
    # down, first, second (the stem stays in floats); one mixing convolution for each camera
    assert (stages["vision"].quantized_nodes, stages["pool"].quantized_nodes) == (3, 2)


def test_a_stage_left_in_fp32_says_why_with_figures(int8: Exported) -> None:
    text = {stage.stage: stage for stage in int8[1].stages}["text"]
    assert text.precision == "fp32" and text.quantized_nodes == 0
    assert "4 times in" in text.reason and "cosine" in text.reason


def test_fidelity_is_measured_on_held_out_episodes_in_both_forms(int8: Exported, log: Path) -> None:
    fidelity = int8[1].fidelity
    table = json.loads((int8[0] / "records" / "calibration.json").read_text())
    held_out = {episode["index"] for episode in table["split"]["held_out"]}
    assert held_out == {episode["index"] for episode in fidelity["data"]["held_out_episodes"]} == {4, 5, 6, 7}
    assert not held_out & {episode["index"] for episode in table["split"]["calibration"]}
    assert {row["form"] for row in fidelity["stages"]} == {"cpu", "tensorrt"}
    assert {row["name"]: row["unit"] for row in fidelity["pipeline"]} == {"x": "m", "y": "m", "grip": "1"}
    assert {(row["name"], row["unit"]) for row in fidelity["units"]} == {("ee_delta", "m"), ("gripper", "1")}
    assert all(0 < row["mean"] <= row["p99"] <= row["worst"] for row in fidelity["pipeline"])
    assert all(row["cosine_min"] > 0.99 for row in fidelity["stages"])
    assert json.loads((int8[0] / "records" / "fidelity.json").read_text()) == json.loads(json.dumps(fidelity))


def test_every_negative_control_ran_and_moved_the_actions(int8: Exported) -> None:
    controls = {row["control"]: row for row in int8[1].fidelity["controls"]}
    assert set(controls) == {"other-picture", "other-instruction", "shuffled-features"}
    assert all(row["passed"] and row["factor"] >= row["needed"] for row in controls.values())


@pytest.mark.usefixtures("traced_once")
def test_a_model_that_does_not_listen_is_refused_and_leaves_nothing(log: Path, tmp_path: Path) -> None:
    deaf = write_checkpoint(tmp_path / "deaf", "front", "wrist", deaf=True)
    with pytest.raises(FidelityError, match="other-instruction"):
        export(deaf, tmp_path / "bundle", precision="int8", calibration=log)
    assert not (tmp_path / "bundle").exists()


def test_the_forms_are_compared_bit_by_bit_on_real_steps(int8: Exported) -> None:
    bits = int8[1].fidelity["forms_bit_equal"]
    assert bits["steps"] == 12 and set(bits["stages"]) == {"vision", "pool", "text", "head"}


def test_the_tensorrt_form_passes_the_gate_and_the_cpu_form_would_not(int8: Exported) -> None:
    model = onnx.load(int8[0] / "stages" / "vision.tensorrt.onnx")
    check_tensorrt("vision", model)
    zeros = {node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert zeros and all(
        item.data_type == onnx.TensorProto.INT8 for item in model.graph.initializer if item.name in zeros
    )


def test_no_file_of_a_bundle_names_the_machine(int8: Exported, checkpoint: Path) -> None:
    for path in int8[0].rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(checkpoint.parent).encode() not in content and b"site-packages" not in content, path


def test_fp32_acts_as_the_original_and_says_its_data_is_synthetic(fp32: Exported) -> None:
    fidelity = fp32[1].fidelity
    assert max(row["worst"] for row in fidelity["pipeline"]) < 1e-6
    assert fidelity["data"]["kind"] == "synthetic" and "made-up" in fidelity["data"]["note"]
    assert fidelity["forms_bit_equal"] is None


@pytest.mark.usefixtures("traced_once")
def test_fp16_halves_the_weights_and_stays_near(checkpoint: Path, fp32: Exported, tmp_path: Path) -> None:
    report = export(checkpoint, tmp_path / "fp16", precision="fp16")
    full = {stage.stage: stage.bytes["cpu"] for stage in fp32[1].stages}
    half = {stage.stage: stage.bytes["cpu"] for stage in report.stages}
    assert half["head"] < 0.8 * full["head"]
    assert 0 < max(row["worst"] for row in report.fidelity["pipeline"]) < 0.01


@pytest.mark.usefixtures("traced_once")
def test_a_table_of_another_checkpoint_is_refused(fp32: Exported, log: Path, tmp_path: Path) -> None:
    calibrate(fp32[0], log).save(tmp_path / "table.json")
    other = write_checkpoint(tmp_path / "other", "front", "wrist", seed=1)
    with pytest.raises(CalibrationError, match="calibrate again"):
        export(other, tmp_path / "bundle", precision="int8", calibration=tmp_path / "table.json")


def test_int8_without_calibration_data_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="--calib"):
        export(checkpoint, tmp_path / "bundle", precision="int8")


def test_too_few_samples_says_how_many_there_are(checkpoint: Path, tmp_path: Path) -> None:
    short = write_log(tmp_path / "short.mcap", contract("front", "wrist"), episodes=4, steps=3)
    with pytest.raises(CalibrationError, match=r"at least 16 steps, found 9 in 3 calibration episode"):
        export(checkpoint, tmp_path / "bundle", precision="int8", calibration=short)
    assert not (tmp_path / "bundle").exists()


def test_a_log_of_another_robot_lists_its_topics(checkpoint: Path, tmp_path: Path) -> None:
    foreign = write_log(tmp_path / "foreign.mcap", contract("elsewhere"))
    with pytest.raises(LogError, match="/elsewhere/image_raw"):
        export(checkpoint, tmp_path / "bundle", precision="int8", calibration=foreign)


@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize("at", ["trace", "verify"])
def test_an_interrupted_export_leaves_nothing(at: str, checkpoint: Path, log: Path, tmp_path: Path) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if what == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(checkpoint, tmp_path / "out" / "bundle", precision="int8", calibration=log, progress=interrupt)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.usefixtures("traced_once")
def test_a_full_disk_leaves_nothing(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OutputError, match="No space left"):
        export(checkpoint, tmp_path / "out" / "bundle")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_earlier_bundle_is_replaced_and_anything_else_is_not(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(OutputError, match="choose another"):
        export(checkpoint, tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep me"


def test_an_unknown_family_lists_those_it_knows(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "odd")
    edit_config(tmp_path / "odd", {"model_type": "warp_drive"})
    with pytest.raises(FamilyError, match=r"film_policy.*got 'warp_drive'"):
        export(tmp_path / "odd", tmp_path / "bundle")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("fault", ["missing", "truncated", "empty"])
def test_a_damaged_checkpoint_names_the_file(name: str, fault: str, checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "bad")
    path = tmp_path / "bad" / name
    if fault == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if fault == "truncated" else b"")
    with pytest.raises(CheckpointError, match=name):
        export(tmp_path / "bad", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_no_checkpoint_at_all_says_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected a checkpoint directory with config\.json"):
        export(tmp_path / "nowhere", tmp_path / "bundle")


def test_weights_that_are_not_finite_are_named(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(checkpoint, tmp_path / "nan")
    weights = load_file(tmp_path / "nan" / "model.safetensors")
    weights["head.chunk.bias"][0] = np.nan
    save_file(weights, tmp_path / "nan" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"head\.chunk\.bias"):
        export(tmp_path / "nan", tmp_path / "bundle")


@pytest.mark.parametrize(
    ("key", "message"),
    [("window", "window slots"), ("cameras", "camera names"), ("preprocess", "picture size"), ("extra", "extra")],
)
def test_a_config_that_contradicts_itself_is_refused(key: str, message: str, checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    if key == "window":
        config["contract"]["window"]["offsets_s"] = [-0.1, 0.0]
    elif key == "cameras":
        config["contract"]["cameras"][0]["name"] = "rear"
        config["preprocess"]["rear"] = config["preprocess"].pop("front")
    elif key == "preprocess":
        config["preprocess"]["front"][0]["width"] = 48
    else:
        config["contract"]["extra"] = 1
    edit_config(folder, config)
    with pytest.raises(CheckpointError, match=message):
        export(folder, tmp_path / "bundle")


def test_an_exported_bundle_acts_through_the_public_api(int8: Exported) -> None:
    from edgevlm.data.synthetic import make_up

    bundle = open_bundle(int8[0])
    episode = make_up(bundle.manifest.contract, int8[0] / "tokenizer.json").held_out[0]
    with edgevlm.load(int8[0]) as policy:
        chunk = policy.act(next(episode.observations()))
    assert chunk.values.shape == (4, 3) and chunk.units == ("m", "m", "1")
