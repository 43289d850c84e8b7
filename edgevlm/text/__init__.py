"""Texts -> token ids, and back."""

from edgevlm.text.encoder import TextEncoder
from edgevlm.text.prompt import PromptWriter, Turn
from edgevlm.text.speech import Speech, check_stops
from edgevlm.text.tokenizer import Tokenizer

__all__ = ["PromptWriter", "Speech", "TextEncoder", "Tokenizer", "Turn", "check_stops"]
