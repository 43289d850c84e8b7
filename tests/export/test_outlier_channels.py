"""Copies of checkpoints with channels 64 times as large behind their norms, undone by the next weights.

Trained models have such channels. The function is the same; integers with one scale for a whole tensor lose the others.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support import captioners, chats, hub, owls, pairs

from edgevlm_calibration.progress import silent
from edgevlm_calibration.runner import calibrate_on, record
from edgevlm_export.checkpoint import Checkpoint
from edgevlm_export.exporter import Job
from edgevlm_export.families import prepare
from edgevlm_export.quantization import QUANTIZERS
from edgevlm_export.quantization.base import outputs
from edgevlm_export.quantization.cost import COSINE, worst_cosine
from edgevlm_export.quantization.passes.channel_max import channel_max
from edgevlm_export.quantization.passes.smooth import smooth, smoothed
from edgevlm_export.recipes import ExportOptions, open_recipe
from edgevlm_export.recipes.pictures import PictureRecipe

# family -> (its small checkpoint, what enlarges channels of it, stage -> how many norms it enlarges there)
FAMILIES: dict[str, tuple[Any, Callable[[Any], None], dict[str, int]]] = {
    "clip": (hub.clip, hub.outliers, {"vision": 4, "text": 4}),
    "siglip": (hub.siglip, hub.outliers, {"vision": 4, "text": 4}),
    "owlvit": (owls.owlvit, owls.outliers, {"vision": 4, "text": 4}),
    "owlv2": (owls.owlv2, owls.outliers, {"vision": 4, "text": 4}),
    # The layers of BLIP's texts put what their norms make into the sum as well: there is nothing to undo it.
    "blip": (captioners.blip, captioners.outliers, {"vision": 6}),
    "blip_vqa": (captioners.blip_vqa, captioners.outliers, {"vision": 6}),
    "blip2": (captioners.blip2, captioners.outliers, {"vision": 6, "decoder": 6}),
    "blip_matching": (captioners.blip_matching, captioners.outliers, {"vision": 6}),
    "visual_bert": (pairs.visual_bert, pairs.visual_bert_outliers, {"head": 1}),  # see there for why not more
    "llava": (chats.llava, chats.outliers, {"vision": 4, "decoder": 6}),  # it leaves its last vision layer out
    "smolvlm": (chats.smolvlm, chats.outliers, {"vision": 6, "decoder": 6}),
    "idefics3": (chats.idefics3, chats.outliers, {"vision": 6, "decoder": 6}),
    "paligemma": (chats.paligemma, chats.outliers, {"vision": 6, "decoder": 6}),
    "paligemma2": (chats.paligemma2, chats.outliers, {"vision": 6, "decoder": 6}),
}

Course = PictureRecipe[Any]
Models = dict[str, onnx.ModelProto]


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name != "clip"]


@pytest.fixture(scope="module", params=["clip", *SLOW])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def recipe(name: str, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Course:
    make, enlarge, _ = FAMILIES[name]
    work = tmp_path_factory.mktemp("outliers")
    source = make(work / "checkpoint", edit=enlarge)
    data = pairs.regions_folder(work / "regions") if make is pairs.visual_bert else photos
    asked = ExportOptions(precision="int8", calibration=data, topics=None, texts=None, samples=256)
    opened = open_recipe(prepare(Checkpoint(source)), asked)
    assert isinstance(opened, PictureRecipe)
    return opened


@pytest.fixture(scope="module")
def models(recipe: Course, remembered_trace: Callable[..., Any]) -> Models:
    return {stage.name: remembered_trace(stage) for stage in recipe.graph.stages}


def test_they_break_plain_int8_and_not_ours(recipe: Course, models: Models, name: str, tmp_path: Path) -> None:
    job = Job(recipe, QUANTIZERS["int8"], tmp_path, silent)
    even = job.prepare(models)
    with job.fp32_reference(models) as bundle:
        table = calibrate_on(bundle, recipe.data, recipe.run)
    for stage in FAMILIES[name][2]:
        plain = job.quantizer.quantize(recipe.graph.stage(stage), models[stage], table).model("tensorrt")
        assert min(worst_cosine(models[stage], plain, recipe.feeds[stage]).values()) < COSINE, stage
    created = job.compress(even, job.table(even)).values()
    assert "int8" in {one.precision for one in created}
    assert all(one.precision == "int8" or "worst cosine" in one.reason for one in created)


def test_evening_out_changes_nothing_and_removes_them(
    recipe: Course, models: Models, name: str, tmp_path: Path
) -> None:
    run, _ = recipe.probe
    with Job(recipe, QUANTIZERS["int8"], tmp_path, silent).fp32_reference(models) as bundle:
        feeds = record(bundle, recipe.data, run, 4)
    for stage, norms in FAMILIES[name][2].items():
        model = models[stage]
        before = channel_max(model, smoothed(model), feeds[stage])
        even = smooth(model, before)
        after = channel_max(even, smoothed(even), feeds[stage])
        spread = [np.ptp(np.log2(peak)) for peak in before.values()]
        assert set(before) == set(after) and sum(one > 5 for one in spread) == norms
        assert all(np.ptp(np.log2(peak)) < 5 for peak in after.values())
        for one, other in zip(outputs(model, feeds[stage]), outputs(even, feeds[stage]), strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5 * max(1.0, float(np.abs(one).max())))
