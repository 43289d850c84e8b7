"""An answer as it comes, token by token: whole characters only, and nothing of a text that ends it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from edgevlm.errors import ContractError

_JOINS = " '"  # some tokenizers take the spaces around it away, once the next word is there
_BROKEN = "\N{REPLACEMENT CHARACTER}"  # what a decoder gives for bytes that are no whole character (yet)


def check_stops(stops: Iterable[str]) -> tuple[str, ...]:
    """The texts that end an answer. Raises ContractError where one is empty or no text."""
    texts = stops if isinstance(stops, str) or not isinstance(stops, Iterable) else tuple(stops)
    if not isinstance(texts, tuple) or not all(isinstance(stop, str) and stop for stop in texts):
        raise ContractError(f"stop: expected a list of texts, none of them empty, got {texts!r:.80}")
    return texts


class StreamingDetokenizer:
    """What a model has said so far.

    Args:
        decode: ids -> text, of all tokens of the answer.
        stops: texts that end the answer and are no part of it.

    Attributes:
        token_ids: what was said, also the tokens of a stop.
        text: what was given out, all of it.
        stopped: whether a stop came.

    Raises:
        ContractError: an empty stop.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Iterable[str]) -> None:
        self._decode, self._stops = decode, check_stops(stops)
        self.token_ids: list[int] = []
        self.text = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """Take one more token; the text that is certain now and was not before."""
        self.token_ids.append(token)
        text = self._decode(self.token_ids)
        positions = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if positions:
            self.stopped = True
            return self._give(text[: min(positions)])
        certain = text.rstrip(_BROKEN)
        waiting = max(self._begun(certain), len(_JOINS) if certain.endswith(_JOINS) else 0)
        return self._give(certain[: len(certain) - waiting])

    def finish(self) -> str:
        """The rest, when no token comes any more: what waited for a stop or for the end of a character."""
        return "" if self.stopped else self._give(self._decode(self.token_ids))

    def _give(self, text: str) -> str:
        # Should a decoder change its mind about what was given out, that stays, and the rest follows it.
        new = text[len(self.text) :]
        self.text += new
        return new

    def _begun(self, text: str) -> int:
        """How many of the last characters may be the beginning of a stop."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
