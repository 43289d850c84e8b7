"""The composed bundle, through the runtime, beside upstream's processor, one native forward and its own search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import chats, hub, natives
from support.natives import Native
from transformers.image_utils import load_image

import edgevlm
from edgevlm.bundle import open_bundle
from edgevlm.data.pictures import Photo
from edgevlm.engines import hooked
from edgevlm_calibration.chat import Question, Talk
from edgevlm_export.exporter import export
from edgevlm_export.families import build
from edgevlm_export.fidelity.chat import CONTROLS, Tap
from edgevlm_export.report import ExportReport

Exported = tuple[Path, ExportReport]
TOLERANCE = 1e-4  # of the scale of the logits
CONTROL = 100  # a wrong input must move the logits at least this many tolerances
ANSWER_TOKENS = 40  # greedy tokens
TEXT = "Is this a photo of a cat?"
NAMES = ("coffee.png", "rocket.jpg", "astronaut.png")  # shrunk alike by every Pillow


@pytest.fixture(scope="module")
def native(chat_family: str, chat_source: Path) -> Native:
    return natives.native(chat_family, chat_source, TEXT)


@pytest.fixture(scope="module")
def paths() -> list[Path]:
    known = {path.name: path for path in hub.photographs()}
    return [known[name] for name in NAMES]


@pytest.fixture(scope="module")
def answers(native: Native, paths: list[Path]) -> list[tuple[tuple[int, ...], NDArray[np.float32]]]:
    return [native.answer(path, ANSWER_TOKENS) for path in paths]


def photo(path: Path) -> Photo:
    return Photo(path.name, lambda: np.asarray(load_image(str(path))))


def gap(got: NDArray[Any], want: NDArray[Any]) -> float:
    """The largest error, relative to the scale of what was wanted."""
    return float(np.abs(got - want).max() / np.abs(want).max())


def test_the_answers_that_judge_say_something(answers: list[tuple[tuple[int, ...], NDArray[np.float32]]]) -> None:
    assert len({answer_ids for answer_ids, _ in answers}) == len(answers)
    for answer_ids, logits in answers:
        top = np.sort(logits, axis=1)[:, -2:]
        assert len(answer_ids) >= 32 and len(set(answer_ids)) >= 8 and (top[:, 1] - top[:, 0]).min() > 1e-3


def test_the_answer_is_word_by_word_upstreams(
    chat_fp32: Exported, answers: list[tuple[tuple[int, ...], NDArray[np.float32]]], paths: list[Path]
) -> None:
    with edgevlm.load_chat(chat_fp32[0]) as chat:
        for path, (answer_ids, _) in zip(paths, answers, strict=True):
            got = chat.ask(path, TEXT, max_new_tokens=ANSWER_TOKENS)
            assert got.token_ids == tuple(
                token for token in answer_ids if token not in chat.bundle.manifest.driver.args.stop_ids
            )


def test_prompt_and_pixels_are_upstreams(chat_fp32: Exported, native: Native, paths: list[Path]) -> None:
    with edgevlm.load_chat(chat_fp32[0]) as chat:
        for path in paths:
            want, got = native.inputs(path), chat.prepare(path, TEXT)
            assert list(got.ids) == native.ids(path)
            pixels = want["pixel_values"].reshape(-1, *want["pixel_values"].shape[-3:]).numpy()
            np.testing.assert_array_equal(np.concatenate(got.pixels), pixels)


def test_the_logits_of_every_token_are_upstreams(
    chat_fp32: Exported, native: Native, answers: list[tuple[tuple[int, ...], NDArray[np.float32]]], paths: list[Path]
) -> None:
    with Talk(open_bundle(chat_fp32[0])) as talk:
        for path, (answer_ids, searched) in zip(paths, answers, strict=True):
            _, got = talk.answer(talk.question(photo(path), TEXT), len(answer_ids), answer_ids)
            for want in (searched, native.forward(path, answer_ids)):
                assert got.shape == want.shape and gap(got, want) < TOLERANCE


@pytest.mark.parametrize("control", CONTROLS)
def test_a_wrong_input_moves_the_logits_by_a_hundred_tolerances(
    control: str,
    chat_fp32: Exported,
    answers: list[tuple[tuple[int, ...], NDArray[np.float32]]],
    paths: list[Path],
) -> None:
    wrong, bundle = CONTROLS[control], open_bundle(chat_fp32[0])
    tap = Tap(bundle)
    tap.twist = wrong.inputs
    with Talk(bundle, engines=hooked(tap)) as talk:
        asked: list[Question] = [talk.question(photo(path), TEXT) for path in paths]
        for i, (answer_ids, want) in enumerate(answers):
            _, got = talk.answer(wrong.question(asked, i), len(answer_ids), answer_ids)
            assert gap(got, want) > CONTROL * TOLERANCE, paths[i].name


@pytest.mark.parametrize("family", [pytest.param("blip", marks=pytest.mark.slow), "blip2"])
def test_a_picture_without_words_is_captioned_as_upstream_does_by_itself(
    family: str, chat_checkpoint: Callable[[str], Path], chat_bundle: Callable[[str, str], Exported], paths: list[Path]
) -> None:
    judge = natives.native(family, chat_checkpoint(family), "")
    bundle, captions = open_bundle(chat_bundle(family, "fp32")[0]), set()
    with edgevlm.load_chat(bundle.root) as chat, Talk(bundle) as talk:
        for path in paths:
            answer_ids, want = judge.caption(path, ANSWER_TOKENS)
            _, got = talk.answer(talk.question(photo(path), ""), len(answer_ids), answer_ids)
            assert got.shape == want.shape and gap(got, want) < TOLERANCE
            stops = bundle.manifest.driver.args.stop_ids
            answer = chat.ask(path, max_new_tokens=ANSWER_TOKENS)
            assert answer.token_ids == tuple(token for token in answer_ids if token not in stops)
            captions.add(answer_ids)
    assert len(captions) == len(paths) and all(len(set(answer_ids)) >= 4 for answer_ids in captions)


def test_the_export_judged_captions_without_words_where_none_are_needed(chat_family: str, chat_fp32: Exported) -> None:
    texts = chat_fp32[1].fidelity["data"]["held_out_texts"]
    assert len(texts) == 4 and texts.count("") == (2 if chat_family in ("blip", "blip2") else 0)


def test_the_export_measured_the_same_and_ran_its_controls(chat_fp32: Exported) -> None:
    fidelity = chat_fp32[1].fidelity
    (row,) = fidelity["chat"]
    assert row["logit_relative_error"] < TOLERANCE and row["same_answers"] == row["answers"] == 4
    assert row["distinct_tokens"] >= 8 and row["same_next_word"] == 1.0
    assert {control["control"] for control in fidelity["controls"]} == set(CONTROLS)
    assert all(control["factor"] >= CONTROL for control in fidelity["controls"])


@pytest.mark.slow
def test_a_chat_traced_and_exported_twice_is_the_same_bytes(
    chat_checkpoint: Callable[[str], Path], chat_bundle: Callable[[str, str], Exported], tmp_path: Path
) -> None:
    again = export(chat_checkpoint("smolvlm"), tmp_path / "bundle")
    assert again.bundle_sha256 == chat_bundle("smolvlm", "fp32")[1].bundle_sha256


def test_a_layer_that_looks_back_a_little_gets_a_mask_of_its_own(chat_checkpoint: Callable[[str], Path]) -> None:
    graph = build(chat_checkpoint("paligemma2"))
    args = graph.driver.args
    assert dict(args.masks) == {"sliding_mask": chats.WINDOW, "mask": None}  # type: ignore[union-attr]
    assert args.prefix == "bidirectional" and args.first_position == 1  # type: ignore[union-attr]
