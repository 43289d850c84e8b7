"""Small processors of upstream's, saved with upstream code: tokenizer, chat template, picture settings; no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE as TURNS

from edgevlm.data.pictures import TEXTS

START, END = "<|im_start|>", "<end_of_utterance>"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
# As the checkpoints of that kind have it: pictures before words, white space control, a loop over chosen parts.
DIALOGUE = """{% for message in messages -%}
    {% if message['role'] == 'system' %}
{{ message['content'][0]['text'] | trim + ' ' }}
    {%- else %}
{{ ('\\n' if not loop.first and messages[0]['role'] != 'system') ~ message['role'].upper() + ': ' }}
    {%- for part in message['content'] | selectattr('type', 'equalto', 'image') %}
{{ '<image>\\n' }}
    {%- endfor %}
    {%- if message['role'] != 'assistant' %}
        {%- for part in message['content'] | selectattr('type', 'equalto', 'text') %}
{{ part['text'] + ' ' }}
        {%- endfor %}
    {%- else %}
        {%- for part in message['content'] | selectattr('type', 'equalto', 'text') %}
            {%- generation %}
{{ part['text'] + eos_token }}
            {%- endgeneration %}
        {%- endfor %}
    {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{ 'ASSISTANT:' }}
{%- endif %}"""


def tiled(root: Path, *, side: int = 32, longest: int = 128, tokens: int = 4, **more: Any) -> Any:
    """A processor that cuts pictures into tiles of `side`, `tokens` image tokens each. Byte-level BPE, no BOS."""
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bare.decoder = decoders.ByteLevel()
    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    special = ["<|endoftext|>", START, "<|im_end|>", "<fake_token_around_image>", "<image>", END, "<global-img>"]
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=[*special, *places],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bare.train_from_iterator([*TEXTS, "User: Assistant:\n\n"], trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bare, bos_token=START, eos_token=END, pad_token="<|im_end|>", unk_token="<|endoftext|>"
    )
    pictures = transformers.SmolVLMImageProcessorPil(
        size={"longest_edge": longest}, max_image_size={"longest_edge": side}, **more
    )
    processor = transformers.Idefics3Processor(pictures, tokenizer, image_seq_len=tokens, chat_template=TURNS)
    return saved(root, processor)


def patched(root: Path, *, side: int = 32, patch: int = 8, template: str | None = DIALOGUE, **more: Any) -> Any:
    """A processor that writes a token for every patch. SentencePiece's BPE with byte fallback, a BOS before it all."""
    vocabulary, merges = pieces(["<unk>", "<s>", "</s>"])
    tokenizer = transformers.LlamaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    pictures = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, **more
    )
    processor = transformers.LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    return saved(root, processor)


def prefixed(root: Path, *, side: int = 32, tokens: int = 16) -> Any:
    """A processor without a template: pictures, BOS, words, a line feed."""
    vocabulary, merges = pieces(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"])
    tokenizer = transformers.GemmaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True)
    pictures = transformers.SiglipImageProcessorPil(size={"height": side, "width": side})
    pictures.image_seq_length = tokens
    return saved(root, transformers.PaliGemmaProcessor(pictures, tokenizer))


def saved(root: Path, processor: Any) -> Any:
    """`processor`, with its files in `root`."""
    processor.save_pretrained(root)
    return processor


def pieces(special: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(vocabulary, merges) of a BPE whose spaces are U+2581 and whose unknown characters are bytes."""
    bare = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bare.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=800, special_tokens=[*special, *BYTES], show_progress=False)
    bare.train_from_iterator([*TEXTS, "\n", "USER: ASSISTANT: ▁▁"], trainer)
    model = json.loads(bare.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


BERT_IDS = {"bos_token_id": "[DEC]", "sep_token_id": "[SEP]", "pad_token_id": "[PAD]", "eos_token_id": "[SEP]"}


def asked(root: Path, *, side: int = 32, **more: Any) -> Any:
    """A processor whose questions stand beside the picture. WordPiece in small letters, signs at both ends."""
    split, lower = pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer(lowercase=True)
    known = sorted({word for text in TEXTS for word, _ in split.pre_tokenize_str(lower.normalize_str(text))})
    letters = sorted({*"abcdefghijklmnopqrstuvwxyz0123456789", *(letter for word in known for letter in word)})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    # Every third word is not known as a whole: it is spelt.
    words = dict.fromkeys([*special, *letters, *(f"##{one}" for one in letters), *known[::3], *known[1::3]])
    tokenizer = transformers.BertTokenizer(vocab={word: place for place, word in enumerate(words)}, do_lower_case=True)
    tokenizer.add_special_tokens({"bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"]})
    pictures = transformers.BlipImageProcessorPil(size={"height": side, "width": side}, **more)
    return saved(root, transformers.BlipProcessor(pictures, tokenizer))


def queried(root: Path, *, side: int = 32, tokens: int = 4, **more: Any) -> Any:
    """A processor that writes `tokens` image tokens before the sign a text begins with. Byte-level BPE."""
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bare.train_from_iterator([*TEXTS, "Question: Answer:\n"], trainer)
    model = json.loads(bare.to_str())["model"]
    signs = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    tokenizer = transformers.GPT2Tokenizer(
        vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]], add_bos_token=True, **signs
    )
    pictures = transformers.BlipImageProcessorPil(size={"height": side, "width": side}, **more)
    return saved(root, transformers.Blip2Processor(pictures, tokenizer, num_query_tokens=tokens))
