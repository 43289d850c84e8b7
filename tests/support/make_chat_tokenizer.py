"""Write tests/support/stages/chat_tokenizer.json: bytes, one token each, and sixteen special tokens.

So every text in every script has ids, and one character is often several tokens. Run it after a change here.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

PLACE = Path(__file__).parent / "stages/chat_tokenizer.json"
NAMED = ("<image>", "<bos>", "<end>", "<tile>", "<whole>")
SPECIAL = (*NAMED, *(f"<spare_{number}>" for number in range(16 - len(NAMED))))


def main() -> None:
    """The file."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    created = Tokenizer(models.BPE({letter: place for place, letter in enumerate(letters)}, []))
    created.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    created.decoder = decoders.ByteLevel()
    created.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    created.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", created.token_to_id("<bos>"))]
    )
    created.save(str(PLACE), pretty=False)


if __name__ == "__main__":
    main()
