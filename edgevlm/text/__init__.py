"""Texts -> token ids."""

from edgevlm.text.encoder import TextEncoder
from edgevlm.text.tokenizer import Tokenizer

__all__ = ["TextEncoder", "Tokenizer"]
