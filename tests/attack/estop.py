"""Sequences of buttons, foreign publishers, silence, restarts and broken files against the emergency stop and the gate.

The model knows what happened, and nothing of `edgevlm.gate`: who pressed which button last, who was alone on its topic
when it was released, and when somebody re-armed. A command that moves the robot although the model says stop is a
finding; so is a stop that lasts although all is well and was re-armed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from support.gate_bench import Bench

from edgevlm.gate.estop import Estops, LatchStore

NODE, S = "/robot/command_gate", 1_000_000_000
_STEPS, _CALM, _TICKS = 120, 0.001, 3
_GRACE_S, _DEADLINE_S = 3.0, 1.0


@dataclass
class _Topic:
    """What is true of a button's topic: its own publisher, foreign ones, and what was last said."""

    own: str = "button-0"
    latched: bool = False  # its publisher is transient-local
    there: bool = True
    foreign: set[str] = field(default_factory=set)
    released_by: str = ""  # who said so last, alone on the topic, with no press since
    released_ns: int = 0

    @property
    def graph(self) -> dict[str, str]:
        return {name: f"/{name}" for name in ({self.own} if self.there else set()) | self.foreign}


class _Sequence:
    """One robot's life."""

    def __init__(self, seed: int, directory: Path) -> None:
        self.random = random.Random(seed)
        names = ["estop", "pendant", "rear"][: self.random.randint(1, 3)]
        self.topics = {name: _Topic(own=f"{name}-0", latched=self.random.random() < 0.5) for name in names}
        self.deadline = self.random.random() < 0.5
        self.directory, self.bench, self.now_ns, self.started_ns = directory, Bench(), 10 * S, 10 * S
        self.stop = False  # the model: a stop that only a re-arm ends
        self.moved = self.rearmed = self.serial = 0
        self.store = LatchStore(directory, NODE)
        self.estops = Estops(tuple(self.topics), self.store, int(_DEADLINE_S * S) if self.deadline else 0)
        self.estops.start(self.now_ns)

    def run(self) -> None:
        acts: list[tuple[Callable[[], None], int]] = [
            (self.press, 2), (self.release, 12), (self.rearm, 6), (self.look, 2), (self.silence, 1), (self.restart, 1),
            (self.reactivate, 1), (self.break_file, 1), (self.foreign_comes, 1), (self.foreign_goes, 3),
            (self.foreign_press, 1), (self.foreign_release, 2), (self.button_goes, 1), (self.button_comes, 3),
        ]  # fmt: skip
        for act in self.random.choices([act for act, _ in acts], [weight for _, weight in acts], k=_STEPS):
            act()
            self.pass_time(self.random.choice([0.02, 0.02, 0.1, 0.6]))
            self.judge()

    def pick(self) -> tuple[str, _Topic]:
        return self.random.choice(list(self.topics.items()))

    def say(self, name: str, pressed: bool, latched: bool) -> None:
        order = ["volatile", "transient_local"] if latched else ["volatile"]
        self.random.shuffle(order)
        for subscription in order:
            graph = self.topics[name].graph
            self.estops.heard(name, subscription, pressed, lambda graph=graph: graph, self.now_ns)

    def press(self) -> None:
        name, topic = self.pick()
        if topic.there:
            topic.released_by, self.stop = "", True
            self.say(name, True, topic.latched)

    def release(self) -> None:
        name, topic = self.pick()
        if topic.there:
            self.expire()
            if not topic.foreign:
                topic.released_by, topic.released_ns = topic.own, self.now_ns
            self.say(name, False, topic.latched)

    def foreign_release(self) -> None:
        name, topic = self.pick()
        if topic.foreign:
            self.expire()
            if len(topic.graph) == 1:
                topic.released_by, topic.released_ns = next(iter(topic.graph)), self.now_ns
            self.say(name, False, self.random.random() < 0.5)

    def foreign_press(self) -> None:
        name, topic = self.pick()
        if topic.foreign:
            topic.released_by, self.stop = "", True
            self.say(name, True, self.random.random() < 0.5)

    def foreign_comes(self) -> None:
        _, topic = self.pick()
        self.serial += 1
        topic.foreign.add(f"foreign-{self.serial}")

    def foreign_goes(self) -> None:
        _, topic = self.pick()
        if topic.foreign:
            self.gone(topic, topic.foreign.pop())

    def button_goes(self) -> None:
        _, topic = self.pick()
        if topic.there:
            topic.there = False
            self.gone(topic, topic.own)

    def button_comes(self) -> None:
        _, topic = self.pick()
        if not topic.there:
            self.serial += 1
            topic.own, topic.there, topic.latched = f"own-{self.serial}", True, self.random.random() < 0.5

    def gone(self, topic: _Topic, name: str) -> None:
        self.look()
        if topic.released_by == name:
            topic.released_by, self.stop = "", True

    def silence(self) -> None:
        self.pass_time(self.random.choice([0.5, 1.5, 4.0]))

    def pass_time(self, seconds: float) -> None:
        self.now_ns += int(seconds * S)
        self.expire()
        self.look()

    def expire(self) -> None:
        for topic in self.topics.values():
            if self.deadline and topic.released_by and self.now_ns - topic.released_ns > _DEADLINE_S * S:
                topic.released_by, self.stop = "", True
            if not topic.released_by and self.now_ns - self.started_ns > _GRACE_S * S:
                self.stop = True

    def look(self) -> None:
        self.estops.published({name: topic.graph for name, topic in self.topics.items()}, self.now_ns)

    def restart(self) -> None:
        """kill -9: all that is left is the file; a transient-local button says again what it said."""
        self.store.close()
        self.store = LatchStore(self.directory, NODE)
        self.estops = Estops(tuple(self.topics), self.store, int(_DEADLINE_S * S) if self.deadline else 0)
        self.estops.start(self.now_ns)
        self.started_ns, self.bench = self.now_ns, Bench()
        for topic in self.topics.values():
            topic.released_by = ""
        self.look()

    def reactivate(self) -> None:
        self.estops.stop()
        self.estops.start(self.now_ns)
        self.started_ns = self.now_ns

    def break_file(self) -> None:
        """Whatever stands there instead, at the next start it is a stop, unless it was never there."""
        path = self.store.path
        how = self.random.randrange(4)
        data = path.read_bytes()
        if how == 0:
            path.write_bytes(data[: self.random.randrange(len(data) - 1)])
        elif how == 1:
            path.write_bytes(self.random.randbytes(self.random.randrange(60)))
        elif how == 2:
            path.unlink()
            path.symlink_to("/dev/zero")
        else:
            path.unlink()
            os.mkfifo(path)
        self.stop = True
        self.restart()

    def rearm(self) -> None:
        graph = {name: topic.graph for name, topic in self.topics.items()}
        fault = self.estops.rearm(graph, self.now_ns)
        right = all(topic.released_by and len(topic.graph) == 1 for topic in self.topics.values())
        assert bool(fault) or right, f"re-armed although {self.model()}"
        if not fault:
            self.stop, self.rearmed = False, self.rearmed + 1

    def model(self) -> str:
        return f"stop {self.stop}, {self.topics}"

    def judge(self) -> None:
        """One period of the gate: what it commands is what the model allows."""
        self.estops.check(self.now_ns)
        stopping = self.estops.stopping
        self.bench.gate.estop(stopping)
        if not stopping:
            self.bench.gate.rearm()
        commands = [self.bench.tick(_CALM), *self.bench.run(_TICKS)]
        must_stop = self.stop or not all(topic.released_by for topic in self.topics.values())
        moved = sum(command.values is not None for command in commands)
        assert not (must_stop and moved), f"commands {commands[-1].values} although {self.model()}"
        assert not self.stop or self.store.read(), f"not on the disk: {self.model()}"
        self.moved += moved


class EmergencyStops:
    """See `attack.base.Attack`."""

    name = "estop"
    unit = "emergency stop sequences"
    limit_s = 30.0
    memory_mb = 1024

    def one(self, seed: int, directory: Path) -> str:
        """120 events of one robot's life."""
        sequence = _Sequence(seed, directory)
        sequence.run()
        sequence.store.close()
        if sequence.rearmed and sequence.moved:
            return "held, re-armed and moved"
        return "held, moved" if sequence.moved else "held, at rest"
