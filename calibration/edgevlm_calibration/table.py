"""The calibration table: for every activation the largest magnitude that int8 must hold. JSON, no pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from edgevlm.atomic import write_file
from edgevlm.errors import CalibrationError, OutputError
from edgevlm.manifest.contract import Spec


class TensorRange(Spec):
    """What was seen of one tensor, and the magnitude that becomes code 127."""

    threshold: float = Field(gt=0)
    minimum: float
    maximum: float


class EpisodeRef(Spec):
    """An episode of the recording, so that anyone can tell which ones judged."""

    index: int = Field(ge=0)
    instruction: str
    start_ns: int
    observations: int


class Split(Spec):
    """Calibration and held-out episodes; none is in both."""

    calibration: tuple[EpisodeRef, ...]
    held_out: tuple[EpisodeRef, ...]


class PictureSplit(Spec):
    """Names of the pictures, and the texts, of a retriever's calibration and of its judgement; none is in both."""

    calibration: tuple[str, ...]
    held_out: tuple[str, ...]
    calibration_texts: tuple[str, ...]
    held_out_texts: tuple[str, ...]


class Table(Spec):
    """Ranges of one fp32 bundle on one recording, or on pictures and texts.

    Attributes:
        bundle_sha256: of the fp32 bundle whose graphs the tensor names belong to.
        stamps: what the recording was matched by. Not written for `header`, which tables had before there was a choice.
        observer: how thresholds were chosen, see observers.py.
        samples: steps that were run; `requested` is how many were asked for.
        stage_runs: stage -> engine runs that were observed.
    """

    format: Literal["edgevlm.calibration/1.0"] = "edgevlm.calibration/1.0"
    bundle_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    log_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    stamps: Literal["header", "log"] = "header"
    observer: str
    requested: int = Field(gt=0)
    samples: int = Field(gt=0)
    stage_runs: Mapping[str, int]
    stages: Mapping[str, Mapping[str, TensorRange]]
    split: Split | PictureSplit

    def thresholds(self, stage: str) -> dict[str, float]:
        """Tensor -> threshold of one stage; empty if the stage was not observed."""
        return {name: item.threshold for name, item in self.stages.get(stage, {}).items()}

    def to_json(self) -> dict[str, Any]:
        """The table as plain values."""
        return self.model_dump(mode="json", exclude={"stamps"} if self.stamps == "header" else None)

    def sha256(self) -> str:
        """The hash of the canonical form: sorted keys, no white space."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the table, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            write_file(path, (json.dumps(self.to_json(), indent=1, sort_keys=True) + "\n").encode())
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error}); free some space or choose another -o") from error


def load_table(path: Path) -> Table:
    """A table from a file.

    Raises:
        CalibrationError: not there, not JSON, unknown keys or wrong values, each named.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Table.model_validate(data)
    except OSError as error:
        raise CalibrationError(
            f"{path}: cannot be read ({error}); make a table with: edgevlm calibrate BUNDLE --data LOG -o {path}"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CalibrationError(
            f"{path} at {where!r}: {first['msg']} (got {str(first['input'])[:80]}); calibrate again"
        ) from error
    except ValueError as error:
        raise CalibrationError(
            f"{path}: expected a calibration table in JSON, got an error at {error}; calibrate again"
        ) from error
