"""Claims about calibration, on a bundle of a few kilobytes that no training framework made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import tiny

from edgevlm.bundle import Bundle, open_bundle
from edgevlm.data.base import Data
from edgevlm.data.synthetic import make_up
from edgevlm.engines import Arrays, Hook, hooked
from edgevlm.errors import CalibrationError, InstructionError
from edgevlm.options import RuntimeOptions
from edgevlm.tasks.policy import Policy
from edgevlm_calibration.policy import POLICY
from edgevlm_calibration.runner import calibrate_on


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(tiny.mono(tmp_path_factory.mktemp("bundles") / "mono"))


@pytest.fixture(scope="module")
def data(bundle: Bundle) -> Data:
    data = make_up(bundle.manifest.contract, bundle.path(bundle.manifest.tokenizer))
    return replace(data, sha256="0" * 64, calibration=data.held_out[:3], held_out=data.held_out[3:])


def test_two_calibrations_give_one_table(bundle: Bundle, data: Data) -> None:
    first, second = (calibrate_on(bundle, data, POLICY, samples=20) for _ in range(2))
    assert first == second and first.sha256() == second.sha256()
    assert (first.samples, first.bundle_sha256) == (20, bundle.sha256)


def test_every_range_holds_what_the_runtime_itself_computes(bundle: Bundle, data: Data) -> None:
    """What enters and leaves the stages, seen once more without our observers, reaches just the ends of the ranges."""
    table = calibrate_on(bundle, data, POLICY, samples=36, observer="minmax")
    peaks: dict[tuple[str, str], float] = {}

    class Peaks(Hook):
        def after(self, stage: str, inputs: Arrays, outputs: Arrays) -> Arrays:
            for name, value in {**inputs, **outputs}.items():
                peaks[stage, name] = max(peaks.get((stage, name), 0.0), float(np.abs(value).max()))
            return outputs

    with Policy(bundle, RuntimeOptions(), engines=hooked(Peaks())) as policy:
        for episode in data.calibration:
            session = policy.session()
            for observation in episode.observations():
                session.act(observation)
    shared = {(stage, name) for stage, ranges in table.stages.items() for name in ranges} & set(peaks)
    assert ("vision", "features") in shared
    for stage, name in shared:
        assert table.stages[stage][name].threshold == pytest.approx(peaks[stage, name], rel=1e-6)


def test_a_frame_is_observed_once_however_many_windows_it_is_in(bundle: Bundle, data: Data) -> None:
    table = calibrate_on(bundle, data, POLICY, samples=36)
    runs, steps = table.stage_runs, table.samples
    frames = sum(episode.length for episode in data.calibration)
    vision = bundle.manifest.driver.args.vision["front"]
    assert steps == frames == 36 and runs[vision] == frames
    assert runs[bundle.manifest.driver.args.text] == len(data.calibration)


def test_held_out_episodes_do_not_touch_the_table(bundle: Bundle, data: Data) -> None:
    without = replace(data, held_out=())
    one, other = (calibrate_on(bundle, part, POLICY, samples=20) for part in (data, without))
    assert one.stages == other.stages


def test_progress_is_reported_to_the_end(bundle: Bundle, data: Data) -> None:
    reported: list[tuple[str, int, int]] = []
    calibrate_on(bundle, data, POLICY, samples=20, progress=lambda *what: reported.append(what))
    assert reported == [("calibrate", step, 20) for step in range(1, 21)]


@pytest.mark.parametrize(("samples", "episodes"), [(15, 3), (100, 1)])
def test_too_few_steps_are_refused_with_both_numbers(samples: int, episodes: int, bundle: Bundle, data: Data) -> None:
    with pytest.raises(
        CalibrationError, match=rf"at least 16 steps, found {12 * episodes} in {episodes} .* {samples} asked"
    ):
        calibrate_on(bundle, replace(data, calibration=data.calibration[:episodes]), POLICY, samples=samples)


def test_a_bundle_that_is_quantized_already_is_refused(bundle: Bundle, data: Data) -> None:
    changed = bundle.manifest.model_copy(update={"precision": "int8"})
    with pytest.raises(CalibrationError, match="expected an fp32 bundle, got int8"):
        calibrate_on(replace(bundle, manifest=changed), data, POLICY, samples=20)


def test_synthetic_episodes_fit_the_contract_and_repeat(bundle: Bundle) -> None:
    path = bundle.path(bundle.manifest.tokenizer)
    first, again = (make_up(bundle.manifest.contract, path).held_out for _ in range(2))
    for left, right in zip(first, again, strict=True):
        for one, other in zip(left.observations(), right.observations(), strict=True):
            assert one.instruction == other.instruction
            np.testing.assert_array_equal(one.frames["front"].value, other.frames["front"].value)
    assert len({episode.instruction for episode in first}) > 1


def test_a_vocabulary_without_a_usable_word_asks_for_a_log(bundle: Bundle, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"[UNK]": 0, "1": 1}, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InstructionError, match="--data LOG"):
        make_up(bundle.manifest.contract, tmp_path / "tokenizer.json")


def test_a_tensor_that_overflows_on_the_data_is_refused_by_name(tmp_path: Path, data: Data) -> None:
    root = tiny.mono(tmp_path / "mono")
    tiny.rewrite(root, lambda raw: raw["preprocess"]["front"][1].update(std=[5e-39] * 3))
    with pytest.raises(CalibrationError, match=r"stage 'head' of .*finite numbers in 'all'.*int8 would hide"):
        calibrate_on(open_bundle(root), data, POLICY, samples=20)
