"""Texts -> token ids, and back."""

from edgevlm.text.encoder import TextEncoder
from edgevlm.text.prompt import PromptWriter, Turn
from edgevlm.text.question import QuestionWriter
from edgevlm.text.speech import Speech, check_stops
from edgevlm.text.tokenizer import Tokenizer
from edgevlm.text.words import Words

__all__ = ["PromptWriter", "QuestionWriter", "Speech", "TextEncoder", "Tokenizer", "Turn", "Words", "check_stops"]
