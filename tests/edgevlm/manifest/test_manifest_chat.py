"""The manifest of a chat: what fits opens and comes back the same; every part that does not fit is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import talker, tiny

from edgevlm.bundle import open_bundle
from edgevlm.errors import BundleError, TaskError, UnsafePathError
from edgevlm.manifest.schema import (
    ChatManifest,
    DialogueManifest,
    Manifest,
    PolicyManifest,
    QuestionManifest,
    RetrieverManifest,
)

Edit = Callable[[dict[str, Any]], Any]


def args(data: dict[str, Any]) -> Any:
    return data["driver"]["args"]


def cases(data: dict[str, Any]) -> Any:
    return data["prompt"]["dialogue"]["cases"]


def decoder(data: dict[str, Any]) -> Any:
    return data["stages"]["decoder"]


def port(data: dict[str, Any], name: str) -> Any:
    ports = [*decoder(data)["inputs"], *decoder(data)["outputs"]]
    return next(port for port in ports if port["name"] == name)


def test_a_chat_comes_back_the_same_and_gives_its_parts(tmp_path: Path) -> None:
    manifest = open_bundle(talker.chat(tmp_path / "chat")).manifest
    assert Manifest.parse(manifest.canonical()) == manifest
    chat = manifest.require(DialogueManifest)
    args = chat.driver.args
    assert (len(chat.operations), chat.prompt.image_id, args.cache.slots) == (2, talker.IMAGE, talker.SLOTS)
    assert args.longest_run == talker.CHUNK
    for other in (PolicyManifest, RetrieverManifest, QuestionManifest):
        with pytest.raises(TaskError, match="this one is a 'chat' with decoder"):
            manifest.require(other)
    with pytest.raises(TaskError, match=r"expected a bundle of the task 'chat' .* this one is a 'retriever'"):
        open_bundle(tiny.dual(tmp_path / "dual")).manifest.require(ChatManifest)


WRONG: list[tuple[str, Edit, str]] = [
    ("no prompt", lambda d: d.update(prompt=None), "needs \\['prompt'\\]"),
    ("a text too", lambda d: d.update(text={"max_tokens": 6, "length": "own"}), "needs \\['prompt'\\]"),
    ("another driver", lambda d: d.update(task="retriever"), "needs a driver among"),
    ("cameras", lambda d: d.update(preprocess={"front": d["preprocess"]["image"]}), "needs `preprocess`"),
    ("dialogue and pattern", lambda d: d["prompt"].update(plain="{images}{text}"), "exactly one of"),
    ("neither", lambda d: d["prompt"].update(dialogue=None), "exactly one of"),
    ("a pattern without words", lambda d: d["prompt"].update(dialogue=None, plain="{images}"), "plain must have"),
    ("a program", lambda d: d["prompt"].update(dialogue=None, template="tokenizer.json"), "1.4 has no programs"),
    ("no cases", lambda d: d["prompt"]["dialogue"].update(cases=[]), "at least 1 item"),
    ("a case twice", lambda d: cases(d).__setitem__(0, cases(d)[1]), "must differ in `system` or `pictures`"),
    ("five cases", lambda d: cases(d).append(cases(d)[1]), "at most 4 items"),
    ("an unknown gap", lambda d: cases(d)[0]["gaps"].update({"end-begin": {"text": ""}}), "Input should be 'begin-"),
    ("an unknown strip", lambda d: cases(d)[0]["gaps"]["user-end"].update(strip_before="all"), "strip_before"),
    ("a long gap", lambda d: cases(d)[0]["gaps"]["user-end"].update(text="x" * 65_537), "at most 65536 characters"),
    ("a user left out", lambda d: d["prompt"]["dialogue"].update(blank={"user": "left_out"}), "only a system text"),
    ("no image in a picture", lambda d: d["prompt"]["picture"].update(whole="x"), "whole must have"),
    ("half a grid", lambda d: d["prompt"]["picture"].update(tile="{image}"), "after_tiles must have"),
    ("features", lambda d: d["prompt"].update(picture_tokens=5), "picture_tokens is 5, vision gives 4"),
    (
        "unlisted template",
        lambda d: d.update(format="edgevlm.bundle/1.3") or d["prompt"].update(dialogue=None, template="other.jinja"),
        "files lists no",
    ),
    ("unlisted embeddings", lambda d: args(d).update(embeddings="other.npy"), "files lists no"),
    ("unlisted weights", lambda d: decoder(d).update(data=["stages/decoder.data"]), "files lists no"),
    ("no such stage", lambda d: args(d).update(vision="eyes"), "stages that do not exist"),
    ("slots", lambda d: args(d)["cache"].update(slots=250), "multiple of step"),
    ("layers", lambda d: args(d)["cache"].update(layers=3), "expected 3 port.s. of the kind 'past_key'"),
    ("heads", lambda d: args(d)["cache"].update(heads=1), "2 port.s. of the kind 'past_key' and the shape"),
    ("masks", lambda d: args(d).update(masks={"far": None}), "expected 1 port.s. of the kind 'mask'"),
    ("names of masks", lambda d: args(d).update(masks={"far": None, "wide": 3}), "ports of the kind 'mask' differ"),
    ("no window", lambda d: args(d).update(masks={"far": None, "near": 0}), "greater than 0"),
    ("no stops", lambda d: args(d).update(stop_ids=[]), "stop_ids"),
    ("a wide run", lambda d: decoder(d)["dynamic"].update(query=[1, 4, 4], keys=[17, 68, 260]), "query from 1 to 8"),
    ("a long prompt", lambda d: args(d).update(prefix="bidirectional") or shorten(d), "query from 1 to 256"),
    ("a short past", lambda d: decoder(d)["dynamic"].update(past=[16, 64, 128], keys=[17, 72, 384]), "to 256"),
    ("keys", lambda d: decoder(d)["dynamic"].update(keys=[1, 72, 512]), "must be query [+] past"),
    ("logits", lambda d: port(d, "logits").update(shape=[1, "query", 272]), "kind 'logits' and the shape"),
    ("width", lambda d: port(d, "embeds").update(shape=[1, "query", 9]), "1 port.s. of the kind 'embeds'"),
    ("index", lambda d: decoder(d)["inputs"].remove(port(d, "index")), "1 port.s. of the kind 'index'"),
    ("a new value", lambda d: port(d, "new_value_1").update(kind="new_key"), "2 port.s. of the kind 'new_key'"),
    ("an odd port", lambda d: port(d, "index").update(kind="state"), "no such ports"),
    ("vision", lambda d: d["stages"]["vision"]["outputs"][0].update(shape=[1, 8]), "features [(]1, T, H[)]"),
]


def shorten(data: dict[str, Any]) -> None:
    decoder(data)["dynamic"].update(query=[1, 8, 128], keys=[17, 72, 384])


@pytest.mark.parametrize(("edit", "message"), [pytest.param(e, m, id=name) for name, e, m in WRONG])
def test_parts_that_do_not_fit_are_named(tmp_path: Path, edit: Edit, message: str) -> None:
    root = talker.chat(tmp_path / "chat")
    tiny.rewrite(root, edit)
    with pytest.raises(BundleError, match=message):
        open_bundle(root)


def test_files_stay_inside_the_bundle(tmp_path: Path) -> None:
    text = (talker.chat(tmp_path / "chat") / "manifest.json").read_text()
    edits: list[Edit] = [
        lambda data: args(data).update(embeddings="../embeddings.npy"),
        lambda data: data["prompt"].update(dialogue=None, template="/etc/passwd"),
        lambda data: decoder(data).update(data=["../weights"]),
    ]
    for edit in edits:
        data = json.loads(text)
        edit(data)
        with pytest.raises(UnsafePathError):
            Manifest.parse(json.dumps(data))
