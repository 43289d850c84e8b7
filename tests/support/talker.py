"""A chat bundle of a few kilobytes: a real decoder of two layers, whose words depend on places, masks and the past.

It speaks bytes: ids 0-255 are bytes, 256 is `<image>`, 257 `<bos>`, 258 `<end>`. A picture is four features.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support import tiny

from edgevlm.bundle import new_directory, write_manifest
from edgevlm.manifest.schema import FORMAT, FileEntry, Manifest, Port

IMAGE, BOS, END = 256, 257, 258
SLOTS, STEP, CHUNK = 256, 16, 8
WIDTH, HEADS, SIZE, LAYERS, WORDS, FEATURES = 8, 2, 4, 2, 272, 4
TEMPLATE = """\
{{ bos_token }}{% for message in messages %}{{ message['role'] | capitalize }}:
{%- for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}{% endif %}
{%- endfor %}<end>
{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""


def _dialogue() -> dict[str, Any]:
    """TEMPLATE as data, by hand."""
    first, head, end = "<bos>", "User:", "<end>\n"
    gaps = {
        **{"user-assistant": f"{end}Assistant: ", "assistant-user": f"{end}{head} ", "user-end": f"{end}Assistant:"},
        **{"picture-picture": "", "picture-user": " ", "assistant-picture": f"{end}{head}"},
        **{"user-user": f"{end}{head} ", "user-picture": f"{end}{head}"},
    }
    alone = {**gaps, "begin-user": f"{first}{head} ", "begin-picture": f"{first}{head}"}
    after = {"begin-system": f"{first}System: ", "system-user": f"{end}{head} ", "system-picture": f"{end}{head}"}
    cases = [
        {
            "system": system,
            "pictures": pictures,
            "gaps": {
                name: {"text": text}
                for name, text in ({**gaps, **after} if system else alone).items()
                if pictures or "picture" not in name
            },
        }
        for system in (False, True)
        for pictures in (False, True)
    ]
    return {"cases": tuple(cases), "blank": dict.fromkeys(("system", "user", "assistant"), "written")}


DIALOGUE = _dialogue()
WITH_TEMPLATE = {  # for `prompt`: as before 1.4
    **{"dialogue": None, "template": "chat_template.jinja", "variables": {"bos_token": "<bos>"}},
}


def _port(name: str, kind: Any, *shape: int | str) -> Port:
    return Port(name=name, dtype="int64" if kind in ("positions", "index") else "float32", shape=shape, kind=kind)


def decoder_stage() -> Any:
    """The stage `chat_decoder.onnx`."""
    inputs = [_port("embeds", "embeds", 1, "query", WIDTH), _port("positions", "positions", 1, "query")]
    inputs += [_port(mask, "mask", 1, 1, "query", "keys") for mask in ("far", "near")] + [_port("index", "index", 1)]
    outputs = [_port("logits", "logits", 1, WORDS)]
    for layer in range(LAYERS):
        for part in ("key", "value"):
            inputs.append(_port(f"past_{part}_{layer}", f"past_{part}", 1, "past", HEADS, SIZE))
            outputs.append(_port(f"new_{part}_{layer}", f"new_{part}", 1, "query", HEADS, SIZE))
    ranges = {"query": (1, 8, SLOTS), "past": (STEP, 64, SLOTS), "keys": (1 + STEP, 72, 2 * SLOTS)}
    return tiny.stage("chat_decoder", inputs, outputs, dynamic=ranges)


def parts(**args: Any) -> dict[str, Any]:
    """What the manifest says beside its files; `args` replaces parts of the driver's."""
    vision = tiny.stage(
        "chat_vision", [_port("pixels", "pixels", 1, 3, 8, 8)], [_port("features", "features", 1, FEATURES, WIDTH)]
    )
    cache = {"layers": LAYERS, "heads": HEADS, "head_dim": SIZE, "slots": SLOTS, "step": STEP}
    usual = {
        "vision": "vision",
        "decoder": "decoder",
        "embeddings": "embeddings.npy",
        "cache": cache,
        "masks": {"far": None, "near": 5},
        "chunk": CHUNK,
        "stop_ids": (END,),
    }
    return {
        "format": FORMAT,
        "family": "tiny",
        "task": "chat",
        "precision": "fp32",
        "tokenizer": "tokenizer.json",
        "source_sha256": "0" * 64,
        "stages": {"vision": vision, "decoder": decoder_stage()},
        "preprocess": {"image": (tiny.Resize(width=8, height=8), tiny.NORMALIZE)},
        "driver": {"name": "decoder", "args": {**usual, **args}},
        "prompt": prompt(),
    }


def prompt(**more: Any) -> dict[str, Any]:
    """How words become ids; `more` replaces parts."""
    usual = {
        "dialogue": DIALOGUE,
        "placeholder": "<image>",
        "image_id": IMAGE,
        "picture_tokens": FEATURES,
        "picture": {"whole": "<whole>{image}"},
        "unless_begins": "<bos>",
    }
    return {**usual, **more}


PLAIN = {"dialogue": None, "plain": "{images}<bos>{text}\n", "special_tokens": False}  # for `prompt`: no dialogue


def chat(root: Path, *, template: str | None = None, words: Mapping[str, Any] | None = None, **args: Any) -> Path:
    """Write the bundle; `words` replaces parts of its prompt, `args` those of its driver.

    With a `template` it is one of format 1.3, which has the program itself.
    """
    before = WITH_TEMPLATE if template is not None else {}
    fields = parts(**args) | {"prompt": prompt(**{**before, **(words or {})})}
    if template is not None:
        fields["format"] = "edgevlm.bundle/1.3"

    def build(files: Mapping[str, FileEntry]) -> Manifest:
        return Manifest.build(**{**fields, "files": files})

    with new_directory(root) as work:
        (work / "stages").mkdir()
        for file in ("chat_vision.onnx", "chat_decoder.onnx"):
            shutil.copyfile(tiny.STAGES / file, work / "stages" / file)
        shutil.copyfile(tiny.STAGES / "chat_tokenizer.json", work / "tokenizer.json")
        shutil.copyfile(tiny.STAGES / "chat_embeddings.npy", work / "embeddings.npy")
        if template is not None:
            (work / "chat_template.jinja").write_text(template, encoding="utf-8")
        write_manifest(work, build)
    return root


def picture(seed: int, height: int = 12, width: int = 16) -> NDArray[np.uint8]:
    """A picture of its own for every seed."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
