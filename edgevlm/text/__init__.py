"""Instructions -> token ids."""

from edgevlm.text.tokenizer import Tokenizer

__all__ = ["Tokenizer"]
