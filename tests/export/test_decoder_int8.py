"""int8 chats: calibrated on prompts with real pasts, judged on held-out ones, and proof against outlier channels."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edgevlm
from edgevlm.bundle import open_bundle
from edgevlm.data.pictures import open_pictures
from edgevlm_calibration.chat import CHAT_PROBE
from edgevlm_calibration.runner import record
from edgevlm_export.quantization import cost
from edgevlm_export.report import ExportReport

Exported = tuple[Path, ExportReport]
# Both kinds of norm, with and without squashed scores; and every loop.
# Family -> the fewest tokens that its decoder reads of a picture and a question, before it speaks.
LEAST = {"llava": 17, "paligemma2": 17, "blip2": 8, "blip": 4, "blip_vqa": 1}
ALONE = {"blip2": 5, "blip": 1}  # of those that caption: the second picture is shown without words


@pytest.fixture(
    scope="module", params=["llava", *(pytest.param(name, marks=pytest.mark.slow) for name in list(LEAST)[1:])]
)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def int8(name: str, chat_bundle: Callable[[str, str], Exported]) -> Exported:
    return chat_bundle(name, "int8")


def check_stages(report: ExportReport) -> None:
    """Every stage keeps .99 in int8, or is in fp32 and says what int8 would have cost; one at least is int8."""
    stages = {stage.stage: stage for stage in report.stages}
    assert "int8" in {stage.precision for stage in stages.values()}
    for stage in stages.values():
        if stage.precision == "int8":
            assert stage.quantized_nodes > 10 and not stage.reason
        else:
            result = re.search(r"worst cosine (0\.\d+) over \d+ runs", stage.reason)
            assert result and float(result[1]) < cost.COSINE and stage.precision == "fp32"
    for row in report.fidelity["stages"]:
        assert row["cosine_mean"] > 0.99, row


def test_int8_keeps_its_stages_or_says_why_not(int8: Exported) -> None:
    check_stages(int8[1])
    assert {row["form"] for row in int8[1].fidelity["chat"]} == {"cpu", "tensorrt"}
    assert all(row["logit_cosine_min"] > 0.97 for row in int8[1].fidelity["chat"])
    bits = int8[1].fidelity["forms_bit_equal"]
    assert bits["outputs"] > 10 and set(bits["stages"]) == set(open_bundle(int8[0]).manifest.stages)
    (other,) = (one for one in int8[1].fidelity["controls"] if one["control"] == "other-picture")
    assert other["passed"]


def test_an_int8_bundle_answers(int8: Exported, photos: Path) -> None:
    with edgevlm.load_chat(int8[0]) as chat:
        answer = chat.ask(photos / "coffee.png", "What is this?", max_new_tokens=8)
        assert len(answer.token_ids) == 8


def test_pictures_that_calibrated_do_not_judge(int8: Exported) -> None:
    record = open_bundle(int8[0]).records()["calibration"]
    judged = int8[1].fidelity["data"]["held_out_pictures"]
    assert judged and set(judged) <= set(record["split"]["held_out"])
    assert not set(record["split"]["held_out"]) & set(record["split"]["calibration"])
    assert record["stage_runs"]["decoder"] > record["stage_runs"]["vision"] >= 10


def test_ranges_come_from_prompts_and_from_new_words_with_a_real_past(int8: Exported, name: str, photos: Path) -> None:
    feeds = record(open_bundle(int8[0]), open_pictures(photos), CHAT_PROBE, 2)
    lengths = [one["embeds"].shape[1] for one in feeds["decoder"]]
    assert lengths[1::2] == [1, 1] and lengths[0] >= LEAST[name]
    assert lengths[2] >= LEAST[name] if name not in ALONE else lengths[2] == ALONE[name]
    for read, one in zip(lengths[::2], feeds["decoder"][1::2], strict=True):  # what was read is there, and shown
        displayed = int((one["mask"][0, 0, 0, :-1] == 0).sum())
        assert displayed == read
        assert np.abs(one["past_key_0"][0, :displayed]).min(axis=(1, 2)).max() > 0
    assert len(feeds["vision"]) == 2
