"""Every task's row: the same samples and tables every time, and what is recorded is what the stages got."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import asker, paired, spotter, talker, tiny

from edgevlm.bundle import open_bundle
from edgevlm.data.pictures import Photo, PictureData, make_up_pictures
from edgevlm.data.synthetic import make_up
from edgevlm.engines import Host, open_engine
from edgevlm_calibration.chat import CHAT, CHAT_PROBE
from edgevlm_calibration.pictures import DETECTOR, MATCHER, RETRIEVER, SCORER, questions
from edgevlm_calibration.policy import Step, play, steps
from edgevlm_calibration.runner import OPTIONS, CalibrationRun, calibrate_on, record

TEXTS = ("push the red cup", "open the drawer", "put it on", "the cup")


@pytest.fixture(scope="module")
def pictures() -> PictureData:
    return replace(make_up_pictures(), sha256="0" * 64, calibration_texts=TEXTS)


ROWS: dict[str, tuple[Callable[[Path], Path], CalibrationRun[Any, PictureData]]] = {
    "retriever": (tiny.dual, RETRIEVER),
    "matcher": (paired.cross, MATCHER),
    "detector": (spotter.regions, DETECTOR),
    "scorer": (paired.scorer, SCORER),
    "decoder": (talker.chat, CHAT),
    "seq2seq": (asker.chat, CHAT),
    "first words": (talker.chat, CHAT_PROBE),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_gives_one_table_of_every_stage_and_what_it_recorded_runs_alike(
    name: str, tmp_path: Path, pictures: PictureData
) -> None:
    make, run = ROWS[name]
    bundle, data = open_bundle(make(tmp_path / "bundle")), pictures
    if name == "scorer":
        regions = tuple(Photo(str(seed), lambda seed=seed: paired.regions(4, seed)) for seed in range(8))  # type: ignore[misc]
        data = replace(pictures, calibration=regions)
    first, second = (calibrate_on(bundle, data, run) for _ in range(2))
    assert first == second and first.samples == first.requested == len(run.samples(data, None))
    assert set(first.stages) == set(first.stage_runs) == set(bundle.manifest.stages)
    feeds = record(bundle, data, run, 2)
    host = Host(open_engine(bundle, bundle.manifest.stages, OPTIONS))
    for stage, runs in feeds.items():
        assert 0 < len(runs) <= first.stage_runs[stage]
        for inputs in runs:
            assert set(host.run(stage, inputs)) == {port.name for port in bundle.manifest.stages[stage].outputs}
    host.close()


def test_a_recorded_past_is_what_the_run_had_and_not_what_came_after(tmp_path: Path, pictures: PictureData) -> None:
    bundle = open_bundle(talker.chat(tmp_path / "bundle"))
    runs = record(bundle, pictures, CHAT, 1)["decoder"]
    pasts = [inputs["past_key_0"] for inputs in runs]
    assert not pasts[0].any() and pasts[1].any()
    assert len({past.tobytes() for past in pasts}) == len(pasts)


def test_every_picture_and_text_comes_once_before_one_comes_again(pictures: PictureData) -> None:
    pairs = questions(pictures.calibration, TEXTS, 100)
    assert {photo.name for photo, _ in pairs} == {photo.name for photo in pictures.calibration}
    assert [text for _, text in pairs] == [TEXTS[place % 4] for place in range(len(pairs))]


class Session:
    """Notes what it gets."""

    def __init__(self, notes: list[tuple[str, int]]) -> None:
        self._notes = notes
        notes.append(("session", 0))

    def push(self, camera: str, frame: Any) -> None:
        self._notes.append(("push", frame.stamp_ns))

    def act(self, observation: Any) -> None:
        self._notes.append(("act", observation.frames["front"].stamp_ns))


def test_an_episode_is_a_session_whose_every_frame_counts_up_to_the_last_step(tmp_path: Path) -> None:
    bundle = open_bundle(tiny.mono(tmp_path / "bundle"))
    episodes = make_up(bundle.manifest.contract, bundle.tokenizer()).held_out[:2]
    notes: list[tuple[str, int]] = []

    class Policy:
        def session(self) -> Session:
            return Session(notes)

    chosen = [Step(episodes[0], 1), Step(episodes[0], 3), Step(episodes[1], 0)]
    assert len(list(play(Policy(), chosen))) == 3  # type: ignore[arg-type]
    stamps = [[one.frames["front"].stamp_ns for one in episode.observations()] for episode in episodes]
    verbs = ("push", "act", "push", "act")
    expected = [("session", 0), *zip(verbs, stamps[0][:4], strict=True), ("session", 0), ("act", stamps[1][0])]
    assert notes == expected


def test_steps_lie_evenly_over_all_episodes(tmp_path: Path) -> None:
    bundle = open_bundle(tiny.mono(tmp_path / "bundle"))
    episodes = make_up(bundle.manifest.contract, bundle.tokenizer()).held_out[:2]
    every = [Step(episode, place) for episode in episodes for place in range(episode.length)]
    assert steps(episodes, 10**6) == every
    assert steps(episodes, 3) == [every[0], every[round((len(every) - 1) / 2)], every[-1]]


def test_a_stage_that_gets_nothing_has_no_runs(tmp_path: Path, pictures: PictureData) -> None:
    bundle = open_bundle(tiny.dual(tmp_path / "bundle"))
    feeds = record(bundle, replace(pictures, calibration_texts=()), RETRIEVER, 3)
    assert feeds["text"] == [] and len(feeds["vision"]) == 3
    assert all(np.isfinite(inputs["pixels"]).all() for inputs in feeds["vision"])
