"""Each kind of action is one row: every place that asks about a kind asks its row."""

from __future__ import annotations

from typing import get_args

import pytest

from edgevlm.manifest.action_kinds import ACTION_KINDS, BY_JOINT, ActionKind, ActionRow


def test_each_kind_of_a_contract_has_a_row_in_the_order_of_the_schema() -> None:
    assert tuple(ACTION_KINDS) == get_args(ActionKind)


@pytest.mark.parametrize("row", ACTION_KINDS.values(), ids=ACTION_KINDS)
def test_each_quantity_that_a_kind_sends_has_a_command(row: ActionRow) -> None:
    assert set(row.sent.values()) <= set(row.commands)
    assert all(row.commands.values())


def test_a_kind_whose_velocity_is_a_change_over_a_step_is_relative_to_the_row_before() -> None:
    for row in ACTION_KINDS.values():
        assert row.per_step == (row.sent.get("previous") == "velocity" and "none" not in row.sent)


def test_commands_by_joint_are_commands() -> None:
    assert set(BY_JOINT) <= {name for row in ACTION_KINDS.values() for names in row.commands.values() for name in names}
