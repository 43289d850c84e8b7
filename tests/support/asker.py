"""Chat bundles of a few kilobytes whose decoder looks at a picture, or at an encoded question about it.

They speak the bytes of `support.talker`, and every answer's row begins with its `<bos>`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support import talker, tiny

from edgevlm.bundle import new_directory, write_manifest
from edgevlm.manifest.schema import FORMAT, FileEntry, Manifest, Port

MOST = 24  # tokens of a question
ASKED = {"asked": (1, 8, MOST)}


def parts(reader: str, **args: Any) -> dict[str, Any]:
    """What the manifest says beside its files; `args` replaces parts of the driver's."""
    encoded = reader == "encoder"
    observed = Port(name="features", dtype="float32", shape=(1, 4, talker.WIDTH), kind="features")
    read = Port(name="read", dtype="float32", shape=(1, "asked", talker.WIDTH), kind="features")
    pixels = Port(name="pixels", dtype="float32", shape=(1, 3, 8, 8), kind="pixels")
    ids = Port(name="ids", dtype="int64", shape=(1, "asked"), kind="ids")
    plain = talker.decoder_stage()
    file, more = ("asked_decoder", ASKED) if encoded else ("shown_decoder", {})
    stages = {
        "vision": tiny.stage("chat_vision", [pixels], [observed]),
        "decoder": tiny.stage(
            file, [*plain.inputs, read if encoded else observed], list(plain.outputs), dynamic={**plain.dynamic, **more}
        ),
    }
    if encoded:
        stages["encoder"] = tiny.stage("asked_encoder", [ids, observed], [read], dynamic=ASKED)
    cache = {"layers": 2, "heads": talker.HEADS, "head_dim": talker.SIZE, "slots": talker.SLOTS, "step": talker.STEP}
    usual = {
        **{"vision": "vision", "encoder": "encoder" if encoded else None, "decoder": "decoder"},
        **{"embeddings": "embeddings.npy", "cache": cache, "masks": {"far": None, "near": 5}},
        **{"chunk": talker.CHUNK, "begin": (talker.BOS,), "stop_ids": (talker.END,)},
    }
    return {
        "format": FORMAT,
        "family": "tiny",
        "task": "chat",
        "precision": "fp32",
        "tokenizer": "tokenizer.json",
        "source_sha256": "0" * 64,
        "stages": stages,
        "preprocess": {"image": (tiny.Resize(width=8, height=8), tiny.NORMALIZE)},
        "driver": {"name": "seq2seq", "args": {**usual, **args}},
        "question": {"reader": reader, "max_tokens": MOST, "special_tokens": False, "needs_text": encoded},
    }


def chat(root: Path, reader: str = "decoder", **args: Any) -> Path:
    """Write the bundle: `decoder` goes on from the beginning of an answer, `encoder` reads a question."""
    fields = parts(reader, **args)

    def build(files: Mapping[str, FileEntry]) -> Manifest:
        return Manifest.build(**{**fields, "files": files})

    with new_directory(root) as work:
        (work / "stages").mkdir()
        for stage in fields["stages"].values():
            for form in stage.forms.values():
                shutil.copyfile(tiny.STAGES / Path(form).name, work / form)
        shutil.copyfile(tiny.STAGES / "chat_tokenizer.json", work / "tokenizer.json")
        shutil.copyfile(tiny.STAGES / "chat_embeddings.npy", work / "embeddings.npy")
        write_manifest(work, build)
    return root
