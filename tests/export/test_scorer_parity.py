"""A composed scorer, through the runtime, beside one native forward of the upstream model with its own tokenizer."""

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
from support import pairs
from support.prompts import PROMPTS

import edgevlm
from edgevlm.manifest.schema import TextSpec
from edgevlm.text import TextEncoder
from edgevlm_export.report import ExportReport

Exported = tuple[Path, ExportReport]
Bundles = Callable[[str, str], Exported]
TOLERANCE = 1e-4  # of the scale of what is compared
CONTROL = 100  # a wrong input must move what is compared at least this many tolerances
TEXTS = ("is the cat on the table?", "how many dogs are there in the garden", "red", "What COLOUR is the café's door?")
COUNTS = (1, 2, 12, 36, 256)
CLASSES = {
    "visual_bert": transformers.VisualBertForQuestionAnswering,
    "visual_bert_reasoning": transformers.VisualBertForVisualReasoning,
}


@dataclass(frozen=True)
class Native:
    """The upstream model and its tokenizer."""

    model: Any
    tokenizer: Any

    def inputs(self, features: NDArray[np.float32], text: str) -> dict[str, Any]:
        observed = torch.from_numpy(features)[None]
        reported = self.tokenizer(text, return_tensors="pt")
        ones = torch.ones(observed.shape[:2], dtype=torch.long)
        return {
            **reported,
            "visual_embeds": observed,
            "visual_token_type_ids": ones,
            "visual_attention_mask": ones.clone(),
        }

    def __call__(self, **inputs: Any) -> NDArray[np.float32]:
        with torch.no_grad():
            logits: NDArray[np.float32] = self.model(**inputs).logits[0].numpy()
        return logits


@pytest.fixture(scope="module", params=sorted(CLASSES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def exported(name: str, pair_bundle: Bundles) -> Exported:
    return pair_bundle(name, "fp32")


def open_native(name: str, exported: Exported) -> Native:
    source = exported[0].parent / "checkpoint"
    return Native(CLASSES[name].from_pretrained(source).eval(), transformers.AutoTokenizer.from_pretrained(source))


@pytest.fixture(scope="module")
def native(name: str, exported: Exported) -> Native:
    return open_native(name, exported)


def gap(got: Any, want: Any) -> float:
    """The largest error, relative to the scale of what was wanted."""
    return float(np.abs(np.asarray(got) - want).max() / np.abs(want).max())


def test_logits_scores_and_labels_are_upstreams(exported: Exported, native: Native) -> None:
    best = set()
    with edgevlm.load_scorer(exported[0]) as scorer:
        for i, count in enumerate(COUNTS):
            features = pairs.regions(count, seed=i)
            for text in TEXTS:
                want = native(**native.inputs(features, text))
                result = scorer.score(features, text)
                assert gap(result.logits, want) < TOLERANCE, (count, text)
                np.testing.assert_allclose(result.scores, torch.tensor(want).softmax(0), atol=TOLERANCE)
                assert result.best == native.model.config.id2label[int(want.argmax())]
                best.add(result.best)
        assert list(scorer.labels) == [native.model.config.id2label[i] for i in range(len(scorer.labels))]
    assert len(best) > 1  # else any constant would do


def _hidden_regions(inputs: dict[str, Any]) -> None:
    inputs["visual_attention_mask"][:, ::2] = 0


def _hidden_words(inputs: dict[str, Any]) -> None:
    inputs["attention_mask"][:, 2:4] = 0


def _places(inputs: dict[str, Any]) -> Any:
    return torch.arange(inputs["input_ids"].shape[1])[None]


# Regions in another order are no control here: they have no places. Other regions, and none, are.
CONTROLS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "other-regions": lambda inputs: inputs.update(visual_embeds=torch.from_numpy(pairs.regions(12, seed=77))[None]),
    "no-regions": lambda inputs: inputs.update(visual_embeds=torch.zeros_like(inputs["visual_embeds"])),
    "shuffled-words": lambda inputs: inputs["input_ids"][:, 1:4].copy_(inputs["input_ids"][:, [3, 1, 2]]),
    "wrong-mask-of-regions": _hidden_regions,
    "wrong-mask-of-words": _hidden_words,
    "shifted-positions": lambda inputs: inputs.update(position_ids=_places(inputs) + 1),
}


@pytest.mark.parametrize("control", CONTROLS)
def test_a_wrong_input_moves_the_logits_by_a_hundred_tolerances(
    control: str, exported: Exported, native: Native
) -> None:
    features = pairs.regions(12)
    wrong = native.inputs(features, TEXTS[0])
    CONTROLS[control](wrong)
    with edgevlm.load_scorer(exported[0]) as scorer:
        assert gap(native(**wrong), scorer.score(features, TEXTS[0]).logits) > CONTROL * TOLERANCE


def test_regions_have_no_order(exported: Exported) -> None:
    features = pairs.regions(12)
    with edgevlm.load_scorer(exported[0]) as scorer:
        want = scorer.score(features, TEXTS[0]).logits
        assert gap(scorer.score(np.ascontiguousarray(features[::-1]), TEXTS[0]).logits, want) < TOLERANCE


def test_the_export_measured_the_same_and_ran_its_controls(exported: Exported) -> None:
    fidelity = exported[1].fidelity
    (row,) = fidelity["scoring"]
    assert row["logit_relative_error"] < TOLERANCE and row["same_best_label"] == 1.0
    assert fidelity["data"]["kind"] == "synthetic" and "made-up features" in fidelity["data"]["note"]
    names = [control["control"] for control in fidelity["controls"]]
    assert names == ["other-regions", "no-regions", "other-text", "reversed-words"]
    assert all(control["factor"] >= CONTROL for control in fidelity["controls"])


def test_two_hundred_prompts_become_the_ids_of_upstream(exported: Exported, native: Native) -> None:
    encoder = TextEncoder(exported[0] / "tokenizer.json", TextSpec(max_tokens=512, length="own"))
    assert len(set(PROMPTS)) == 200
    wrong = [
        (prompt, got, want)
        for prompt in PROMPTS
        if (got := encoder.encode(prompt)[0][0].tolist()) != (want := native.tokenizer(prompt)["input_ids"])
    ]
    assert not wrong, wrong[:5]


def test_a_text_or_a_picture_longer_than_the_model_is_refused(exported: Exported) -> None:
    with edgevlm.load_scorer(exported[0]) as scorer:
        with pytest.raises(edgevlm.errors.InstructionError, match=r"at most 48 tokens.*use fewer words"):
            scorer.score(pairs.regions(), "a cat and a dog " * 20)
        with pytest.raises(edgevlm.errors.ShapeError, match="1 to 256 regions"):
            scorer.score(pairs.regions(257), TEXTS[0])
