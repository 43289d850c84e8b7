"""Every product that an export quantizes runs as an integer kernel in the engine, for every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgevlm.bundle import open_bundle
from edgevlm.engines import quantized_kernels
from edgevlm.options import RuntimeOptions

Exported = tuple[Path, Any]
Bundles = Callable[[str, str], Exported]
slow = pytest.mark.slow
CHATS = ("llava", "blip2", "blip_vqa", "paligemma2")


def check(root: Path) -> None:
    bundle = open_bundle(root)
    quantized = {name: spec.quantized_nodes for name, spec in bundle.manifest.stages.items() if spec.quantized_nodes}
    assert quantized
    kernels = quantized_kernels(bundle, RuntimeOptions(intra_threads=1))
    assert {name: each.dequantized for name, each in kernels.items()} == dict.fromkeys(quantized, 0)
    assert {name: each.integer for name, each in kernels.items()} == quantized


def test_of_a_policy(int8: Exported) -> None:
    check(int8[0])


def test_of_two_encoders(hub_int8: Exported) -> None:
    check(hub_int8[0])


@slow
def test_of_a_policy_that_takes_words(smolvla_bundle: Callable[[str], Path]) -> None:
    check(smolvla_bundle("int8"))


@pytest.mark.parametrize(
    "name", ["smolvlm", *(pytest.param(name, marks=slow) for name in ("llava", "blip2", "blip_vqa"))]
)
def test_of_a_chat(name: str, chat_bundle: Bundles) -> None:
    check(chat_bundle(name, "int8")[0])


@slow
@pytest.mark.parametrize("name", ["owlvit", "owlv2"])
def test_of_a_detector(name: str, owl_bundle: Bundles) -> None:
    check(owl_bundle(name, "int8")[0])


@slow
@pytest.mark.parametrize("name", ["blip_matching", "visual_bert"])
def test_of_pairs(name: str, pair_bundle: Bundles) -> None:
    check(pair_bundle(name, "int8")[0])
