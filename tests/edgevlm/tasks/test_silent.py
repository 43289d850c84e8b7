"""A policy that takes no words: any text starts the robot, and none of it changes what the model does."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import tiny
from support.functions import graph_of
from support.tiny import Open

from edgevlm.bundle import open_bundle
from edgevlm.drivers import FuseDriver
from edgevlm.engines import Host, open_engine
from edgevlm.errors import BundleError, InstructionError
from edgevlm.loop.instructions import Instructions
from edgevlm.manifest.contract import Stamped
from edgevlm.manifest.schema import Manifest
from edgevlm.options import RuntimeOptions

OPTIONS = RuntimeOptions(intra_threads=1)


def test_it_acts_as_its_stages_do_run_by_hand(bundles: dict[str, Path], open_policy: Open) -> None:
    policy, counted = open_policy("silent")
    session = policy.session()
    observed = [tiny.observation(policy.contract, index) for index in range(3)]
    chunks = [session.act(one) for one in observed]
    bundle = open_bundle(bundles["silent"])
    host = Host(open_engine(bundle, bundle.manifest.stages, OPTIONS))
    maps = [
        host.run("vision", {"pixels": policy.prepare("front", one.frames["front"].value)[0]})["features"]
        for one in observed
    ]
    assert observed[2].state is not None
    state = policy.normalize_state(observed[2].state.value)
    expected = host.run("head", {"front_0": maps[1], "front_1": maps[2], "state": state})["chunk"][0]
    action = policy.contract.action
    np.testing.assert_array_equal(chunks[2].values, expected * action.column("scale") + action.column("offset"))
    assert counted.runs == {"vision": 3, "head": 3}, "each frame is encoded once, also without a pool"


@pytest.mark.parametrize("text", ["", " ", "go", "words \u4e0d\u77e5 that no tokenizer ever saw"])
def test_any_text_is_accepted_and_changes_nothing(open_policy: Open, text: str) -> None:
    policy, _ = open_policy("silent")
    policy.check_instruction(text)
    one, other = (policy.session().act(tiny.observation(policy.contract, 0, words)) for words in (text, "push"))
    assert np.array_equal(one.values, other.values)


@pytest.mark.parametrize("name", ["silent", "mono"])
@pytest.mark.parametrize("text", [None, 7, b"go"])
def test_what_is_no_text_is_refused_with_and_without_words(open_policy: Open, name: str, text: Any) -> None:
    policy, _ = open_policy(name)
    with pytest.raises(InstructionError, match="expected text"):
        policy.check_instruction(text)
    with pytest.raises(InstructionError, match="expected text"):
        policy.session().act(tiny.observation(policy.contract, 0, text))


def test_pictures_state_and_their_order_in_time_matter(open_policy: Open) -> None:
    policy, _ = open_policy("silent")
    contract = policy.contract
    session = policy.session()
    session.push("front", Stamped(tiny.image(contract.cameras[0], 50), tiny.START_NS - tiny.PERIOD_NS))
    plain = session.act(tiny.observation(contract, 0)).values
    alone = policy.session().act(tiny.observation(contract, 0)).values
    assert np.abs(plain - alone).max() > 1e-3, "the past frame is read"


def test_the_robot_starts_only_when_somebody_says_so(open_policy: Open) -> None:
    policy, _ = open_policy("silent")
    instructions = Instructions(policy.check_instruction)
    assert instructions.text is None
    assert instructions.say("topic", "go") == "" and instructions.text == "go"
    assert instructions.say("topic", "") == "" and instructions.text is None, "empty text stops it, as with any policy"
    number = instructions.begin("")  # a goal needs no words
    assert instructions.text == "" and instructions.goal == number


def test_warm_up_runs_every_stage(open_policy: Open) -> None:
    policy, counted = open_policy("silent")
    policy.warm_up()
    assert counted.runs["vision"] > 0 and counted.runs["head"] > 0


def test_the_bundle_has_no_tokenizer_and_says_so(bundles: dict[str, Path]) -> None:
    bundle = open_bundle(bundles["silent"])
    assert not (bundle.root / "tokenizer.json").exists()
    with pytest.raises(BundleError, match="takes no words"):
        bundle.tokenizer()


@pytest.mark.parametrize("part", ["tokenizer", "instruction", "text"])
@pytest.mark.parametrize("name", ["silent", "mono"])
def test_words_in_some_parts_only_are_refused(bundles: dict[str, Path], name: str, part: str) -> None:
    data = json.loads((bundles[name] / "manifest.json").read_text())
    other = json.loads((bundles["mono" if name == "silent" else "silent"] / "manifest.json").read_text())
    changed = copy.deepcopy(data)
    if part == "tokenizer":
        changed["tokenizer"] = other["tokenizer"]
        changed["files"] |= {path: entry for path, entry in other["files"].items() if path == "tokenizer.json"}
    elif part == "instruction":
        changed["contract"]["instruction"] = other["contract"]["instruction"]
    else:
        changed["driver"]["args"]["text"] = other["driver"]["args"]["text"]
        changed["stages"].pop("text", None)
        changed["stages"] |= {"text": other["stages"]["text"]} if name == "silent" else {}
        changed["files"] |= other["files"]
    with pytest.raises(BundleError, match="or none of them; got"):
        Manifest.parse(json.dumps(changed))


def test_a_head_that_misses_a_slot_is_refused_when_the_bundle_is_opened(tmp_path: Path) -> None:
    root = tiny.silent(tmp_path / "bundle")
    tiny.rewrite(root, lambda data: data["stages"]["head"]["inputs"].pop(0))
    manifest = open_bundle(root).manifest
    with pytest.raises(BundleError, match=r"stage 'head'.*every slot of the window"):
        FuseDriver(manifest.driver.args, manifest, graph_of({}))
