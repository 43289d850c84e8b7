"""The topics of a contract on a live robot: names that namespaces and remaps apply to, and what is expected of them.

The map is the one that recordings use (edgevlm.rosmsg.topic_map); a leading "/" in it is dropped.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from typing import Any

from edgevlm.errors import ContractError
from edgevlm.manifest.contract import Contract
from edgevlm.rosmsg.state import StateAssembler
from edgevlm.rosmsg.topic_map import TopicMap, default_topics, load_topics
from edgevlm.rosmsg.type_names import JOINT_STATE
from edgevlm_ros.stamps import to_ns

__all__ = [
    "JOINT_STATE",
    "StateAssembler",
    "live_topics",
    "message_class",
    "message_stamp_ns",
    "relative",
    "state_types",
    "wrong_types",
]


def live_topics(contract: Contract, path: str, found: Collection[str] = ()) -> TopicMap:
    """The topic map in the YAML file `path`, or the convention's where it is empty, with relative names.

    Args:
        found: topics that are live; of a camera's two by convention the one among them is taken, compressed first.

    Raises:
        LogError: the file cannot be read, or its map does not fit the contract.
        DependencyError: there is a file, and the extra `bags` is not installed.
    """
    topics = load_topics(path) if path else default_topics(contract, {f"/{relative(topic)}" for topic in found})
    topics.check(contract)
    return TopicMap(
        cameras={name: relative(topic) for name, topic in topics.cameras.items()},
        state={
            name: source.model_copy(update={"topic": relative(source.topic)}) for name, source in topics.state.items()
        },
        instruction=relative(topics.instruction),
    )


def relative(topic: str) -> str:
    """The name without a leading "/"."""
    return topic.lstrip("/")


def state_types(topics: TopicMap) -> dict[str, str]:
    """Each topic of the state with the type it must have; "" where any type with the path will do."""
    types: dict[str, str] = {}
    for source in topics.state.values():
        types[source.topic] = JOINT_STATE if source.joint else types.get(source.topic, "")
    return types


def message_class(type_name: str) -> Any:
    """The class of a type such as "geometry_msgs/msg/PoseStamped".

    Raises:
        ContractError: its package is not installed here, or has no such message.
    """
    try:
        package, kind, name = type_name.split("/")
        return getattr(importlib.import_module(f"{package}.{kind}"), name)
    except (ValueError, ImportError, AttributeError) as error:
        raise ContractError(
            f"message type {type_name!r}: expected package/msg/Name of an installed package, got {error}; "
            "install the package that defines it, and source its workspace"
        ) from error


def message_stamp_ns(message: Any, now_ns: int) -> int:
    """The header's stamp; the clock for messages without a header, or with a stamp nobody set."""
    header = getattr(message, "header", None)
    return (to_ns(header.stamp) if header is not None else 0) or now_ns


def wrong_types(expected: Mapping[str, str], live: Mapping[str, Collection[str]]) -> list[str]:
    """A line for each topic of `state_types` without a publisher, or whose publishers have another type."""
    faults = []
    for topic, type_name in expected.items():
        types = sorted(live.get(topic, ()))
        if not types:
            faults.append(f"{topic}: nobody publishes it; start its publisher, remap it or correct the topic map")
        elif len(types) > 1 or (type_name and types != [type_name]):
            faults.append(
                f"{topic}: expected {type_name or 'one type'}, got {', '.join(types)}; remap it to the right one"
            )
    return faults
