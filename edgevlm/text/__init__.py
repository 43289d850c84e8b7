"""Texts -> token ids, and back."""

from edgevlm.text.chat_text import Turn
from edgevlm.text.prompt import PromptWriter, QuestionWriter
from edgevlm.text.special_tokens import SpecialTokens
from edgevlm.text.streaming import StreamingDetokenizer, check_stops
from edgevlm.text.template import check_dialogue, prompt_as_data
from edgevlm.text.tokenizer import TextEncoder, Tokenizer

__all__ = [
    "PromptWriter",
    "QuestionWriter",
    "SpecialTokens",
    "StreamingDetokenizer",
    "TextEncoder",
    "Tokenizer",
    "Turn",
    "check_dialogue",
    "check_stops",
    "prompt_as_data",
]
