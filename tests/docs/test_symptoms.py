"""The table of symptoms has every cause for which the gate does not follow."""

from __future__ import annotations

from typing import get_args

from support.blocks import ROOT

from edgevlm.gate.limits import Cause


def test_every_cause_has_a_row() -> None:
    text = (ROOT / "docs/symptoms.md").read_text()
    assert [cause for cause in get_args(Cause) if f"`{cause}`" not in text] == []
