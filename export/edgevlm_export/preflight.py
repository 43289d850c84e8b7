"""What is looked at before an export loads a weight, in this order, for every family.

1. The options that contradict each other, and the place of the output (`exporter.export`).
2. The libraries whose results are compared to the bit: versions that are known to give others.
3. The checkpoint's small files: adapter of the family, weights by their headers, config, processor and tokenizer
   against upstream's own, the robot file (`families.prepare`).
4. The data: pictures, texts, recording, samples, each held against what the model reads (`recipes.open_recipe`).

Only then are weights loaded.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from edgevlm.errors import DependencyError
from edgevlm_calibration.progress import Progress, silent
from edgevlm_export import families
from edgevlm_export.checkpoint import Checkpoint
from edgevlm_export.hub import resolve
from edgevlm_export.prepared import Prepared

# package -> (first major version that is another, why)
OTHERS = {"pillow": (13, "it resizes tall pictures vertically first, the runtime horizontally, as Pillow 10 to 12 do")}


def preflight(checkpoint: Checkpoint, context: int | None, robot: Path | None) -> Prepared:
    """The checkpoint, prepared; see `families.prepare`.

    Raises:
        DependencyError: a library of a version whose results are known to be others.
        CheckpointError, FamilyError, ContractError: the checkpoint, or the robot file it needs.
    """
    check_versions()
    return families.prepare(checkpoint, context, robot)


def robot_template(source: str | Path, progress: Progress = silent) -> str:
    """The robot file of a LeRobot policy to fill in; `source` as for `exporter.export`, see `families`."""
    return families.robot_template(resolve(source, progress))


def check_versions() -> None:
    """Raises DependencyError: with what to install."""
    for package, (first, why) in OTHERS.items():
        installed = importlib.metadata.version(package)
        if int(installed.partition(".")[0]) >= first:
            raise DependencyError(
                f"{package}: expected a version before {first}, got {installed}: {why}, so pictures cannot be "
                f"compared to the bit: pip install '{package}<{first}'"
            )
