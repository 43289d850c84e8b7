"""The text of a dialogue by a manifest's `dialogue`: literals between slots, and nothing that is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import get_args

from edgevlm.errors import PromptError
from edgevlm.manifest.text import DialogueSpec, Gap, GapName, Role, Strip

_CHARACTERS: Mapping[Strip, str | None] = {"whitespace": None, "newlines": "\n", "spaces": " "}
_NAMES: Mapping[str, GapName] = {name: name for name in get_args(GapName)}


@dataclass(frozen=True)
class Turn:
    """One message of a dialogue; its pictures come before its text."""

    role: Role
    text: str
    pictures: int = 0


@dataclass(frozen=True)
class Slot:
    """One place of a dialogue; `text` is empty for `begin`, `picture` and `end`."""

    kind: str
    text: str = ""


def chat_text(spec: DialogueSpec, turns: Sequence[Turn]) -> list[str]:
    """The prompt up to where the answer begins, cut at its pictures: one piece more than there are pictures.

    Raises:
        PromptError: an order of turns, a blank text or a combination that the model's template does not take.
    """
    check_order(turns)
    turns = _without_blank(spec, turns)
    system, pictures = turns[0].role == "system", any(turn.pictures for turn in turns)
    gaps = spec.gaps(system=system, pictures=pictures)
    if gaps is None:
        what = "system text" if system else "words"
        raise PromptError(
            f"dialogue: this model's chat template takes no {what} {'with' if pictures else 'without'} pictures; "
            f"{'say it in the question' if system else 'show a picture' if not pictures else 'ask without pictures'}"
        )
    return _joined(gaps, slots(turns, spec.system_before))


def check_order(turns: Sequence[Turn]) -> None:
    """Raises PromptError unless a system text comes first or not at all, an answer after a question, a user last."""
    roles = [turn.role for turn in turns]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    fits = all(
        after == "user" or (before == "user" and after == "assistant") for before, after in pairwise(["", *spoken])
    )
    if not fits or spoken[-1:] != ["user"]:
        raise PromptError(
            "dialogue: expected a system text or none, then questions and an answer or none after each, a question "
            f"last, got {roles[:8]}; begin anew with reset() or in a new session"
        )
    if late := next((turn.role for turn in turns if turn.pictures and turn.role != "user"), None):
        raise PromptError(f"dialogue: expected pictures in a user's turns alone, got some in one of {late!r}")


def slots(turns: Sequence[Turn], system_before: str) -> list[Slot]:
    """The places of a dialogue in the order of the prompt."""
    spoken = [turn for turn in turns if turn.role != "system"]
    at = 0 if system_before == "first" else len(spoken) - 1
    ordered = [*spoken[:at], *(turn for turn in turns if turn.role == "system"), *spoken[at:]]
    places = [Slot("begin")]
    for turn in ordered:
        places += [Slot("picture")] * turn.pictures + [Slot(turn.role, turn.text)]
    return [*places, Slot("end")]


def strip_start(text: str, strip: Strip) -> str:
    """`text` without what `strip` takes off its start."""
    return text if strip == "none" else text.lstrip(_CHARACTERS[strip])


def strip_end(text: str, strip: Strip) -> str:
    """`text` without what `strip` takes off its end."""
    return text if strip == "none" else text.rstrip(_CHARACTERS[strip])


def _without_blank(spec: DialogueSpec, turns: Sequence[Turn]) -> Sequence[Turn]:
    for turn in turns:
        if turn.text.strip():
            continue
        how = spec.blank.get(turn.role)
        if how is None:
            raise PromptError(
                f"dialogue: expected words of the {turn.role}, got none, for which this model's chat template has a "
                "form of its own; begin anew with reset() or in a new session"
            )
        if how == "left_out":
            turns = [other for other in turns if other is not turn]
    return turns


def _joined(gaps: Mapping[GapName, Gap], places: Sequence[Slot]) -> list[str]:
    pieces, strip_next = [""], _no_gap()
    for place, after in pairwise(places):
        gap = gaps.get(_NAMES[f"{place.kind}-{after.kind}"])
        if gap is None:
            raise PromptError(
                f"dialogue: this model's chat template refuses what stands between {place.kind!r} and {after.kind!r} "
                "in it; begin anew with reset() or in a new session"
            )
        pieces[-1] += strip_end(strip_start(place.text, strip_next.strip_after), gap.strip_before) + gap.text
        if after.kind == "picture":
            pieces.append("")
        strip_next = gap
    return pieces


def _no_gap() -> Gap:
    return Gap(text="")
