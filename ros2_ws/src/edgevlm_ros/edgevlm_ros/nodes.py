"""The programs of this package. Importing a node takes a second: until it runs, a signal ends the process at once."""

from __future__ import annotations

from edgevlm_ros.shutdown import leave_at_once


def policy_node() -> None:
    """edgevlm_ros.policy_node."""
    leave_at_once()
    from edgevlm_ros.policy_node import main

    main()


def command_gate() -> None:
    """edgevlm_ros.command_gate."""
    leave_at_once()
    from edgevlm_ros.command_gate import main

    main()


def command_relay() -> None:
    """edgevlm_ros.command_relay."""
    leave_at_once()
    from edgevlm_ros.command_relay import main

    main()


def vlm_node() -> None:
    """edgevlm_ros.vlm_node."""
    leave_at_once()
    from edgevlm_ros.vlm_node import main

    main()


def recorder() -> None:
    """edgevlm_ros.recorder."""
    leave_at_once()
    from edgevlm_ros.recorder import main

    main()
