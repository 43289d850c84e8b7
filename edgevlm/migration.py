"""An older bundle -> one of this version's format, with no program in it and the same prompts.

Every file but a chat template is copied as it is, so weights, tokenizer and calibration are the same bytes. The
manifest is another one, and with it `bundle_sha256`; records are copied, for what they measured are those bytes, and
`records/migration.json` says which bundle they were measured on.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgevlm.bundle import Bundle, new_directory, open_bundle, write_manifest, write_record
from edgevlm.errors import BundleError
from edgevlm.manifest.schema import FORMAT, DialogueManifest, FileEntry, Manifest
from edgevlm.text import check_dialogue, prompt_as_data

DIALOGUES = 200
SEED = 7  # not that of the dialogues on which a template is proven to be the data made of it
RECORD = "migration"


@dataclass(frozen=True, kw_only=True)
class Migration:
    """What was done.

    Attributes:
        dialogues: generated ones that the new bundle writes as the old one's chat template does; 0 where there is none.
        removed: files that the new bundle does not have.
    """

    from_format: str
    from_bundle_sha256: str
    to_format: str
    bundle_sha256: str
    dialogues: int
    removed: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def migrate(source: str | os.PathLike[str], output: str | os.PathLike[str]) -> Migration:
    """Write the bundle `source` to `output` in this version's format, and prove that its prompts are the same.

    Raises:
        BundleError: (and its subclasses) the source, or a chat template that cannot be turned into data.
        DependencyError: that needs jinja2, which is not installed.
        OutputError: the output cannot be written, or its place is taken.
    """
    old = open_bundle(source)
    with new_directory(output) as work:
        new = _rewritten(old, work)
        removed = tuple(sorted(set(old.manifest.files) - set(new.manifest.files)))
        done = Migration(
            from_format=old.manifest.format,
            from_bundle_sha256=old.sha256,
            to_format=new.manifest.format,
            bundle_sha256=new.sha256,
            dialogues=_proven(old, new),
            removed=removed,
        )
        for name, record in old.records().items():
            write_record(work, name, record)
        if old.sha256 != new.sha256:
            write_record(work, RECORD, done.to_json())
    return done


def _rewritten(old: Bundle, work: Path) -> Bundle:
    changes: dict[str, Any] = {"format": FORMAT}
    template = None
    if isinstance(old.manifest, DialogueManifest):
        template = old.manifest.prompt.template
        changes["prompt"] = prompt_as_data(old)
    for relative in old.manifest.files:
        if relative != template:
            (work / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(old.root / relative, work / relative)

    def build(files: Mapping[str, FileEntry]) -> Manifest:
        return old.manifest.model_copy(update={**changes, "files": dict(files)})

    write_manifest(work, build)
    return open_bundle(work)


def _proven(old: Bundle, new: Bundle) -> int:
    """How many generated dialogues the new bundle writes, all of them as the old one's own template does.

    Raises:
        BundleError: one differs, or a file does.
    """
    changed = [path for path, entry in new.manifest.files.items() if entry != old.manifest.files.get(path)]
    if changed:
        raise BundleError(f"{old.root}: {changed} changed while they were copied; migrate it again")
    dialogue = new.manifest.prompt.dialogue if isinstance(new.manifest, DialogueManifest) else None
    return 0 if dialogue is None else check_dialogue(old, dialogue, SEED, DIALOGUES)
