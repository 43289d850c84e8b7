"""What is ONNX Runtime's own: its sessions end where a later stage is refused."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from support import tiny

from edgevlm.bundle import open_bundle
from edgevlm.engines import open_engine
from edgevlm.errors import EngineError
from edgevlm.options import RuntimeOptions


def test_no_session_stays_open_where_a_later_stage_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(tiny.mono(tmp_path / "bundle"))
    *sound, last = bundle.manifest.stages
    bundle.path(bundle.manifest.stages[last].forms["cpu"]).write_bytes(b"no model at all")
    sessions: list[weakref.ref[Any]] = []
    open_session = onnxruntime.InferenceSession.__init__

    def noted(session: Any, *arguments: Any, **more: Any) -> None:
        sessions.append(weakref.ref(session))
        open_session(session, *arguments, **more)

    monkeypatch.setattr(onnxruntime.InferenceSession, "__init__", noted)
    with pytest.raises(EngineError, match=f"stage '{last}'") as refused:
        open_engine(bundle, bundle.manifest.stages, RuntimeOptions(intra_threads=1))
    gc.collect()
    assert len(sessions) >= len(sound) and refused.value  # whose traceback still holds the frames of the attempt
    assert [session() for session in sessions[: len(sound)]] == [None] * len(sound)
