"""A chat template -> data: probes are rendered, cut at their slots, and the result is proven on other dialogues.

The renderer is a stranger's program: whoever calls this does so in a process that is killed when it does not end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise, product
from typing import Any, Literal, get_args

from edgevlm.errors import PromptError
from edgevlm.manifest.text import DialogueCase, DialogueSpec, Gap, GapName, Role, Strip
from edgevlm.text.chat_text import Slot, Turn, chat_text, slots, strip_end, strip_start
from edgevlm.text.sample_dialogues import literal_dialogues, messages, sample_dialogues

PROVEN = 200  # generated dialogues, besides those of the template's own literals
SEED = 2024
MOST_LITERALS = 120
LONGEST_LITERAL = 200
_PROVIDED = frozenset(("messages", "add_generation_prompt", "raise_exception", "namespace", "range", "dict"))
SHOWN = 160  # characters of a text in a message

Render = Callable[[list[dict[str, Any]]], str]  # messages -> prompt; raises `Refused`

_PLACES: tuple[Literal["first", "last"], ...] = ("first", "last")
_PAIRS: tuple[tuple[Strip, Strip], ...] = tuple(product(get_args(Strip), get_args(Strip)))  # the least strip first
_NAMES: Mapping[str, GapName] = {name: name for name in get_args(GapName)}
_SHAPES: Mapping[bool, tuple[tuple[int, ...], ...]] = {  # any pictures -> pictures of each user turn of a probe
    False: ((0,), (0, 0), (0, 0, 0)),
    True: ((1,), (2,), (3,), (1, 0), (0, 1), (1, 0, 0), (2, 2, 0), (0, 1, 1)),
}
_PADS = (
    (" \n\u3000", "\u3000\n "),
    ("\n \u3000", "\u3000 \n"),
)  # around a probe's words: each strip leaves another rest
_BLANKS = ("", " ", "\n", " \n\u3000")


class Refused(Exception):
    """The template refuses this dialogue."""


class NotDerivable(Exception):
    """The template is no literal text between the slots of a dialogue; the text says why, with an example."""


def derive(render: Render, placeholder: str, literals: Sequence[str] = ()) -> DialogueSpec:
    """The template as data, equal to it on `PROVEN` generated dialogues and on those of its own `literals`.

    Args:
        placeholder: what the template writes for a picture.
        literals: texts of the template's source that a user may say.

    Raises:
        NotDerivable: with the first dialogue that differs.
    """
    reasons = []
    for place, in_a_row in product(_PLACES, (True, False)):
        prober = _Prober(render, placeholder, place, in_a_row)
        dialogues = [*literal_dialogues(literals), *sample_dialogues(SEED, PROVEN, literals)]
        try:
            spec = prober.spec()
            prober.prove(spec, dialogues)
            return spec
        except NotDerivable as error:
            reasons.append(error)
    raise reasons[0]


def compare(spec: DialogueSpec, render: Render, placeholder: str, dialogues: Iterable[Sequence[Turn]]) -> int:
    """How many of `dialogues` the form writes, all of them as the template does; the others it refuses.

    Raises:
        NotDerivable: with the first dialogue that differs.
    """
    written = 0
    for turns in dialogues:
        want, got = _answer(render, messages(turns)), _answer(_written, spec, placeholder, turns)
        if got[0] is not None and got[0] != want[0]:
            raise NotDerivable(f"{dialogue_excerpt(turns)}: {_compared(want, got)}")
        written += got[0] is not None
    return written


class _Prober:
    """The probes of one template, under one assumption of its form.

    Args:
        system_before: the user turn that a system text stands before.
        in_a_row: whether several user turns may follow each other.
    """

    def __init__(
        self, render: Render, placeholder: str, system_before: Literal["first", "last"], in_a_row: bool
    ) -> None:
        self._render, self._placeholder = render, placeholder
        self._system_before, self._in_a_row = system_before, in_a_row
        self.drops_system = False  # the template takes a system text and does not write it
        self._refusal = ""  # why the first probe was refused

    def render(self, turns: Sequence[Turn]) -> str:
        """The template's text. Raises Refused."""
        return self._render(messages(turns))

    def spec(self) -> DialogueSpec:
        """Cases, gaps and blanks, each from probes that agree. Raises NotDerivable."""
        cases = []
        for system, pictures in product((False, True), (True, False)):  # what a picture becomes is said first
            gaps = self._gaps(system, pictures)
            if gaps:
                cases.append(DialogueCase(system=system, pictures=pictures, gaps=gaps))
        if not cases:
            raise NotDerivable(f"it refuses every dialogue that was tried: {self._refusal}")
        spec = DialogueSpec(
            cases=tuple(sorted(cases, key=lambda case: (case.system, case.pictures))), system_before=self._system_before
        )
        return self._with_blanks(spec)

    def _gaps(self, system: bool, pictures: bool) -> dict[GapName, Gap]:
        texts: dict[GapName, str] = {}
        strips: dict[GapName, set[tuple[Strip, Strip]]] = {}
        for shape, answered in product(_SHAPES[pictures], (True, False) if self._in_a_row else (True,)):
            turns = _probe(system, shape, answered)
            try:
                cut = self._cut(turns)
            except Refused as error:
                self._refusal = self._refusal or str(error)
                continue
            if cut is None:
                return {}
            for name, text in cut:
                if texts.setdefault(name, text) != text:
                    raise NotDerivable(
                        f"between {name.replace('-', ' and ')} it writes {texts[name]!r:.{SHOWN}}, and also "
                        f"{text!r:.{SHOWN}} in {dialogue_excerpt(turns)}"
                    )
            for pad in _PADS:
                self._narrow(turns, texts, pad, strips)
        return {
            name: Gap(text=text, strip_before=strip[0], strip_after=strip[1])
            for name, text in texts.items()
            for strip in (min(strips[name], key=_PAIRS.index),)
        }

    def _cut(self, turns: Sequence[Turn]) -> list[tuple[GapName, str]] | None:
        """What stands between the slots of a probe; None where its system text is dropped. Raises Refused."""
        text = self.render(turns)
        if turns[0].role == "system" and turns[0].text not in text:
            self.drops_system = True
            return None
        pictures = sum(turn.pictures for turn in turns)
        if (got := text.count(self._placeholder)) != pictures:
            raise NotDerivable(
                f"expected {self._placeholder!r} {_times(pictures)} for {_count(pictures)}, it writes it "
                f"{_times(got)} in {dialogue_excerpt(turns)}"
            )
        cut, places = [], slots(turns, self._system_before)
        for before, after in pairwise(places):
            mark = self._mark(after)
            gap, got_mark, text = text.partition(mark) if mark else (text, "", "")
            if (mark and not got_mark) or (after.text and after.text in text):
                raise NotDerivable(
                    f"it does not write {after.kind} {after.text!r} once and in its place in {dialogue_excerpt(turns)}"
                )
            cut.append((_NAMES[f"{before.kind}-{after.kind}"], gap))
        return cut

    def _mark(self, slot: Slot) -> str:
        return self._placeholder if slot.kind == "picture" else slot.text

    def _narrow(
        self,
        turns: Sequence[Turn],
        texts: Mapping[GapName, str],
        pad: tuple[str, str],
        strips: dict[GapName, set[tuple[Strip, Strip]]],
    ) -> None:
        """Keep the strips that explain what the template makes of this probe with white space around its texts."""
        left, right = pad
        padded = [Turn(turn.role, f"{left}{turn.text}{right}", turn.pictures) for turn in turns]
        try:
            text = self.render(padded)
        except Refused as error:
            raise NotDerivable(f"it refuses {dialogue_excerpt(padded)}: {error}") from error
        places = slots(turns, self._system_before)
        for before, after in pairwise(places):
            mark = self._mark(after)
            region, written, text = text.partition(mark) if mark else (text, "", "")
            name = _NAMES[f"{before.kind}-{after.kind}"]
            rests = (right if before.text else "", left if after.text else "")
            fits = {strip for strip in _PAIRS if region == _region(texts[name], rests, strip)}
            strips[name] = strips.get(name, fits) & fits
            if not strips[name] or (mark and not written):
                raise NotDerivable(
                    f"the white space around a text becomes {region!r:.{SHOWN}} between "
                    f"{name.replace('-', ' and ')} in {dialogue_excerpt(padded)}"
                )

    def _with_blanks(self, spec: DialogueSpec) -> DialogueSpec:
        """`spec` with what is known of empty texts of each role."""
        blank: dict[Role, Literal["written", "left_out"]] = {}
        for role in get_args(Role):
            for how in ("written", "left_out") if role == "system" else ("written",):
                one = spec.model_copy(update={"blank": {role: how}})
                probes = [turns for system in (False, True) for turns in _blank_probes(role, system)]
                if all(self.agrees(one, turns) for turns in probes):
                    blank[role] = how
                    break
        return spec.model_copy(update={"blank": blank})

    def prove(self, spec: DialogueSpec, dialogues: Iterable[Sequence[Turn]]) -> None:
        """Raises NotDerivable with the first of `dialogues` for which both differ, but for what `spec` refuses."""
        for turns in dialogues:
            if any(not turn.text.strip() and turn.role not in spec.blank for turn in turns):
                continue
            if not self._in_a_row and _any_in_a_row(turns):
                continue
            if difference := self.difference(spec, turns):
                raise NotDerivable(f"{dialogue_excerpt(turns)}: {difference}")

    def agrees(self, spec: DialogueSpec, turns: Sequence[Turn]) -> bool:
        """Whether both write the same, or both refuse."""
        return self.difference(spec, turns) is None

    def difference(self, spec: DialogueSpec, turns: Sequence[Turn]) -> str | None:
        """What the template and the form write, where they differ. Raises nothing for a refusal: it is an answer."""
        if self.drops_system and turns[0].role == "system":
            return None  # the form refuses it, and says so to whoever asks
        want, got = _answer(self.render, turns), _answer(_written, spec, self._placeholder, turns)
        if want == got or (want[0] is None and got[0] is None):
            return None
        return _compared(want, got)


def dialogue_excerpt(turns: Sequence[Turn]) -> str:
    """A dialogue in a message."""
    parts = ", ".join(
        f"{turn.role}{f' with {turn.pictures} picture(s)' if turn.pictures else ''} {turn.text!r:.40}"
        for turn in turns[:6]
    )
    return f"the dialogue [{parts}{', ..' if len(turns) > 6 else ''}]"


def _probe(system: bool, shape: Sequence[int], answered: bool = True) -> list[Turn]:
    turns = [Turn("system", "Zsys0Kq")] if system else []
    for place, pictures in enumerate(shape):
        turns.append(Turn("user", f"Zuse{place}Kq", pictures))
        if answered and place < len(shape) - 1:
            turns.append(Turn("assistant", f"Zans{place}Kq"))
    return turns


def _any_in_a_row(turns: Sequence[Turn]) -> bool:
    return any(before.role == after.role for before, after in pairwise(turns))


def _blank_probes(role: Role, system: bool) -> list[list[Turn]]:
    """Dialogues in which the texts of `role`, and no others, are blank."""
    return [
        [Turn(turn.role, text if turn.role == role else turn.text, turn.pictures) for turn in _probe(system, shape)]
        for text in _BLANKS
        for shape in ((0, 0), (1, 1), (1, 0))
    ]


def _region(text: str, rests: tuple[str, str], strip: tuple[Strip, Strip]) -> str:
    """What stands between two words, with the white space behind the first and before the second."""
    return strip_end(rests[0], strip[0]) + text + strip_start(rests[1], strip[1])


def _written(spec: DialogueSpec, placeholder: str, turns: Sequence[Turn]) -> str:
    return placeholder.join(chat_text(spec, turns))


def _answer(write: Callable[..., str], *arguments: Any) -> tuple[str | None, str]:
    """(text, ""), or (None, why not)."""
    try:
        return write(*arguments), ""
    except (Refused, PromptError) as error:
        return None, str(error)


def _compared(want: tuple[str | None, str], got: tuple[str | None, str]) -> str:
    texts = []
    for text, why in (want, got):
        start = 0 if want[0] is None or got[0] is None else max(_first_difference(want[0], got[0]) - SHOWN // 2, 0)
        texts.append(
            f"nothing ({why:.{SHOWN}})" if text is None else f"{'..' if start else ''}{text[start:]!r:.{SHOWN}}"
        )
    return f"the template writes {texts[0]}, its derived form {texts[1]}"


def _first_difference(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _count(pictures: int) -> str:
    return "one picture" if pictures == 1 else f"{pictures} pictures"


def _times(count: int) -> str:
    return {0: "0 times", 1: "once"}.get(count, f"{count} times")


def literals(jinja: Any, tree: Any, reserved: Sequence[str]) -> list[str]:
    """The texts in a template that a user may say as well, without those with one of `reserved`, which nobody may."""
    texts = [node.data for node in tree.find_all(jinja.nodes.TemplateData)]
    texts += [node.value for node in tree.find_all(jinja.nodes.Const) if isinstance(node.value, str)]
    stripped = dict.fromkeys(form for text in texts for form in (text, text.strip()))
    usable = (
        text
        for text in stripped
        if text.strip() and len(text) <= LONGEST_LITERAL and not any(one in text for one in reserved if one)
    )
    return sorted(usable, key=len)[:MOST_LITERALS]


def frozen(jinja: Any, tree: Any, variables: Mapping[str, str]) -> list[str]:
    """The names that a template asks for and is not given: tools, dates, switches. Its branches on them are frozen."""
    asked: set[str] = jinja.meta.find_undeclared_variables(tree)
    return sorted(asked - _PROVIDED - set(variables))
