"""Open a bundle as the task it was exported for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from edgevlm.bundle import Bundle, open_bundle
from edgevlm.engines import pick_engine
from edgevlm.manifest.schema import Task
from edgevlm.options import RuntimeOptions
from edgevlm.tasks import Chat, Detector, Policy, Retriever, Scorer

Model = Policy | Retriever | Chat | Detector | Scorer

# task of the manifest -> what serves it
SERVERS: Mapping[Task, Callable[[Bundle, RuntimeOptions], Model]] = {
    "policy": Policy,
    "retriever": Retriever,
    "chat": Chat,
    "detector": Detector,
    "scorer": Scorer,
}


def load(path: str | os.PathLike[str], options: RuntimeOptions | None = None) -> Model:
    """A ready model from a bundle directory: a Policy, Retriever, Chat, Detector or Scorer, by the manifest's task.

    Raises:
        BundleError: (and its subclasses) the bundle is missing, damaged, unsafe or newer than this version.
        DependencyError: no engine is installed; the message names the extra.
        EngineError: the engine refuses a stage.
    """
    bundle, options = _open(path, options)
    return SERVERS[bundle.manifest.task](bundle, options)


def load_policy(path: str | os.PathLike[str], options: RuntimeOptions | None = None) -> Policy:
    """As `load`, where nothing but a policy will do. Raises TaskError for a bundle of another task."""
    return Policy(*_open(path, options))


def load_retriever(path: str | os.PathLike[str], options: RuntimeOptions | None = None) -> Retriever:
    """As `load`, where nothing but a retriever will do. Raises TaskError for a bundle of another task."""
    return Retriever(*_open(path, options))


def load_chat(path: str | os.PathLike[str], options: RuntimeOptions | None = None) -> Chat:
    """As `load`, where nothing but a chat will do. Raises TaskError for a bundle of another task."""
    return Chat(*_open(path, options))


def load_detector(path: str | os.PathLike[str], options: RuntimeOptions | None = None) -> Detector:
    """As `load`, where nothing but a detector will do. Raises TaskError for a bundle of another task."""
    return Detector(*_open(path, options))


def load_scorer(path: str | os.PathLike[str], options: RuntimeOptions | None = None) -> Scorer:
    """As `load`, where nothing but a scorer will do. Raises TaskError for a bundle of another task."""
    return Scorer(*_open(path, options))


def _open(path: str | os.PathLike[str], options: RuntimeOptions | None) -> tuple[Bundle, RuntimeOptions]:
    options = options or RuntimeOptions()
    pick_engine(options)
    return open_bundle(path), options
