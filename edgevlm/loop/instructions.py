"""Who may say what the robot is to do. No ROS, no clock.

A goal comes before everything else, and a newer goal before an older one. Topic and service are equals: the latest
wins, and while a goal is under way neither does. After a goal no instruction is in force: nobody said what comes next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Literal

from edgevlm.errors import InstructionError

Speaker = Literal["topic", "service"]
Source = Literal["none", "topic", "service", "goal"]

LONGEST = 2000  # characters; what is longer is refused before a tokenizer has to look at it


class Instructions:
    """Verbs from one thread; `text` from any.

    Args:
        check: raises InstructionError for a text that the model cannot follow.

    Attributes:
        counts: "<generator>.taken", ".refused" (the text), ".ignored" (a goal is under way); "goal.taken", ".refused",
            ".preempted".
    """

    def __init__(self, check: Callable[[str], None]) -> None:
        self._check = check
        self._now: tuple[Source, str | None] = ("none", None)
        self._goal = 0
        self.counts: Counter[str] = Counter()

    @property
    def text(self) -> str | None:
        """What is in force; None: nothing, the robot idles."""
        return self._now[1]

    @property
    def source(self) -> Source:
        """Who said it."""
        return self._now[0]

    @property
    def goal(self) -> int | None:
        """The number of the goal that is under way."""
        return self._goal if self._now[0] == "goal" else None

    def say(self, generator: Speaker, text: str) -> str:
        """Text from a topic or a service; empty text makes the robot idle. Why it is not taken, or an empty string."""
        if self.goal is not None:
            self.counts[f"{generator}.ignored"] += 1
            return f"a goal is under way ({self.text!r:.80}); cancel it, or send a goal: a newer one takes its place"
        if text.strip():
            try:
                self.check(text)
            except InstructionError as error:
                self.counts[f"{generator}.refused"] += 1
                return str(error)
        self.counts[f"{generator}.taken"] += 1
        self._now = (generator, text) if text.strip() else ("none", None)
        return ""

    def check(self, text: str) -> None:
        """Raises InstructionError: empty, too long, or words that the model was never taught."""
        if len(text) > LONGEST:
            raise InstructionError(
                f"instruction {text!r:.80}: expected at most {LONGEST} characters, got {len(text)}; use fewer words"
            )
        self._check(text)

    def begin(self, text: str) -> int:
        """A goal begins, in the place of an older one. Its number.

        Raises:
            InstructionError: the model cannot follow this text; what was in force stays so.
        """
        try:
            self.check(text)
        except InstructionError:
            self.counts["goal.refused"] += 1
            raise
        self.counts["goal.preempted"] += self.goal is not None
        self.counts["goal.taken"] += 1
        self._goal += 1
        self._now = ("goal", text)
        return self._goal

    def end(self, goal: int) -> bool:
        """A goal is over, whatever became of it; False when it was not the one under way."""
        if self.goal != goal:
            return False
        self._now = ("none", None)
        return True

    def clear(self) -> None:
        """Nothing is in force any more; counts stay."""
        self._now = ("none", None)
