"""Parameter sets as people mistype them: nothing that is not declared is taken, and what is right is not refused."""

from __future__ import annotations

import random
import string
import sys
from pathlib import Path
from typing import Any

from edgevlm.errors import ContractError

sys.path.insert(0, str(Path(__file__).parents[2] / "ros2_ws/src/edgevlm_ros"))  # without a built workspace

from edgevlm_ros.arguments import ArgumentsError, sections
from edgevlm_ros.declared import NODES
from edgevlm_ros.parameter_items import Item, fit
from edgevlm_ros.undeclared_parameters import AXIS, refuse_undeclared

COLUMNS = [f"axes.{column}.{field}" for column in ("dx", "dy", "dz") for field in AXIS]
KNOWN = {*COLUMNS, *(item.name for items in NODES.values() for item in items)}
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**30,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "fast",
    [],
    [1, 2],
    ["a", 1],
    b"x",
    {},
)


class ParametersAttack:
    """Misspelt, unknown and ill-typed parameters, in a node's overrides and in files."""

    name, unit = "parameters", "parameter sets"
    limit_s, memory_mb = 10.0, 200

    def one(self, seed: int, directory: Path) -> str:
        """One set against one node, or one file."""
        chance = random.Random(seed)
        if seed % 4 == 3:
            return self._file(chance, directory / "limits.yaml")
        items = {item.name: item for item in chance.choice(list(NODES.values()))}
        names = chance.sample(sorted(KNOWN), chance.randint(0, 12))
        wrong = _misspelt(chance) if chance.random() < 0.6 else None
        values = dict.fromkeys([*names, *([wrong] if wrong else [])], 1.0)
        try:
            refuse_undeclared(values, list(items), COLUMNS)
        except ContractError as error:
            assert wrong is not None, f"refused though every name is declared: {error}"
            assert wrong in str(error) and "\n" not in str(error), str(error)
            return "refused by name"
        assert wrong is None, f"{wrong!r} was taken"
        return self._value(chance, chance.choice(list(items.values())))

    @staticmethod
    def _value(chance: random.Random, item: Item) -> str:
        value = chance.choice(VALUES)
        try:
            fitted = fit(item, value)
        except ContractError as error:
            assert item.name in str(error), str(error)
            return "value refused"
        assert type(fitted) is type(item.default), f"{item.name}: {value!r} became {fitted!r}"
        numbers = fitted if isinstance(fitted, list) else [fitted]
        for number in numbers:
            if isinstance(number, float | int) and not isinstance(number, bool):
                assert number == number, f"{item.name}: NaN was taken"
                assert item.low is None or number >= item.low
                assert item.high is None or number <= item.high
        return "taken"

    @staticmethod
    def _file(chance: random.Random, path: Path) -> str:
        text = "/**:\n  ros__parameters:\n    deadline_ms: 300.0\n    axes: {dx: {velocity: 0.3, position: [-1, 1]}}\n"
        for _ in range(chance.randint(0, 4)):
            at = chance.randrange(len(text) + 1)
            noise = "".join(chance.choice(string.printable + "\x00\x85é") for _ in range(chance.randint(0, 3)))
            text = text[:at] + noise + text[at + chance.randint(0, 3) :]
        path.write_text(text, encoding="utf-8")
        try:
            result = sections(path)
        except ArgumentsError as error:
            assert "\n" not in str(error) and str(path) in str(error), str(error)
            return "file refused"
        assert result
        return "file taken"


def _misspelt(chance: random.Random) -> str:
    """A declared name with a letter more, less or other, such that nobody declares it."""
    while True:
        name = chance.choice(sorted(KNOWN))
        at = chance.randrange(len(name))
        letter = chance.choice(string.ascii_lowercase + "_.")
        wrong = chance.choice(
            (name[:at] + name[at + 1 :], name[:at] + letter + name[at:], name[:at] + letter + name[at + 1 :])
        )
        if wrong and wrong not in KNOWN and wrong != name:
            return wrong
