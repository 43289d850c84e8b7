"""int8 chats: calibrated on prompts with real pasts, judged on held-out ones, and proof against outlier channels."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import chats

import edgevlm
from edgevlm.bundle import open_bundle
from edgevlm_calibration.chat import calibrate_chat, record
from edgevlm_calibration.sources import open_pictures
from edgevlm_export.courses import ChatCourse
from edgevlm_export.courses import chat as course_module
from edgevlm_export.exporter import Job
from edgevlm_export.families import build
from edgevlm_export.passes.equalize import equalize, evened
from edgevlm_export.passes.peaks import peaks
from edgevlm_export.pieces import Chain
from edgevlm_export.report import ExportReport
from edgevlm_export.stage_graph import ChatGraph
from edgevlm_export.stages import outputs, quantized_stage

Exported = tuple[Path, ExportReport]
FAMILIES = ("llava", "paligemma2")  # both kinds of norm, with and without squashed scores


@pytest.fixture(scope="module", params=FAMILIES)
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
            found = re.search(r"worst cosine (0\.\d+) over \d+ runs", stage.reason)
            assert found and float(found[1]) < course_module.COSINE and stage.precision == "fp32"
    for row in report.fidelity["stages"]:
        assert row["cosine_mean"] > 0.99, row


def test_int8_keeps_its_stages_or_says_why_not(int8: Exported) -> None:
    check_stages(int8[1])
    assert {row["form"] for row in int8[1].fidelity["chat"]} == {"cpu", "tensorrt"}
    assert all(row["logit_cosine_min"] > 0.97 for row in int8[1].fidelity["chat"])
    bits = int8[1].fidelity["forms_bit_equal"]
    assert bits["outputs"] > 10 and set(bits["stages"]) == {"vision", "decoder"}
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
    feeds = record(open_bundle(int8[0]), open_pictures(photos), 2)
    lengths = [one["embeds"].shape[1] for one in feeds["decoder"]]
    assert lengths[1::2] == [1, 1] and min(lengths[::2]) > 16
    for read, one in zip(lengths[::2], feeds["decoder"][1::2], strict=True):  # what was read is there, and shown
        shown = int((one["mask"][0, 0, 0, :-1] == 0).sum())
        assert shown == read
        assert np.abs(one["past_key_0"][0, :shown]).min(axis=(1, 2)).max() > 0
    assert len(feeds["vision"]) == 2


@pytest.fixture(scope="module")
def outlying(name: str, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> ChatCourse:
    source = getattr(chats, name)(tmp_path_factory.mktemp("outliers") / "checkpoint", edit=chats.outliers)
    graph = build(source)
    assert isinstance(graph, ChatGraph)
    return ChatCourse(graph, open_pictures(photos))


def test_outlier_channels_break_plain_int8_and_not_ours(
    outlying: ChatCourse, remembered_trace: Callable[..., Any], tmp_path: Path
) -> None:
    models = {stage.name: remembered_trace(stage) for stage in outlying.graph.stages}
    tmp_path.joinpath("work").mkdir()
    job = Job(outlying, tmp_path / "work", lambda *_: None)
    even = outlying.before_int8(models, job.fp32_beside, lambda *_: None)
    with job.fp32_beside(models) as bundle:
        table = calibrate_chat(bundle, outlying.data)
    for stage in outlying.graph.stages:
        plain = quantized_stage(stage, models[stage.name], table).model
        worst = course_module.worst_cosine(models[stage.name], plain, outlying.feeds[stage.name])
        assert min(worst.values()) < course_module.COSINE, stage.name
    ours = job.table(even)
    made = [outlying.int8(stage, even[stage.name], ours) for stage in outlying.graph.stages]
    assert "int8" in {one.precision for one in made}
    assert all(one.precision == "int8" or "worst cosine" in one.reason for one in made)


def test_evening_out_changes_nothing_and_removes_the_outliers(
    outlying: ChatCourse, remembered_trace: Callable[..., Any], tmp_path: Path
) -> None:
    models = {stage.name: remembered_trace(stage) for stage in outlying.graph.stages}
    with Job(outlying, tmp_path, lambda *_: None).fp32_beside(models) as bundle:
        feeds = record(bundle, outlying.data, 4)
    for name, model in models.items():
        before = peaks(model, evened(model), feeds[name])
        even = equalize(model, before)
        after = peaks(even, evened(even), feeds[name])
        spread = [np.ptp(np.log2(peak)) for peak in before.values()]
        chain = outlying.graph.stage(name).module
        assert isinstance(chain, Chain)
        layers = sum(piece.name.startswith("layer_") for piece in chain.pieces)  # LLaVA leaves its last one out
        assert set(before) == set(after) and sum(one > 5 for one in spread) == 2 * layers  # two norms of each
        assert all(np.ptp(np.log2(peak)) < 5 for peak in after.values())
        for one, other in zip(outputs(model, feeds[name]), outputs(even, feeds[name]), strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-4)
