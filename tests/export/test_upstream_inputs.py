"""Pixels and ids are those of the processor and tokenizer that the checkpoint names, or it is refused by the class."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image
from support import chats, hub, owls
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoImageProcessor, AutoTokenizer, SiglipConfig, SiglipImageProcessorPil, SiglipModel

import edgevlm
from edgevlm.data.pictures import TEXTS, make_up_pictures
from edgevlm.errors import CheckpointError, DependencyError, EdgevlmError, FamilyError
from edgevlm.manifest.schema import PICTURE
from edgevlm.preprocess import PicturePreprocessor
from edgevlm_export import preflight
from edgevlm_export.checkpoint import Checkpoint
from edgevlm_export.exporter import export
from edgevlm_export.families import build, prepare
from edgevlm_export.families.common.chatting import ANSWER, USUAL_CONTEXT
from edgevlm_export.families.common.upstream_inputs import sample_pictures
from edgevlm_export.recipes.base import ExportOptions
from edgevlm_export.recipes.fitting import fitting, texts_alone
from edgevlm_export.stage_graph import RetrieverGraph

IMAGE = hub.IMAGE
SETTINGS = "preprocessor_config.json"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hub.clip(tmp_path_factory.mktemp("clip") / "checkpoint")


@pytest.fixture
def copy(clip: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clip, tmp_path / "copy"))


def edit(path: Path, **more: Any) -> None:
    result = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**result, **more}))


def refused(folder: Path, error: type[EdgevlmError], message: str) -> None:
    with pytest.raises(error, match=message):
        build(folder)


def agrees(folder: Path) -> None:
    """On pictures that the export itself does not look at."""
    graph, processor = build(folder), AutoImageProcessor.from_pretrained(folder, engine="pil")
    for seed, (height, width) in enumerate(((61, 97), (97, 61), (3, 9), (IMAGE, 2 * IMAGE), (200, 30))):
        image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        want = processor(images=Image.fromarray(image), return_tensors="np")["pixel_values"]
        np.testing.assert_allclose(PicturePreprocessor(graph.preprocess[PICTURE])(image), want, atol=2e-6)


SQUARE = {"height": IMAGE, "width": IMAGE}
PLAIN = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}


@pytest.mark.parametrize(
    "settings",
    [
        {"image_processor_type": "ViTImageProcessor", "size": SQUARE},
        {"image_processor_type": "ViTImageProcessor", "size": SQUARE, "resample": 3, **PLAIN},
        {"image_processor_type": "SiglipImageProcessor", "size": SQUARE},
        {"image_processor_type": "BlipImageProcessor", "size": SQUARE},
        {"image_processor_type": "DeiTImageProcessor", "size": {"height": 60, "width": 60}, "crop_size": SQUARE},
        {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": IMAGE}, "crop_size": SQUARE},
        {"image_processor_type": "CLIPImageProcessorFast", "size": {"shortest_edge": IMAGE}, "crop_size": SQUARE},
        {"image_processor_type": "CLIPImageProcessor", "size": IMAGE, "crop_size": IMAGE},
        {"feature_extractor_type": "CLIPFeatureExtractor", "size": IMAGE, "crop_size": IMAGE},
        {"size": {"shortest_edge": IMAGE}, "crop_size": SQUARE},
        {"image_processor_type": "CLIPImageProcessor", "size": IMAGE, "crop_size": IMAGE, "do_rescale": False},
        {"image_processor_type": "CLIPImageProcessor", "size": IMAGE, "crop_size": IMAGE, "do_normalize": False},
        {"image_processor_type": "CLIPImageProcessor", "size": IMAGE, "crop_size": IMAGE, "do_convert_rgb": False},
        {"image_processor_type": "CLIPImageProcessor", "size": IMAGE, "crop_size": IMAGE, "resample": 1},
        {"image_processor_type": "CLIPImageProcessor", "size": IMAGE, "crop_size": IMAGE, "rescale_factor": 0.01},
    ],
    ids=[
        *("vit", "vit-fields", "siglip", "blip", "deit", "bit", "clip-fast", "clip-numbers", "extractor", "unnamed"),
        *("no-rescale", "no-normalize", "no-convert", "lanczos", "factor"),
    ],
)
def test_the_class_that_the_files_name_is_reproduced(copy: Path, settings: dict[str, Any]) -> None:
    (copy / SETTINGS).write_text(json.dumps(settings))
    agrees(copy)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (
            {"image_processor_type": "LevitImageProcessor", "size": {"shortest_edge": IMAGE}, "crop_size": SQUARE},
            "Levit",
        ),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": IMAGE}}, "ConvNext"),
        ({"image_processor_type": "EfficientNetImageProcessor", "size": SQUARE, "resample": 3}, "EfficientNet"),
        ({"image_processor_type": "BlipImageProcessor"}, "BlipImageProcessor"),
        ({"image_processor_type": "CLIPImageProcessor", "size": IMAGE, "crop_size": IMAGE, "resample": 4}, "resample"),
        (
            {"image_processor_type": "CLIPImageProcessor", "size": IMAGE, "crop_size": IMAGE, "image_mean": [0.5]},
            "mean",
        ),
        (
            {"image_processor_type": "CLIPImageProcessor", "size": IMAGE, "crop_size": IMAGE, "do_resize": False},
            "do_resize",
        ),
    ],
    ids=["levit", "convnext", "efficientnet", "other-size", "box", "one-channel", "no-resize"],
)
def test_what_is_not_reproduced_is_refused_by_name(copy: Path, settings: dict[str, Any], named: str) -> None:
    (copy / SETTINGS).write_text(json.dumps(settings))
    refused(copy, FamilyError, named)


def test_a_class_that_nobody_knows_is_a_checkpoint_error(copy: Path) -> None:
    (copy / SETTINGS).write_text(json.dumps({"image_processor_type": "MyOwnImageProcessor"}))
    refused(copy, CheckpointError, "transformers cannot read it")


def test_settings_in_processor_config_are_read_as_newer_checkpoints_have_them(copy: Path) -> None:
    (copy / SETTINGS).unlink()
    inside = {"image_processor_type": "ViTImageProcessor", "size": SQUARE}
    (copy / "processor_config.json").write_text(
        json.dumps({"processor_class": "CLIPProcessor", "image_processor": inside})
    )
    agrees(copy)


def test_the_samples_have_every_kind_of_picture() -> None:
    shapes = [image.shape[:2] for image in sample_pictures(IMAGE)]
    assert (IMAGE, IMAGE) in shapes
    assert any(h > w for h, w in shapes) and any(w > h for h, w in shapes) and any(max(s) < 8 for s in shapes)
    assert any((image[..., :1] == image).all() for image in sample_pictures(IMAGE))


def ids(graph: Any, text: str) -> list[int]:
    content = graph.tokenizer
    return list(Tokenizer.from_str(content).encode(text).ids)


def test_a_clip_with_a_vocabulary_and_merges_exports(clip: Path, copy: Path, tmp_path: Path) -> None:
    engine = json.loads((copy / "tokenizer.json").read_text())
    (copy / "tokenizer.json").unlink()
    (copy / "vocab.json").write_text(json.dumps(engine["model"]["vocab"]))
    merges = [" ".join(one) if isinstance(one, list) else one for one in engine["model"]["merges"]]
    (copy / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    full, bare = build(clip), build(copy)
    for text in TEXTS:
        assert ids(bare, text) == ids(full, text) == list(AutoTokenizer.from_pretrained(copy)(text)["input_ids"])
    export(copy, tmp_path / "bundle")
    assert edgevlm.load(tmp_path / "bundle")


def test_ids_that_are_not_those_of_the_file_are_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = transformers.AutoTokenizer.from_pretrained

    def other(*args: Any, **more: Any) -> Any:
        created = real(*args, **more)
        created.backend_tokenizer.normalizer = normalizers.Sequence([])
        return created

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", other)
    refused(copy, FamilyError, "CLIPTokenizer.*expected the ids")


def gemma(root: Path, **settings: Any) -> Any:
    """Gemma's tokenizer as SigLIP 2 comes with it: `<eos>` behind a text, filled up behind that."""
    fast = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    fast.normalizer = normalizers.Replace(" ", "▁")
    fast.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    fast.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    fast.train_from_iterator([*TEXTS, *(text.upper() for text in TEXTS)] * 4, trainer)
    fast.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    fast.save(str(root / "tokenizer.json"))
    base = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": False, "add_eos_token": True, "padding_side": "right"}
    tokens = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    (root / "tokenizer_config.json").write_text(
        json.dumps({**base, **tokens, "model_input_names": ["input_ids"], "model_max_length": 64, **settings})
    )
    return AutoTokenizer.from_pretrained(root)


def siglip2(root: Path, **settings: Any) -> Path:
    root.mkdir()
    text = {"max_position_embeddings": 64, "projection_size": 64, "pad_token_id": 0, "eos_token_id": 1, **hub.TOWER}
    vision = {"image_size": IMAGE, "patch_size": 8, **hub.TOWER}
    config = SiglipConfig(text_config={**text, "vocab_size": 400}, vision_config=vision)
    SiglipModel(config).eval().save_pretrained(root)
    SiglipImageProcessorPil(size=SQUARE).save_pretrained(root)
    gemma(root, **settings)
    return root


def test_siglip_2_of_a_fixed_size_reads_texts_in_lower_case_filled_up_to_64(tmp_path: Path) -> None:
    graph = build(siglip2(tmp_path / "checkpoint", do_lower_case=True))
    assert isinstance(graph, RetrieverGraph)
    assert (graph.text.max_tokens, graph.text.length, graph.text.pad_id) == (64, "fixed", 0)
    upstream = AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    for text in (*TEXTS, "A Photo of a CAT"):
        assert ids(graph, text) == list(upstream(text.lower())["input_ids"])
        assert ids(graph, text)[-1] == 1


def test_a_tokenizer_that_fills_up_before_the_text_is_refused(tmp_path: Path) -> None:
    refused(siglip2(tmp_path / "checkpoint", padding_side="left"), FamilyError, "GemmaTokenizer.*padding_side")


def test_prompts_are_held_to_their_processor_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = chats.llava(tmp_path / "checkpoint")
    assert prepare(Checkpoint(folder)).room is not None
    kind = transformers.CLIPImageProcessorPil
    real = kind.preprocess
    monkeypatch.setattr(
        kind,
        "preprocess",
        lambda self, images, **more: real(
            self, [i.rotate(90) for i in images] if isinstance(images, list) else images.rotate(90), **more
        ),
    )
    refused(folder, FamilyError, "CLIPImageProcessorPil: expected the numbers")


def test_another_pillow_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, clip: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(preflight.importlib.metadata, "version", lambda package: "13.0.0")
    with pytest.raises(DependencyError, match=r"pip install 'pillow<13'"):
        export(clip, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_the_default_context_holds_the_largest_picture(tmp_path: Path) -> None:
    def larger(model: Any) -> None:
        model.config.text_config.max_position_embeddings = 8192

    folder = chats.smolvlm(tmp_path / "checkpoint", edit=larger)
    settings = folder / "processor_config.json"
    processor = json.loads(settings.read_text())
    image = processor["image_processor"]
    image["size"] = {"longest_edge": 16 * image["max_image_size"]["longest_edge"]}
    settings.write_text(json.dumps(processor))
    room = prepare(Checkpoint(folder)).room
    assert room is not None
    assert room.most > USUAL_CONTEXT
    assert room.count("What is this?", (500, 500)) + ANSWER <= room.most
    assert room.count("What is this?", (500, 500)) > USUAL_CONTEXT


def test_built_in_texts_that_do_not_fit_are_left_out(tmp_path: Path) -> None:
    options = ExportOptions(precision="fp32", calibration=None, topics=None, texts=None, samples=256)
    data, room = make_up_pictures(), prepare(Checkpoint(owls.owlvit(tmp_path / "checkpoint"))).room
    assert room is not None
    few = replace(room, most=9)
    retained = fitting(data, few, options, texts_alone(data))
    left = {*retained.calibration_texts, *retained.held_out_texts}
    assert left == {text for text in TEXTS if few.count(text, (0, 0)) <= 9}
    assert len(left) < len(TEXTS)
