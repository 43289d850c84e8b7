"""An answer as it comes, token by token: whole characters only, and nothing of a text that ends it.

The decoder runs over a window of the last tokens, not over the whole answer: what a decoder of
https://github.com/huggingface/tokenizers makes of a token depends on its neighbours, and on whether it is the first or
the last one. Exceptions: bytes of byte fallback are decoded together, for one that is wrong breaks all that are joined
with it; and a decoder that rewrites the joined text by a regular expression is run over all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

from edgevlm.errors import ContractError
from edgevlm.text.tokenizer_file import parts

RETAINED = 8  # tokens of a window that stay: more than the bytes of a character; it is cut when it has as many more
_JOINS = " '"  # some tokenizers take the spaces around it away, once the next word is there
_BROKEN = "\N{REPLACEMENT CHARACTER}"  # what a decoder gives for bytes that are no whole character (yet)


def check_stops(stops: Iterable[str]) -> tuple[str, ...]:
    """The texts that end an answer. Raises ContractError where one is empty or no text."""
    texts = stops if isinstance(stops, str) or not isinstance(stops, Iterable) else tuple(stops)
    if not isinstance(texts, tuple) or not all(isinstance(stop, str) and stop for stop in texts):
        raise ContractError(f"stop: expected a list of texts, none of them empty, got {texts!r:.80}")
    return texts


class TokenDecoder:
    """ids -> text by a tokenizer and what its file says; special tokens say nothing.

    Attributes:
        rewritten: characters that are replaced or put in the joined text; what follows any other one does not depend on
            what is before it.
    """

    def __init__(self, fast: Any, file: Mapping[str, Any]) -> None:
        self._fast = fast
        self._special = {token["content"] for token in file.get("added_tokens", ()) if token.get("special")}
        decoders = list(parts(file.get("decoder"), "decoder"))
        kinds = [part["type"] for part in decoders]
        self._byte_fallback = "ByteFallback" in kinds
        fused = next((place for place, kind in enumerate(kinds) if kind in ("Fuse", "ByteLevel")), len(kinds))
        rewrites = [part for part in decoders[fused:] if part["type"] == "Replace"]
        self._local = all(part["pattern"].get("String") for part in rewrites)  # an expression may look at all of a text
        self.rewritten = {each for part in rewrites for each in part["pattern"].get("String", "") + part["content"]}

    def decode(self, ids: Sequence[int]) -> str:
        """The text of all of `ids`."""
        text: str = self._fast.decode(list(ids), skip_special_tokens=True)
        return text

    def silent(self, token: int) -> bool:
        """Whether `decode` leaves the token out."""
        written = self._fast.id_to_token(token)
        return written is None or written in self._special

    def separable(self, token: int) -> bool:
        """Whether a window may begin with the token."""
        if not self._byte_fallback:
            return self._local
        written = self._fast.id_to_token(token)
        return self._local and not (len(written) == 6 and written.startswith("<0x") and written.endswith(">"))


class StreamingDetokenizer:
    """The text of an answer so far.

    Args:
        begun: tokens that the answer goes on from; they are no part of it.
        stops: texts that end the answer and are no part of it.

    Attributes:
        token_ids: of the answer, also the tokens of a stop.
        stopped: whether a stop came.

    Raises:
        ContractError: an empty stop.
    """

    def __init__(self, decoder: TokenDecoder, stops: Iterable[str], begun: Sequence[int] = ()) -> None:
        self._decoder, self._stops = decoder, check_stops(stops)
        self._longest = max((len(stop) for stop in self._stops), default=1) - 1
        self.token_ids: list[int] = []
        self.stopped = False
        self._pieces, self._length = list[str](), 0  # what was given out
        self._window = [token for token in begun if not decoder.silent(token)]
        self._retained, self._limit = RETAINED, len(self._window) + 2 * RETAINED
        self._begun: str | None = decoder.decode(begun)  # as long as they are in the window
        # The tail of the answer begins at `_offset`: it is `_settled`, then the window's text from `_cut` on.
        self._settled, self._cut, self._offset = "", 0, 0

    @property
    def text(self) -> str:
        """What was given out, all of it."""
        return "".join(self._pieces)

    def add(self, token: int) -> str:
        """Take one more token; the text that is certain now and was not before."""
        self.token_ids.append(token)
        if not self._decoder.silent(token):
            self._window.append(token)
        text = self._tail()
        positions = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if positions:
            self.stopped = True
            return self._give(text[: min(positions)])
        certain = text.rstrip(_BROKEN)
        waiting = max(self._stop_begun(certain), len(_JOINS) if certain.endswith(_JOINS) else 0)
        new = self._give(certain[: len(certain) - waiting])
        if len(self._window) >= self._limit:
            self._shorten(text)
        return new

    def finish(self) -> str:
        """The rest, when no token comes any more: what waited for a stop or for the end of a character."""
        return "" if self.stopped else self._give(self._tail())

    def _tail(self) -> str:
        text = self._decoder.decode(self._window)
        if self._begun is None:
            return self._settled + text[self._cut :]
        # Usually all of `_begun`; less where a tokenizer takes spaces away once the next word is there.
        return text[_alike(self._begun, text) :]

    def _shorten(self, tail: str) -> None:
        """Let all but the last tokens of the window go, where these alone make the same text."""
        latest = len(self._window) - self._retained
        start = next((at for at in range(latest, 0, -1) if self._decoder.separable(self._window[at])), 0)
        text = self._decoder.decode(self._window[start:]) if start else ""
        same = _alike(tail[::-1], text[::-1])  # all but what a first token has of its own
        if 2 * same < len(text) or not set(text[len(text) - same :]) - self._decoder.rewritten:
            self._retained, self._limit = len(self._window), 2 * len(self._window)
            return
        end = len(tail) - same
        begin = max(0, min(end, self._length - self._offset) - max(self._longest, len(_JOINS)))
        self._settled, self._cut, self._offset = tail[begin:end], len(text) - same, self._offset + begin
        self._window, self._begun = self._window[start:], None
        self._retained, self._limit = RETAINED, len(self._window) + RETAINED

    def _give(self, tail: str) -> str:
        # Should a decoder change its mind about what was given out, that stays, and the rest follows it.
        new = tail[self._length - self._offset :]
        self._pieces.append(new)
        self._length += len(new)
        return new

    def _stop_begun(self, text: str) -> int:
        """How many of the last characters may be the beginning of a stop."""
        for length in range(min(self._longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0


def _alike(one: str, other: str) -> int:
    """How many characters both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
