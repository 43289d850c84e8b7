"""Where a checkpoint comes from: a directory, or a model of the Hugging Face hub by its id.

`org/name` or `org/name@revision` is downloaded by the hub's own library, into its own cache and by its own rules:
HF_ENDPOINT, HF_TOKEN, HF_HUB_CACHE and HF_HUB_OFFLINE mean what they mean there, and without a network a model that
is whole in the cache is taken from it. Only files that an export reads come over: no code, nothing pickled.
"""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgevlm.errors import CheckpointError, require
from edgevlm_calibration.progress import Progress, silent
from edgevlm_export.checkpoint import Checkpoint

WEIGHTS = "*.safetensors"
WANTED = ("*.json", WEIGHTS, "*.jinja", "*.model", "merges.txt", "vocab.txt")
# Folders hold other formats of the same model; a consolidated file is a copy of the weights for another program.
UNWANTED = ("*/*", "consolidated.safetensors")

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_ID = re.compile(rf"({_PART}/{_PART})(?:@([A-Za-z0-9_][A-Za-z0-9_./-]*))?")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = (401, 403)


def resolve(source: str | Path, progress: Progress = silent) -> Checkpoint:
    """The checkpoint directory that `source` names.

    A `Path`, and whatever exists on this machine, is never looked for on the hub; nor is a text that is no id, and
    whoever reads the directory says that it is not there.

    Raises:
        CheckpointError: no such model or revision, no access, not in the cache and offline, the network failed, the
            cache cannot be written, or no weights in safetensors.
        DependencyError: the hub's library is not installed.
    """
    checkpoint = download(source, WANTED, progress)
    if checkpoint.origin is not None and not any(checkpoint.path.glob(WEIGHTS)):
        raise CheckpointError(
            f"{source}: expected weights in safetensors in the repository, found none; pickled weights (*.bin, *.pt) "
            "are never opened: take a revision that has them, or save it as safetensors with save_pretrained"
        )
    return checkpoint


def download(source: str | Path, wanted: Sequence[str], progress: Progress = silent) -> Checkpoint:
    """As `resolve`, but only files of these patterns, and no weights are missed."""
    path = Path(source)
    found = None if isinstance(source, Path) or _exists(path) else _parse(source)
    if found is None:
        return Checkpoint(path)
    name, revision = found
    library = require("huggingface_hub", extra="export")
    endpoint = require("huggingface_hub.constants", extra="export").ENDPOINT
    failures = require("huggingface_hub.errors", extra="export")
    # The client's HTTPError, Xet's own and RuntimeError; the rest is how the library meets an answer that is no hub's.
    of_http = (failures.HTTPError, getattr(failures, "XetDownloadError", OSError))
    caught = (OSError, ValueError, RuntimeError, *of_http, KeyError, TypeError, AttributeError, AssertionError)
    try:
        folder = Path(
            library.snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(wanted),
                ignore_patterns=list(UNWANTED),
                tqdm_class=_bars(progress),
            )
        )
    except caught as error:
        raise CheckpointError(f"{source}: {_reason(error, name, revision, endpoint)}") from error
    return Checkpoint(folder, {"endpoint": endpoint, "id": name, "revision": revision or "main", "commit": folder.name})


def _exists(path: Path) -> bool:
    try:
        return path.exists() or path.is_symlink()
    except (OSError, ValueError):  # a name too long, or with a null byte
        return False


def _parse(source: str) -> tuple[str, str | None] | None:
    """(id, revision) by the hub's rules for names; null where it is none."""
    match = _ID.fullmatch(source)
    if match is None or ".." in source or "--" in match[1] or match[1].endswith(".git") or len(match[1]) > 96:
        return None
    return match[1], match[2]


def _reason(error: BaseException, name: str, revision: str | None, endpoint: str) -> str:
    """What was expected, what came and what to do, from the library's error or what caused it."""
    failures = require("huggingface_hub.errors", extra="export")
    causes = list(_causes(error))
    said = " ".join(str(causes[-1]).split())[:300]

    def among(kind: Any) -> bool:
        return any(isinstance(one, kind) for one in causes)

    codes = [getattr(getattr(one, "response", None), "status_code", None) for one in causes]
    numbers = {one.errno for one in causes if isinstance(one, OSError)}
    if numbers & _FULL:
        return f"expected space for the download, the disk is full ({said}); free some, or set HF_HUB_CACHE elsewhere"
    if numbers & {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}:
        return f"expected a cache that can be written, got: {said}; make it writable, or set HF_HUB_CACHE elsewhere"
    if among(failures.OfflineModeIsEnabled):
        return (
            "expected a directory, or a model that is whole in the hub's cache, found neither, and HF_HUB_OFFLINE "
            "forbids to download it; unset it once, or give a directory"
        )
    if among(failures.GatedRepoError):
        return (
            f"expected access to the model, it is gated; ask for it at {endpoint}/{name} and set HF_TOKEN to a token "
            "of yours that may read it"
        )
    if among(failures.RevisionNotFoundError):
        return f"expected the revision {revision or 'main'!r} at {endpoint}/{name}, it has none such; check the name"
    if among(failures.RepositoryNotFoundError):
        return (
            f"expected a directory, or a model at {endpoint}, found neither; check the name, and if the model is "
            "private set HF_TOKEN to a token that may read it"
        )
    if any(code in _REFUSED for code in codes):
        return f"expected access to the model, {endpoint} refused it ({said}); set HF_TOKEN to a token that may read it"
    return (
        f"expected to download it from {endpoint}, which failed ({type(causes[-1]).__name__}: {said}); check the "
        "network and HF_ENDPOINT, and try again: files that came whole are kept in the cache"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _bars(progress: Progress) -> Any:
    """The library's progress bar, which draws nothing and tells `progress` of megabytes instead."""
    lock = threading.Lock()  # files come in threads of their own

    def begin(self: Any, *args: Any, **more: Any) -> None:
        self.in_bytes = more.get("unit") == "B"
        base.__init__(self, *args, **{**more, "disable": True})

    def update(self: Any, n: float | None = 1) -> None:
        with lock:
            self.n += n or 0
            if self.in_bytes and self.total:
                progress("download (MB)", int(self.n / 1e6), int(self.total / 1e6))

    base = require("huggingface_hub.utils", extra="export").tqdm
    return type("_Bar", (base,), {"__init__": begin, "update": update})
