"""Matcher, mailbox, worker and gate put together: in lock-step they do what calling the policy does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from support import tiny
from support.tiny import COMMANDS, START_NS

from edgevlm.bundle import open_bundle
from edgevlm.gate.chunking import Command, LatestChunk, RecedingHorizon
from edgevlm.gate.gate import Gate
from edgevlm.gate.limits import AxisLimits, GateLimits
from edgevlm.loop.mailbox import Mailbox
from edgevlm.loop.matching import Matched, Matcher, MatchSpec, merge
from edgevlm.loop.worker import Acted, Clocks, Hooks, Outcome, Worker
from edgevlm.manifest.contract import SECOND_NS
from edgevlm.options import RuntimeOptions
from edgevlm.tasks import Policy

STEP_S, STEPS_PER_FRAME, FRAMES = 0.05, 2, 20
MATCH = MatchSpec(
    tolerance_s=0.01,
    state_tolerance_s=0.1,
    max_age_s=1.0,
    wait_s=1.0,
    wait_for_state=True,
    future_s=0.01,
    reset_after_s=1.0,
)


def limits() -> GateLimits:
    """Wide enough for whatever this made-up model puts out."""
    axes = tuple(
        AxisLimits(
            action=f"d{axis}", state=axis, position=(-10.0, 10.0), velocity=5.0, acceleration=1000.0, tracking=None
        )
        for axis in "xy"
    )
    return GateLimits(
        axes=axes,
        command_period_s=STEP_S,
        command_valid_s=STEP_S,
        deadline_s=10.0,
        state_max_age_s=0.2,
        recover_after_s=0.0,
        future_s=0.01,
        reset_after_s=1.0,
    )


def test_in_lock_step_the_chain_commands_what_the_policy_says(tmp_path: Path) -> None:
    with Policy(open_bundle(tiny.mono(tmp_path / "mono")), RuntimeOptions(intra_threads=1)) as policy:
        session, executor = policy.session(), RecedingHorizon(LatestChunk(), STEPS_PER_FRAME)
        gate = Gate(policy.contract, limits(), RecedingHorizon(LatestChunk(), STEPS_PER_FRAME))
        matcher = Matcher(["front"], MATCH, needs_state=True)
        inbox: Mailbox[Matched] = Mailbox(merge)
        outcomes: list[Outcome] = []
        clock_ns = [START_NS]
        hooks = Hooks(
            publish=outcomes.append,
            beat=lambda observing_ns: gate.heartbeat(clock_ns[0], clock_ns[0], observing_ns),
            instruction=lambda: COMMANDS[0],
        )
        clocks = Clocks(ros=lambda: clock_ns[0], steady=lambda: clock_ns[0])
        worker = Worker(policy.session(), inbox, hooks, clocks, poll_s=0.0)
        for index in range(FRAMES):
            observation = tiny.observation(policy.contract, index)
            now_ns = clock_ns[0] = observation.frames["front"].stamp_ns
            assert observation.state is not None
            matcher.add_frame("front", observation.frames["front"], now_ns, now_ns)
            assert matcher.match(now_ns, now_ns) is None, "the state of this frame is still under way"
            matcher.add_state(observation.state, now_ns)
            assert gate.feed_state(observation.state, now_ns) is None
            matched = matcher.match(now_ns, now_ns)
            assert matched is not None
            inbox.put(matched)
            outcome = worker.turn()
            assert isinstance(outcome, Acted)
            assert gate.feed(outcome.chunk, now_ns, now_ns) is None
            executor.offer(session.act(observation), now_ns)
            for step in range(STEPS_PER_FRAME):
                stamp_ns = now_ns + step * round(STEP_S * SECOND_NS)
                sent, plain = gate.command(stamp_ns, stamp_ns), executor.command(stamp_ns)
                assert isinstance(plain, Command)
                assert sent.values is not None
                assert sent.limited == ()
                moved = np.array([sent.values[0] * STEP_S, sent.values[1] * STEP_S, sent.values[2]], np.float32)
                np.testing.assert_array_equal(moved, plain.values)
    assert len(outcomes) == FRAMES
    assert gate.counts["command.follow"] == FRAMES * STEPS_PER_FRAME
