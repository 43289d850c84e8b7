"""The model that a policy was made from, by its id of a hub: small files come over, and no weights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import lerobot_policies as policies
from support.hub_server import Hub

NAME = "someone/SmallVLM"
READ = """
import json, sys
from pathlib import Path
from edgevlm.errors import EdgevlmError
from edgevlm_export.checkpoint import Checkpoint
from edgevlm_export.families.common.lerobot_words import read_words
policy = Path(sys.argv[1])
try:
    words = read_words(Checkpoint(policy), json.loads((policy / "config.json").read_text()))
    print(json.dumps({"vlm": str(words.vlm), "tokenizer": words.tokenizer.name, "ids": words.ids}))
except EdgevlmError as error:
    print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A policy whose model lies in a hub."""
    folder = policies.write_policy(tmp_path / "policy", "smolvla")
    shutil.move(folder / "vlm", tmp_path / "vlm")
    for name in ("config.json", "policy_preprocessor.json"):
        text = (folder / name).read_text()
        assert '"vlm"' in text
        (folder / name).write_text(text.replace('"vlm"', f'"{NAME}"'))
    (tmp_path / "vlm" / "model.safetensors").write_bytes(b"weights of another model" * 100)
    (tmp_path / "vlm" / "modeling.py").write_text("raise SystemExit('code of a checkpoint was run')")
    return folder


def read(policy: Path, url: str) -> dict[str, str]:
    """In a process of its own: the hub's library reads the environment when it is imported."""
    retained = {
        key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))
    }
    home = {
        "HF_HOME": str(policy.parent / "home"),
        "HF_ENDPOINT": url,
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    command = [sys.executable, "-c", READ, str(policy)]
    done = subprocess.run(command, env={**retained, **home}, capture_output=True, text=True, check=True, timeout=120)
    result: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_only_small_files_are_fetched(policy: Path) -> None:
    with Hub() as served:
        served.add(NAME, policy.parent / "vlm")
        result = read(policy, served.url)
        assert result["tokenizer"] == "tokenizer.json" and int(result["ids"]) > 256
        assert served.fetched() == {"config.json", "tokenizer.json", "tokenizer_config.json"}


def test_a_model_that_is_nowhere_says_what_to_put_where(policy: Path) -> None:
    with Hub() as served:
        result = read(policy, served.url)
    assert result["error"] == "CheckpointError"
    assert f"vlm_model_name: {NAME}" in result["message"] and 'write "vlm" as vlm_model_name' in result["message"]
