"""The page of measured figures, from the JSON that the commands leave in docs/results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs/results"
MARK = "<!-- figures: docs/hooks/measured.py -->"
INTRODUCTION = """# Measured

Generated from `docs/results`. Each table names the command that makes
its figures again and the machine that they were measured on. Seeds of the closed loop are apart from those of training
and of the choice of a checkpoint.
"""


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the page; mkdocs calls this once."""
    from mkdocs.structure.files import File  # a test reads the figures where mkdocs is not installed

    files.append(File.generated(config, "measured.md", content=page()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the few figures of the first page where its mark is."""
    return markdown.replace(MARK, headline())


def result(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return data


def headline() -> str:
    """The figures of README and of the first page; a test keeps README's equal to them."""
    gate, step, latency, dds = (result(name) for name in ("gate", "step", "ros-latency", "ros-gate"))
    one, other = (gate["rows"][form]["success_rate"] for form in ("int8", "fp32"))
    ours, torch = (step["steps_ms"][name]["p50"] for name in ("edgevlm int8", "PyTorch eager"))
    episodes = [row["episodes"] - len(row["different"]) for row in dds["lock_step"].values()]
    of = sum(row["episodes"] for row in dds["lock_step"].values())
    rows = [
        (
            f"success, INT8 and fp32, {gate['paired']['pairs']} paired episodes",
            f"{one:.1%}, {other:.1%}",
            "closed-loop",
        ),
        ("one step from a 640x480 frame, p50: INT8, PyTorch eager", f"{ours:.1f} ms, {torch:.1f} ms", "bench"),
        ("frame to first command through ROS 2, p50 and p99", spread(latency["latency_ms"]), "ros-bench"),
        ("of that, added by the nodes, p50", f"{latency['overhead_ms']['p50']:.1f} ms", "ros-bench"),
        ("episodes over DDS equal to one process, to the last bit", f"{sum(episodes)} of {of}", "ros-gate"),
    ]
    return table(("the tabletop policy", "figure", "command"), [(a, b, f"`make {c}`") for a, b, c in rows])


def spread(figures: dict[str, float]) -> str:
    return f"{figures['p50']:.1f} ms, {figures['p99']:.1f} ms"


def page() -> str:
    return "\n".join([INTRODUCTION, closed_loop(), bench(), real_size(), lock_step(), latency(), faults(), chats()])


def closed_loop() -> str:
    """Success of both forms, and what happens to the controls."""
    gate, plan = result("gate"), result("plan")
    rows = []
    for name, row in gate["rows"].items():
        low, high = row["interval_95"]
        count = f"{row['successes']} of {row['episodes']}"
        rows.append((name, count, f"{row['success_rate']:.1%}", f"{low:.1%} to {high:.1%}"))
    paired = gate["paired"]
    points = f"{paired['difference_points']:+.2f} points"
    interval = f"{paired['low_points']:+.2f} to {paired['high_points']:+.2f}"
    rows.append(("int8 - fp32, same episodes", f"{paired['lost']} lost, {paired['gained']} gained", points, interval))
    wrong = gate["rows"]["wrong-command"]["given_rate"]
    return (
        f"## Closed loop: `make closed-loop`\n\n{machine(gate)}\n\n"
        + table(("episodes", "successes", "rate", "95 %"), rows)
        + "\nIn `wrong-command` another command is spoken, and the success counted is that of the first one; the "
        f"spoken one succeeds in {wrong:.1%}. Plan: the step is the expert's in {plan['step_accuracy']:.1%} of the "
        f"decisions, the waypoint error is {100 * plan['waypoint_error_m']['p90']:.1f} cm at p90 (a hand that stays: "
        f"{100 * plan['hold_position_error_m']['p90']:.1f} cm).\n"
    )


def bench() -> str:
    """A step of every engine and form, with its own best number of threads and with one and two."""
    sets = {"best": result("step"), "2 threads": result("step-2-threads"), "1 thread": result("step-1-thread")}
    first = sets["best"]
    threads = ", ".join(f"{name} {count}" for name, count in first["threads"].items())
    steps = [(name, *(f"{each['steps_ms'][name]['p50']:.2f}" for each in sets.values())) for name in first["steps_ms"]]
    ratios = [
        (name, *(f"{each['ratios'][name]['of_medians']:.2f}" for each in sets.values())) for name in first["ratios"]
    ]
    overhead = tuple(f"{each['parts_ms']['edgevlm int8']['overhead']['p50']:.2f}" for each in sets.values())
    return (
        f"## One step: `make bench`\n\n{machine(first)} A 640x480 frame, p50 in ms, rivals interleaved; `best` is each "
        f"with its fastest number of threads ({threads}).\n\n"
        + table(("step", *sets), [*steps, ("of int8: edgevlm's own overhead", *overhead)])
        + "\n"
        + table(("ratio of medians", *sets), ratios)
    )


def real_size() -> str:
    """Encoders at the size that people run, each engine beside each peer."""
    data = result("real-size")
    rows = [
        (
            row["work"].partition(":")[0],
            row["engine"],
            row["peer"],
            f"{row['ours_ms']:.1f}",
            f"{row['peer_ms']:.1f}",
            f"{row['ratio']:.2f}",
            row["target"] or "-",
        )
        for row in data["rows"]
    ]
    head = ("model", "int8 in", "peer", "ours, ms", "peer, ms", "ratio", "target")
    return (
        f"## At real size: `make bench-real`\n\n{machine({'machine': data['environment']})} A 640x480 frame to an "
        f"embedding, p50 on {data['rows'][0]['threads']} thread, peers interleaved, weights at random.\n\n"
        + table(head, rows)
    )


def lock_step() -> str:
    """Episodes over DDS against one process, and in real time."""
    data = result("ros-gate")
    rows = [
        (
            f"{form}: episodes that are the same to the last bit",
            f"{row['episodes'] - len(row['different'])} of {row['episodes']}",
        )
        for form, row in data["lock_step"].items()
    ]
    live = data["real_time"]
    over, alone = live["over_ros"], live["in_process"]
    rows += [
        (f"real time, {over['episodes']} episodes: success over ROS", f"{over['success_rate']:.1%}"),
        ("the same in one process, with the measured latency", f"{alone['success_rate']:.1%}"),
        ("frame to first command, p50 and p99", spread(over["latency_ms"])),
    ]
    return f"## Lock-step over DDS: `make ros-gate`\n\n{machine(data)}\n\n" + table(("what", "figure"), rows)


def latency() -> str:
    """A 30 Hz camera against the nodes."""
    data = result("ros-latency")
    rows = [
        ("frames that arrive", f"{data['frames_received'] / data['frames_sent']:.1%}"),
        ("commands later than their validity", str(data["late_commands"])),
        ("frame to first command, p50 and p99", spread(data["latency_ms"])),
        ("model's step, p50 and p99", spread(data["step_ms"])),
        ("added by the nodes, p50 and p99", spread(data["overhead_ms"])),
        ("error of the command period, p50 and p99", spread(data["period_error_ms"]["stamp"])),
        ("CPU of policy and gate without input", shares(data["cpu_idle"])),
        ("CPU of policy and gate with it", shares(data["cpu_busy"])),
    ]
    head = (
        f"## Through ROS 2: `make ros-bench`\n\n{machine(data)} A 30 Hz 640x480 camera for {data['seconds']:.0f} s.\n\n"
    )
    return head + table(("what", "figure"), rows)


def shares(cpu: dict[str, float]) -> str:
    return f"{cpu['policy']:.1%}, {cpu['gate']:.1%} of a core"


def faults() -> str:
    """The chaos suite's rows, and the soak."""
    data, soak = result("chaos"), result("soak")
    on, off = data["on"]["rows"], {row["row"]: sum(row["violations"].values()) for row in data["off"]["rows"]}
    rows = [
        (
            row["cause"],
            seconds(row["detected_s"]),
            seconds(row["recovery_s"]),
            sum(row["violations"].values()),
            off.get(row["row"], "-"),
        )
        for row in on
    ]
    memory = soak["nodes"]["memory"]
    return (
        f"## Faults: `make chaos`, `make soak`\n\n{machine(data)} Violations are of limits and promises, counted by an "
        "observer of its own, with the gate and with it off.\n\n"
        + table(("cause", "noticed", "recovered", "violations", "gate off"), rows)
        + f"\nSoak: {soak['random_chunks']['chunks']:,} random chunks break no limit; in "
        f"{soak['nodes']['minutes']:.0f} minutes of 30 Hz the memory of the policy grows by "
        f"{memory['policy']['growth']:.2%}, of the gate by "
        f"{memory['gate']['growth']:.2%}.\n"
    )


def seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def chats() -> str:
    """Exports of the size that people run; weights are random."""
    small, large = result("chat-256m"), result("chat-2gb")
    rows = [
        (each["shape"], f"{each['seconds']:.0f} s", f"{each['peak_gb']:.1f} GB", f"{each['bundle_gb']:.1f} GB")
        for each in (small, large)
    ]
    return (
        "## Export of a chat: `make chat-gate`\n\n"
        + table(("shape", "export", "peak memory", "bundle"), rows)
        + f"\nOf the first, on the same machine: {small['first_ms'] / 1e3:.1f} s to the first word about a new "
        f"picture, {small['again_ms'] / 1e3:.2f} s for a further question about it.\n"
    )


def machine(data: dict[str, Any]) -> str:
    facts = data["machine"]
    versions = facts["versions"]
    return (
        f"Measured on {facts['cpu']}, {facts['processors']} processors, Python {facts['python']}, "
        f"ONNX Runtime {versions['onnxruntime']}."
    )


def table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]) + "\n"
