"""A model on disk: a directory with manifest.json and its hash, the files it lists, and records/ beside them.

A bundle is immutable, and `bundle_sha256` names all of it: what the manifest does not list is refused, and so are
weights that a stage reads from elsewhere. `new_directory` writes beside the destination and renames, so the directory
appears only when it is complete. manifest.sha256 holds `bundle_sha256`, in the form that `sha256sum -c` reads; the
manifest holds the hash of every other file. records/*.json hold what was measured and are not part of `bundle_sha256`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from edgevlm import atomic
from edgevlm.bounded import MB, read_bounded
from edgevlm.errors import BundleError, OutputError, TamperedError, UnsafePathError
from edgevlm.manifest.schema import FORMAT_NAME, FileEntry, Manifest, StageSpec
from edgevlm.onnx_file import read_onnx
from edgevlm.onnx_numbers import check_numbers

MANIFEST = "manifest.json"
DIGEST = "manifest.sha256"
RECORDS = "records"
MANIFEST_BYTES = 16 * MB
RECORD_BYTES = 16 * MB
MOST_RECORDS = 256
_DIGEST_BYTES = 256
_NAMES_SHOWN = 5


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: the directory, its parsed manifest, and its name.

    Attributes:
        sha256: `bundle_sha256`, the hash of manifest.json as it was written: a later version of edgevlm, which knows
            more optional keys, gives an old bundle the same name.
    """

    root: Path
    manifest: Manifest
    sha256: str

    def path(self, relative: str) -> Path:
        """Where a listed file lies.

        Raises:
            BundleError: the manifest does not list it.
        """
        if relative not in self.manifest.files:
            raise BundleError(
                f"{self.root}: the manifest lists no file {relative!r}; it has {sorted(self.manifest.files)}"
            )
        return self.root / relative

    def tokenizer(self) -> Path:
        """Where the tokenizer lies.

        Raises:
            BundleError: the model takes no words.
        """
        if self.manifest.tokenizer is None:
            raise BundleError(f"{self.root}: expected a tokenizer, this model takes no words; leave the text out")
        return self.path(self.manifest.tokenizer)

    def records(self) -> dict[str, Any]:
        """Every record beside the manifest, by its name without the suffix; measurements, which prove nothing.

        Raises:
            BundleError: over MOST_RECORDS of them, or one over RECORD_BYTES, that is no regular file or no JSON.
        """
        place = self.root / RECORDS
        if place.is_symlink():
            raise BundleError(f"{place}: expected a directory of the bundle's own, got a link; remove it")
        paths = sorted(place.glob("*.json"))
        if len(paths) > MOST_RECORDS:
            raise BundleError(f"{place}: expected at most {MOST_RECORDS} records, got {len(paths)}; remove some")
        records = {}
        for path in paths:
            try:
                records[path.stem] = json.loads(read_bounded(path, RECORD_BYTES))
            except (OSError, ValueError, RecursionError) as error:
                raise BundleError(
                    f"{path}: expected a JSON record, got: {error}; measure again or remove it"
                ) from error
        return records


class SealedManifest(NamedTuple):
    """What a bundle says of itself, without the files that it lists; see `read_manifest`."""

    manifest: Manifest
    sha256: str  # `bundle_sha256`


def read_manifest(root: str | os.PathLike[str]) -> SealedManifest:
    """What a bundle says of itself, for whoever runs none of its files: they are not looked at.

    Its hash names the files as well: a process that has opened the whole bundle, and bears the same `bundle_sha256`,
    runs what this manifest describes.

    Raises:
        BundleError: no such directory, no manifest, or one that does not parse or is too large.
        TamperedError: the manifest has another hash than manifest.sha256 says.
    """
    root = Path(root)
    manifest = root / MANIFEST
    if not manifest.is_file():
        raise BundleError(
            f"{root}: expected a bundle directory with {MANIFEST}, found "
            f"{'none there' if root.is_dir() else 'no directory'}; make one with: edgevlm export CHECKPOINT -o {root}"
        )
    text = _read(manifest, MANIFEST_BYTES)
    sealed = SealedManifest(Manifest.parse(text), hashlib.sha256(text).hexdigest())
    _check_digest(root, sealed.sha256)
    return sealed


def open_bundle(root: str | os.PathLike[str]) -> Bundle:
    """Parse and check a bundle. Nothing of it is run, and no more is read than the manifest may list.

    Raises:
        BundleError: no such directory, no manifest, one that does not parse or is too large, or a stage whose graph has
            what no stage may have (see `edgevlm.onnx_file`), or numbers that no model has (`edgevlm.onnx_numbers`).
        TamperedError: a file is missing, cannot be read, has another size or another hash, or is not listed.
        UnsafePathError: a link that leads out of the bundle, or a stage that reads weights which are not listed.
    """
    root = Path(root)
    bundle = Bundle(root, *read_manifest(root))
    try:
        _check_nothing_else(root, bundle.manifest)
        for relative, entry in bundle.manifest.files.items():
            _check_file(root / relative, entry)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, up to Python 3.12
        raise TamperedError(f"{root}: cannot be read ({error}); export or copy the bundle again") from error
    for name, stage in bundle.manifest.stages.items():
        _check_graphs(root, name, stage)
    return bundle


def _read(path: Path, most_bytes: int) -> bytes:
    try:
        return read_bounded(path, most_bytes)
    except OSError as error:
        raise TamperedError(f"{path}: cannot be read ({error}); export or copy the bundle again") from error


def _check_digest(root: Path, got: str) -> None:
    path = root / DIGEST
    if not path.is_file():
        raise TamperedError(
            f"{path}: expected the hash of {MANIFEST}, found no such file; export or copy the bundle again"
        )
    if (recorded := _read(path, _DIGEST_BYTES)) != _digest_line(got):
        raise TamperedError(
            f"{root / MANIFEST}: expected sha256 {recorded[:64]!r}, got {got}; export or copy the bundle again"
        )


def _digest_line(sha256: str) -> bytes:
    return f"{sha256}  {MANIFEST}\n".encode()


def _check_nothing_else(root: Path, manifest: Manifest) -> None:
    """Every entry below `root` is a listed file, the folder of one, the manifest and its hash, or records/.

    A link is taken for what it leads to, where that is a listed file of this bundle.
    """
    files = {MANIFEST, DIGEST, *manifest.files}
    folders = {"", *(str(parent) for path in manifest.files for parent in Path(path).parents)} - {"."}
    foreign: list[str] = []
    waiting = [""]
    while waiting and len(foreign) <= _NAMES_SHOWN:
        folder = waiting.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                relative = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_symlink():
                    _check_link(root, relative, manifest)
                elif relative == RECORDS and entry.is_dir():
                    continue
                elif entry.is_dir() and relative in folders:
                    waiting.append(relative)
                elif not entry.is_file() or relative not in files:
                    foreign.append(relative)
    if foreign:
        raise TamperedError(
            f"{root}: expected what the manifest lists and nothing else, got {sorted(foreign)[:_NAMES_SHOWN]!r}, which "
            "bundle_sha256 does not cover; remove it, or export or copy the bundle again"
        )


def _check_link(root: Path, relative: str, manifest: Manifest) -> None:
    target = (root / relative).resolve()
    if not target.is_relative_to(root.resolve()):
        raise UnsafePathError(f"{root / relative}: this link leads out of the bundle; do not use it")
    if relative not in manifest.files or target not in {root.resolve() / path for path in manifest.files}:
        raise TamperedError(
            f"{root / relative}: expected a file that the manifest lists, got a link to {target.name!r}; "
            "copy the bundle again with links followed (cp -rL)"
        )


def _check_file(path: Path, entry: FileEntry) -> None:
    if not path.is_file():
        raise TamperedError(
            f"{path}: the manifest lists this file and it is not there; export or copy the bundle again"
        )
    size = path.stat().st_size
    if size != entry.bytes:
        raise TamperedError(f"{path}: expected {entry.bytes} bytes, got {size}; export or copy the bundle again")
    if (got := file_sha256(path)) != entry.sha256:
        raise TamperedError(f"{path}: expected sha256 {entry.sha256}, got {got}; export or copy the bundle again")


def _check_graphs(root: Path, name: str, stage: StageSpec) -> None:
    """Whether each form is a plain graph of sound numbers, with weights from listed files of this stage alone."""
    for form in dict.fromkeys(stage.forms.values()):
        folder = Path(form).parent
        for location in read_onnx(root / form).external:
            # An engine takes this name relative to the graph's folder, and may know names of its own with a star.
            if "*" in location or (folder / location).as_posix() not in stage.data:
                raise UnsafePathError(
                    f"{root / form}: expected weights in {list(stage.data)}, which the manifest lists for the stage "
                    f"{name!r}, got {location!r}; do not use this bundle"
                )
        check_numbers(root / form)


def file_sha256(path: Path) -> str:
    """The hash of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def entry_of(path: Path) -> FileEntry:
    """What the manifest says of a file that was just written."""
    return FileEntry(sha256=file_sha256(path), bytes=path.stat().st_size)


@contextmanager
def new_directory(destination: str | os.PathLike[str]) -> Iterator[Path]:
    """A directory beside `destination` that takes its name when the block ends well, and vanishes otherwise.

    An earlier bundle at `destination` is replaced in one step: at every instant there is the old one or the new one.
    Anything else there is refused, and so is a bundle with other files in it: they would be lost. What killed exports
    to this place left beside it is removed.

    Raises:
        OutputError: the place is taken by something that is no bundle, or cannot be written (full, read-only).
    """
    destination = Path(os.path.abspath(destination))  # "." and ".." have names then
    try:
        with atomic.new_directory(destination, partial(_check_free, destination)) as work:
            yield work
    except OSError as error:
        raise OutputError(
            f"{destination}: cannot be written ({error}); free some space or choose another -o"
        ) from error


def _check_free(destination: Path) -> None:
    if not destination.exists() or (destination.is_dir() and not any(destination.iterdir())):
        return
    own = _own_files(destination)
    if own is None:
        raise OutputError(
            f"{destination}: expected a free place or an earlier bundle, found something else; choose another -o"
        )
    present = {path.relative_to(destination).as_posix() for path in destination.rglob("*") if not path.is_dir()}
    if foreign := sorted(path for path in present - own if not path.startswith(f"{RECORDS}/")):
        raise OutputError(
            f"{destination}: expected a bundle with nothing else in it, found {foreign[:5]}, which replacing it would "
            "delete; move them, or choose another -o"
        )


def _own_files(directory: Path) -> set[str] | None:
    """The files of an earlier bundle of any version, in whatever state; None where there is none."""
    try:
        data = json.loads(read_bounded(directory / MANIFEST, MANIFEST_BYTES))
        ours = str(data["format"]).startswith(f"{FORMAT_NAME}/")
        return {MANIFEST, DIGEST, *data["files"]} if ours else None
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None


def write_manifest(root: Path, build: Callable[[Mapping[str, FileEntry]], Manifest]) -> Manifest:
    """Hash every file under `root`, let `build` make the manifest around them, write both hashes down and return it."""
    files = {
        path.relative_to(root).as_posix(): entry_of(path)
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.relative_to(root).parts[0] not in (RECORDS, MANIFEST, DIGEST)
    }
    manifest = build(files)
    (root / MANIFEST).write_bytes(manifest.canonical())
    (root / DIGEST).write_bytes(_digest_line(manifest.sha256()))
    return manifest


def write_record(root: Path, name: str, record: Mapping[str, Any]) -> None:
    """Put what was measured beside the manifest; never part of `bundle_sha256`.

    Raises:
        OutputError: it cannot be written; an earlier record of this name stays as it was.
    """
    path = root / RECORDS / f"{name}.json"
    text = json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n"
    try:
        atomic.write_file(path, text.encode())
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); free some space or make it writable") from error
