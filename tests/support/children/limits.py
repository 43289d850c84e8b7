"""A child that tells its limits."""

import resource

from edgevlm.text.confined import limit_self, reply


def main() -> None:
    """Those that can be read."""
    limit_self()
    names = {"files": "NOFILE", "size": "FSIZE", "processes": "NPROC", "core": "CORE"}
    reply({name: resource.getrlimit(getattr(resource, f"RLIMIT_{limit}"))[1] for name, limit in names.items()})
