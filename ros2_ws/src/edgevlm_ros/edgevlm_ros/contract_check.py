"""The contract against live topics, before a policy is activated: the rules are those that recordings are held to."""

from __future__ import annotations

from collections.abc import Callable

from edgevlm.errors import ContractError
from edgevlm.manifest.contract import Contract
from edgevlm.rosmsg.contract_check import Limits, check_contract
from edgevlm.rosmsg.topic_facts import Facts
from edgevlm.rosmsg.topic_map import TopicMap


def check_live(
    contract: Contract, topics: TopicMap, facts: Facts, limits: Limits, warn: Callable[[str], None] = lambda _: None
) -> None:
    """Refuse to activate on topics that do not fit; what only costs single frames goes to `warn`.

    Raises:
        ContractError: every fault, a line each.
    """
    findings = check_contract(contract, topics, facts, limits)
    for warning in findings.warnings:
        warn(warning)
    if findings.faults:
        listed = "".join(f"\n  - {fault.text}" for fault in findings.faults)
        raise ContractError(f"{len(findings.faults)} fault(s) between the contract and the live topics:{listed}")
