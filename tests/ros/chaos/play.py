"""Plays rows in a running graph, and reads from the observer's record what came of each."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from ros.chaos.judge import KINDS, Line, Rules, Violation, count, judge, unsigned
from ros.chaos.rig import ACCELERATION, AXES, VALID_S, VELOCITY, Rig, read_record
from ros.chaos.rows import Key, Row

S = 1_000_000_000
RULES = Rules(
    axes=tuple((column, VELOCITY, ACCELERATION) for column in range(3)),
    ranges=tuple((column, "hand_pose", column, *reach) for column, (_, reach) in enumerate(AXES.values())),
    states=("hand_pose", "joint_states"),
    valid_s=VALID_S,
)
SETTLE_S = 1.2  # until the next diagnostics tell, too


@dataclass(frozen=True)
class Marks:
    """System times of a row, ns."""

    before: int
    begin: int
    end: int
    over: int


def play(rig: Rig, row: Row, seed: int) -> Marks:
    """One row: a healthy episode, the fault, its end, and healthy again."""
    rig.episode(seed)
    before = time.time_ns()
    time.sleep(SETTLE_S if row.key[0] else 0)
    rig.wait(rig.well, 20)
    row.prepare(rig)
    if row.wild:
        rig.model("wild")
    begin = time.time_ns()
    row.begin(rig)
    time.sleep(row.seconds)
    rig.model("ok")
    end = time.time_ns()
    row.end(rig)
    rig.wait(rig.chunks_come, 30)
    if row.name != "control":
        rig.wait(rig.well, 30)
        time.sleep(SETTLE_S)
    over = time.time_ns()
    row.restore(rig)
    return Marks(before, begin, end, over)


def verdict(
    row: Row, marks: Marks, lines: Sequence[Line], broken: Sequence[Violation], enabled: bool
) -> dict[str, Any]:
    """What the table says of a row."""
    mine = [line for line in lines if marks.before <= line["r"] <= marks.over]
    result: dict[str, Any] = {"row": row.name, "cause": row.cause, "gate": "on" if enabled else "off", "note": row.note}
    result["violations"] = count(broken)
    result["first_violation"] = f"{broken[0].kind}: {broken[0].detail}" if broken else ""
    result["diagnostics"] = _diagnostics(row, marks, mine)
    if enabled:
        result |= _reaction(row, marks, mine)
        result["passed"] = not broken and (row.name == "control" or result["detected_s"] is not None)
        result["passed"] = result["passed"] and (row.name == "control" or result["recovery_s"] is not None)
        result["passed"] = result["passed"] and result["followed"] >= row.followed and not result["unsaid"]
    else:
        result["unsafe"] = list(row.unsafe)
        unsafe = sum(violation.kind in row.unsafe for violation in broken)
        stopped = not any(violation.kind == "estop" for violation in broken)
        result["passed"] = unsafe >= row.least if row.unsafe else stopped and (row.name != "control" or not broken)
    if row.foreign:
        result["foreign_commands"] = sum(marks.begin <= line["r"] <= marks.over for line in unsigned(mine))
    return result


def _reaction(row: Row, marks: Marks, mine: Sequence[Line]) -> dict[str, Any]:
    """When the gate or the diagnostics told of it, what the gate sent, and when it followed again."""
    statuses = [line for line in mine if line["k"] == "status" and line["r"] >= marks.begin]
    named = [line for line in statuses if line["cause"] or line["limited"]]
    changed = _changed(row.key, marks, mine)
    first = min((line["r"] for line in (*named[:1], *changed[:1])), default=None)
    by = "gate_status" if named and named[0]["r"] == first else "diagnostics"
    if row.silent:
        first, by = _last_command_ends(marks, mine), "the robot: its last command is over"
    elif row.name == "control":
        first = None
    outputs: list[str] = []
    for line in statuses:
        output = f"{line['mode']}: {line['cause']}" if line["cause"] else line["mode"]
        output += " (limited)" if line["limited"] else ""
        if output not in outputs:
            outputs.append(output)
    left = [line for line in statuses if line["mode"] != "follow" or line["limited"]]
    back = [s for s in statuses if s["r"] >= marks.end and s["mode"] == "follow" and not s["limited"]]
    back = [line for line in back if not left or line["r"] > left[0]["r"]]
    silent = _longest_silence(statuses, marks)
    after = [line["mode"] == "follow" for line in statuses if back and line["r"] >= back[0]["r"]]
    return {
        "detected_s": None if first is None else round((first - marks.begin) / S, 3),
        "detected_by": "" if first is None else by,
        "outputs": outputs,
        "recovery_s": round((back[0]["r"] - marks.end) / S, 3) if back else None,
        "silence_s": round(silent, 3),
        "followed": round(sum(after) / max(1, len(after)), 3),
        "unsaid": [list(key) for key in row.says if not _diagnostic(key, marks, mine)],
    }


def _longest_silence(statuses: Sequence[Line], marks: Marks) -> float:
    times = [marks.begin, *(line["r"] for line in statuses)]
    return max((b - a for a, b in pairwise(times)), default=0) / S


def _values(key: Key, mine: Sequence[Line]) -> list[tuple[int, str]]:
    node, section, name = key
    return [
        (line["r"], line["values"][name])
        for line in mine
        if line["k"] == "diagnostics" and line["name"].endswith(f"{node}: {section}") and name in line["values"]
    ]


def _changed(key: Key, marks: Marks, mine: Sequence[Line]) -> list[Line]:
    """Diagnostics after the fault whose value is another one than before."""
    values = _values(key, mine)
    before = [value for at_ns, value in values if at_ns < marks.begin]
    return [{"r": at_ns} for at_ns, value in values if at_ns >= marks.begin and before and value != before[-1]]


def _last_command_ends(marks: Marks, mine: Sequence[Line]) -> int | None:
    """When the last command before the longest silence is no longer valid."""
    sent = [line for line in mine if line["k"] == "command" and line["topic"] == RULES.topic]
    gaps = [(b["r"] - a["r"], a) for a, b in pairwise(sent) if b["r"] >= marks.begin]
    return int(max(gaps, key=lambda gap: gap[0])[1]["stamp"] + VALID_S * S) if gaps else None


def _diagnostic(key: Key, marks: Marks, mine: Sequence[Line]) -> str:
    """What the diagnostics say that match a key of `Row.says`; the first time after the fault."""
    node, section, pattern = key
    rows = [line for line in mine if line["k"] == "diagnostics" and line["name"].endswith(f"{node}: {section}")]
    matches = [re.search(pattern, line["message"]) for line in rows if line["r"] >= marks.begin]
    return next((match[0] for match in matches if match), "")


def _diagnostics(row: Row, marks: Marks, mine: Sequence[Line]) -> str:
    """How the diagnostics changed."""
    if row.says:
        return "; ".join(f"{key[0]}: {key[1]}: {_diagnostic(key, marks, mine) or '?'}" for key in row.says)
    key, values = row.key, _values(row.key, mine)
    before = [value for at_ns, value in values if at_ns < marks.begin]
    after = [value for at_ns, value in values if at_ns >= marks.begin]
    if not key[0]:
        return ""
    if row.silent:
        times = [at_ns for at_ns, _ in values]
        longest = max((b - a for a, b in pairwise(times)), default=0) / S
        return f"{key[0]}: no rows for {longest:.1f} s"
    other = [value for value in after if not before or value != before[-1]]
    return f"{key[0]}: {key[1]}.{key[2]}: {before[-1] if before else '?'} -> {other[-1] if other else 'unchanged'}"


def run(rows: Sequence[Row], bundle: Path, domain: int, work: Path, *, enabled: bool) -> dict[str, Any]:
    """Play rows, each kind of time in a graph of its own; what the table is made of."""
    result: list[dict[str, Any]] = []
    strays: list[Violation] = []
    for simulated in (False, True):
        chosen = [row for row in rows if row.simulated == simulated]
        if not chosen:
            continue
        name = f"{'on' if enabled else 'off'}-{'simulated' if simulated else 'real'}"
        with Rig(work / name, bundle, domain, enabled=enabled, simulated=simulated) as rig:
            rig.start()
            marks = [play(rig, row, seed) for seed, row in enumerate(chosen)]
        lines = read_record(rig.record)
        rules = replace(RULES, simulated=simulated)
        violations = _judged(lines, chosen, marks, rules)
        for row, mark in zip(chosen, marks, strict=True):
            result.append(verdict(row, mark, lines, _broken(row, mark, lines, violations, rules), enabled))
        strays += [v for v in violations if enabled and not any(m.begin <= v.at_ns <= m.over for m in marks)]
    return {"rows": result, "strays": [f"{v.kind}: {v.detail}" for v in strays[:10]], "kinds": list(KINDS)}


def run_patiently(
    rows: Sequence[Row], bundle: Path, domain: int, work: Path, *, enabled: bool, attempts: int = 3
) -> dict[str, Any]:
    """`run`, and its row without a fault again while that one is not clean.

    A machine that is too busy for 0.1 s lets chunks run out: a fault, too, and none that the row makes. No other row
    is played twice.
    """
    result = run(rows, bundle, domain, work, enabled=enabled)
    control = [row for row in rows if row.name == "control"]
    for at, row in enumerate(result["rows"]):
        row["attempts"] = 1
        while control and row["row"] == "control" and not row["passed"] and row["attempts"] < attempts:
            tried = row["attempts"] + 1
            again = run(control, bundle, domain, work / f"again-{tried}", enabled=enabled)
            result["rows"][at] = row = {**again["rows"][0], "attempts": tried}
    return result


def _judged(lines: Sequence[Line], rows: Sequence[Row], marks: Sequence[Marks], rules: Rules) -> list[Violation]:
    """All violations; where a rival sends commands by nature, only the gate's are judged."""
    spans = [(mark.begin, mark.over) for row, mark in zip(rows, marks, strict=True) if row.foreign]
    foreign = {id(line) for line in unsigned(lines) if any(a <= line["r"] <= b for a, b in spans)}
    return judge([line for line in lines if id(line) not in foreign], rules)


def _broken(
    row: Row, marks: Marks, lines: Sequence[Line], violations: Sequence[Violation], rules: Rules
) -> list[Violation]:
    """The violations of a row; while its fault lasts by its own rules."""
    own = judge(lines, replace(rules, **row.rules)) if row.rules else violations
    during = [violation for violation in own if marks.begin <= violation.at_ns <= marks.end]
    return during + [violation for violation in violations if marks.end < violation.at_ns <= marks.over]


def markdown(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The rows of both runs, side by side."""
    off = {row["row"]: row for row in tables.get("off", ())}
    head = ("cause", "detected within", "gate output", "recovery", "diagnostics key", "gate off: violations")
    table = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in tables.get("on", ()):
        without = off.get(row["row"], {}).get("violations")
        faults = ", ".join(f"{kind} {n}" for kind, n in without.items()) or "none" if without is not None else "-"
        seconds = ["-" if row[key] is None else f"{row[key]:.2f} s" for key in ("detected_s", "recovery_s")]
        cells = (row["cause"], seconds[0], "; ".join(row["outputs"]), seconds[1], row["diagnostics"], faults)
        table.append("| " + " | ".join(cells) + " |")
    return "\n".join(table)
