"""Open a bundle as the task it was exported for."""

from __future__ import annotations

import os

from edgevlm.backends import pick_engine
from edgevlm.bundle import open_bundle
from edgevlm.options import RuntimeOptions
from edgevlm.tasks.policy import Policy


def load(path: str | os.PathLike[str], options: RuntimeOptions | None = None) -> Policy:
    """A ready model from a bundle directory.

    Raises:
        BundleError: (and its subclasses) the bundle is missing, damaged, unsafe or newer than this version.
        DependencyError: no engine is installed; the message names the extra.
        BackendError: the engine refuses a stage.
    """
    options = options or RuntimeOptions()
    pick_engine(options)
    return Policy(open_bundle(path, verify_files=options.verify_files), options)
