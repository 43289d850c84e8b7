"""The composed bundle, through the runtime, beside upstream's processor, one native forward and its own search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from support import chats, hub
from transformers.image_utils import load_image

import edgevlm
from edgevlm.bundle import open_bundle
from edgevlm_calibration.chat import Question, Talk
from edgevlm_calibration.sources import Photo
from edgevlm_export.conversation import Engines
from edgevlm_export.exporter import export
from edgevlm_export.families import build
from edgevlm_export.report import ExportReport
from edgevlm_export.wrong import CONTROLS

Exported = tuple[Path, ExportReport]
TOLERANCE = 1e-4  # of the scale of the logits
CONTROL = 100  # a wrong input must move the logits at least this many tolerances
SAID = 40  # greedy tokens
TEXT = "Is this a photo of a cat?"
NAMES = ("coffee.png", "rocket.jpg", "astronaut.png")  # shrunk alike by every Pillow
CLASSES = {  # model and processor of upstream's
    "llava": ("LlavaForConditionalGeneration", "LlavaProcessor"),
    "smolvlm": ("SmolVLMForConditionalGeneration", "Idefics3Processor"),
    "idefics3": ("Idefics3ForConditionalGeneration", "Idefics3Processor"),
    "paligemma": ("PaliGemmaForConditionalGeneration", "PaliGemmaProcessor"),
    "paligemma2": ("PaliGemmaForConditionalGeneration", "PaliGemmaProcessor"),
}


@dataclass(frozen=True)
class Native:
    """The upstream model and the processor that reads its inputs."""

    model: Any
    processor: Any

    def inputs(self, path: Path) -> dict[str, Any]:
        picture = load_image(str(path))
        if isinstance(self.processor, transformers.PaliGemmaProcessor):
            found = dict(self.processor(text=[TEXT], images=[[picture]], return_tensors="np"))
            return {name: torch.from_numpy(np.array(value)) for name, value in found.items() if name != "labels"}
        parts = [{"type": "image", "image": picture}, {"type": "text", "text": TEXT}]
        text = self.processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
        return dict(self.processor(text=[text], images=[picture], return_tensors="pt"))

    def answer(self, path: Path) -> tuple[tuple[int, ...], NDArray[np.float32]]:
        """(greedy tokens, the logits each was chosen from)."""
        given = self.inputs(path)
        with torch.no_grad():
            out = self.model.generate(
                **given, max_new_tokens=SAID, do_sample=False, return_dict_in_generate=True, output_logits=True
            )
        said = out.sequences[0, given["input_ids"].shape[1] :].tolist()
        return tuple(said), torch.stack(out.logits)[:, 0].numpy()

    def forward(self, path: Path, said: tuple[int, ...]) -> NDArray[np.float32]:
        """The logits of `said` in one forward over prompt and answer, without a cache."""
        given = self.inputs(path)
        start = given["input_ids"].shape[1]
        answer = torch.tensor([said[:-1]])
        given["input_ids"] = torch.cat([given["input_ids"], answer], 1)
        given["attention_mask"] = torch.ones_like(given["input_ids"])
        if "token_type_ids" in given:  # 1: an answer, which looks back only
            given["token_type_ids"] = torch.cat([given["token_type_ids"], torch.ones_like(answer)], 1)
        with torch.no_grad():
            return self.model(**given).logits[0, start - 1 :].numpy()


@pytest.fixture(scope="module")
def native(chat_family: str, chat_source: Path) -> Native:
    model, processor = (getattr(transformers, name) for name in CLASSES[chat_family])
    return Native(model.from_pretrained(chat_source).eval(), processor.from_pretrained(chat_source))


@pytest.fixture(scope="module")
def paths() -> list[Path]:
    known = {path.name: path for path in hub.photographs()}
    return [known[name] for name in NAMES]


@pytest.fixture(scope="module")
def answers(native: Native, paths: list[Path]) -> list[tuple[tuple[int, ...], NDArray[np.float32]]]:
    return [native.answer(path) for path in paths]


def photo(path: Path) -> Photo:
    return Photo(path.name, lambda: np.asarray(load_image(str(path))))


def gap(got: NDArray[Any], want: NDArray[Any]) -> float:
    """The largest error, relative to the scale of what was wanted."""
    return float(np.abs(got - want).max() / np.abs(want).max())


def test_the_answers_that_judge_say_something(answers: list[tuple[tuple[int, ...], NDArray[np.float32]]]) -> None:
    assert len({said for said, _ in answers}) == len(answers)
    for said, logits in answers:
        top = np.sort(logits, axis=1)[:, -2:]
        assert len(said) >= 32 and len(set(said)) >= 8 and (top[:, 1] - top[:, 0]).min() > 1e-3


def test_the_answer_is_word_by_word_upstreams(
    chat_fp32: Exported, answers: list[tuple[tuple[int, ...], NDArray[np.float32]]], paths: list[Path]
) -> None:
    with edgevlm.load_chat(chat_fp32[0]) as chat:
        for path, (said, _) in zip(paths, answers, strict=True):
            got = chat.ask(path, TEXT, max_new_tokens=SAID)
            assert got.token_ids == tuple(
                token for token in said if token not in chat.bundle.manifest.chat().args.stop_ids
            )


def test_prompt_and_pixels_are_upstreams(chat_fp32: Exported, native: Native, paths: list[Path]) -> None:
    with edgevlm.load_chat(chat_fp32[0]) as chat:
        for path in paths:
            want, got = native.inputs(path), chat.prepare(path, TEXT)
            assert list(got.ids) == want["input_ids"][0].tolist()
            pixels = want["pixel_values"].reshape(-1, *want["pixel_values"].shape[-3:]).numpy()
            np.testing.assert_array_equal(np.concatenate(got.pixels), pixels)


def test_the_logits_of_every_token_are_upstreams(
    chat_fp32: Exported, native: Native, answers: list[tuple[tuple[int, ...], NDArray[np.float32]]], paths: list[Path]
) -> None:
    with Talk(open_bundle(chat_fp32[0])) as talk:
        for path, (said, searched) in zip(paths, answers, strict=True):
            _, got = talk.answer(talk.question(photo(path), TEXT), len(said), said)
            for want in (searched, native.forward(path, said)):
                assert got.shape == want.shape and gap(got, want) < TOLERANCE


@pytest.mark.parametrize("control", CONTROLS)
def test_a_wrong_input_moves_the_logits_by_a_hundred_tolerances(
    control: str,
    chat_fp32: Exported,
    answers: list[tuple[tuple[int, ...], NDArray[np.float32]]],
    paths: list[Path],
) -> None:
    wrong, engines = CONTROLS[control], Engines()
    engines.twist = wrong.inputs
    with Talk(open_bundle(chat_fp32[0]), backends=engines.open) as talk:
        asked: list[Question] = [talk.question(photo(path), TEXT) for path in paths]
        for i, (said, want) in enumerate(answers):
            _, got = talk.answer(wrong.question(asked, i), len(said), said)
            assert gap(got, want) > CONTROL * TOLERANCE, paths[i].name


def test_the_export_measured_the_same_and_ran_its_controls(chat_fp32: Exported) -> None:
    fidelity = chat_fp32[1].fidelity
    (row,) = fidelity["chat"]
    assert row["logit_relative_error"] < TOLERANCE and row["same_answers"] == row["answers"] == 4
    assert row["distinct_tokens"] >= 8 and row["same_next_word"] == 1.0
    assert {control["control"] for control in fidelity["controls"]} == set(CONTROLS)
    assert all(control["factor"] >= CONTROL for control in fidelity["controls"])


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
