"""The fifteen commands, the ways people say them, and who may see which seed and which paraphrase."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgevlm_tabletop.scene import COLOURS

DEMO_SEEDS = range(0, 1_000_000)
"""Seeds of the episodes a model is trained on."""
DRIVEN_SEEDS = range(300_000, 1_000_000)
"""Those of them that a policy drove while the expert only labelled."""
SELECTION_SEEDS = range(1_000_000, 2_000_000)
"""Seeds used to choose between checkpoints and settings."""
LOG_SEEDS = range(2_000_000, 3_000_000)
"""Seeds of the recorded log that calibrates the quantized model."""
GATE_SEEDS = range(10_000_000, 2**31)
"""Seeds of the published figures: in none of the above."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """One of the fifteen: `verb` is reach, left, right, lift, press, open or close; no puck, no `colour`."""

    name: str
    verb: str
    colour: str


_VERB_SENTENCE = {
    "reach": "reach the {colour} puck",
    "left": "move the {colour} puck left",
    "right": "move the {colour} puck right",
    "lift": "lift the {colour} puck",
}

COMMANDS: tuple[Command, ...] = (
    *(
        Command(name=sentence.format(colour=colour), verb=verb, colour=colour)
        for verb, sentence in _VERB_SENTENCE.items()
        for colour in COLOURS
    ),
    Command(name="press the button", verb="press", colour=""),
    Command(name="open the drawer", verb="open", colour=""),
    Command(name="close the drawer", verb="close", colour=""),
)
BY_NAME = {command.name: command for command in COMMANDS}

_TEMPLATES: dict[str, tuple[str, ...]] = {
    "reach": (
        "reach the {thing}",
        "go to the {thing}",
        "move your hand to the {thing}",
        "touch the {thing}",
        "point at the {thing}",
        "please go over to the {thing}",
    ),
    "left": (
        "move the {thing} left",
        "push the {thing} to the left",
        "put the {thing} on the left side",
        "take the {thing} left",
        "bring the {thing} over to the left",
        "please move the {thing} to the left",
    ),
    "right": (
        "move the {thing} right",
        "push the {thing} to the right",
        "put the {thing} on the right side",
        "take the {thing} right",
        "bring the {thing} over to the right",
        "please move the {thing} to the right",
    ),
    "lift": (
        "lift the {thing}",
        "pick up the {thing}",
        "raise the {thing}",
        "lift up the {thing}",
        "take the {thing} up",
        "please pick the {thing} up",
    ),
    "press": (
        "press the {thing}",
        "push the {thing}",
        "push down the {thing}",
        "hit the {thing}",
        "press down on the {thing}",
        "please press the {thing}",
    ),
    "open": (
        "open the {thing}",
        "pull the {thing} open",
        "pull out the {thing}",
        "slide the {thing} open",
        "pull the {thing} out",
        "please open the {thing}",
    ),
    "close": (
        "close the {thing}",
        "push the {thing} shut",
        "shut the {thing}",
        "slide the {thing} closed",
        "push the {thing} in",
        "please close the {thing}",
    ),
}
_NOUNS: dict[str, tuple[str, ...]] = {
    "puck": ("{colour} puck", "{colour} disc", "{colour} cylinder", "{colour} piece"),
    "press": ("button", "big button", "switch", "red button on the box"),
    "drawer": ("drawer", "green drawer", "box drawer", "drawer on the table"),
}


def paraphrases(command: Command, *, held_out: bool) -> tuple[str, ...]:
    """Every way of saying `command` that training saw (`held_out=False`) or never saw (`held_out=True`).

    A quarter of the template-noun pairs is held out, on a diagonal, so each word and each template is seen in training.
    """
    nouns = _NOUNS["puck" if command.colour else "press" if command.verb == "press" else "drawer"]
    chosen = []
    for row, template in enumerate(_TEMPLATES[command.verb]):
        for column, noun in enumerate(nouns):
            if (((row + column) % 4) == 3) == held_out:
                chosen.append(template.format(thing=noun.format(colour=command.colour)))
    return tuple(chosen)


def phrase_for(command: Command, seed: int) -> str:
    """The sentence used for `command` in episode `seed`: demo seeds draw from the training half, others from all."""
    choices = paraphrases(command, held_out=False)
    if seed not in DEMO_SEEDS:
        choices = choices + paraphrases(command, held_out=True)
    generator = np.random.default_rng([seed, COMMANDS.index(command), 7])
    return choices[int(generator.integers(len(choices)))]


def vocabulary() -> tuple[str, ...]:
    """All words of all paraphrases, sorted."""
    sentences = (s for c in COMMANDS for held_out in (False, True) for s in paraphrases(c, held_out=held_out))
    return tuple(sorted({word for sentence in sentences for word in sentence.split()}))
