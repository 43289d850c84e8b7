"""The TensorRT form of every stage is parsed and built ahead of time for SM86; it is not run: no GPU is used."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
from support.rtx import build

from edgevlm.bundle import open_bundle
from edgevlm_export.report import ExportReport

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs pip install '.[tensorrt-rtx]'"),
]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_stage_builds_for_sm86(
    precision: str, hub_fp32: tuple[Path, ExportReport], hub_int8: tuple[Path, ExportReport]
) -> None:
    bundle = open_bundle({"fp32": hub_fp32, "int8": hub_int8}[precision][0])
    for name in bundle.manifest.stages:
        engine = build(bundle, name)
        assert engine is not None and engine.nbytes > 1000, name


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", ["llava", "paligemma2", "blip2", "blip", "blip_vqa"])
def test_every_stage_of_a_chat_builds_for_sm86(
    name: str, precision: str, chat_bundle: Callable[[str, str], tuple[Path, ExportReport]]
) -> None:
    bundle = open_bundle(chat_bundle(name, precision)[0])
    more = {"encoder"} if name == "blip_vqa" else set()
    assert set(bundle.manifest.stages) == {"vision", "decoder"} | more
    for stage in bundle.manifest.stages:
        engine = build(bundle, stage)
        assert engine is not None and engine.nbytes > 1000, stage


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_stage_of_a_detector_builds_for_sm86(
    precision: str, owl_family: str, owl_bundle: Callable[[str, str], tuple[Path, ExportReport]]
) -> None:
    bundle = open_bundle(owl_bundle(owl_family, precision)[0])
    assert set(bundle.manifest.stages) == {"vision", "text"}
    for stage in bundle.manifest.stages:
        engine = build(bundle, stage)
        assert engine is not None and engine.nbytes > 1000, stage


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", ["visual_bert", "visual_bert_reasoning", "blip_matching"])
def test_every_stage_of_a_model_of_pairs_builds_for_sm86(
    name: str, precision: str, pair_bundle: Callable[[str, str], tuple[Path, ExportReport]]
) -> None:
    bundle = open_bundle(pair_bundle(name, precision)[0])
    assert "head" in bundle.manifest.stages
    for stage in bundle.manifest.stages:
        engine = build(bundle, stage)
        assert engine is not None and engine.nbytes > 1000, stage


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_stage_of_a_policy_builds_for_sm86(precision: str, smolvla_bundle: Callable[[str], Path]) -> None:
    bundle = open_bundle(smolvla_bundle(precision))
    assert set(bundle.manifest.stages) == {"vision", "prefix", "denoise"}
    for stage in bundle.manifest.stages:
        engine = build(bundle, stage)
        assert engine is not None and engine.nbytes > 1000, stage
