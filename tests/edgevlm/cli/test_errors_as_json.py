"""With --json an error is JSON, too, with the exit code it has on the screen; a next step is nowhere in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import tiny
from typer.testing import CliRunner

from edgevlm import errors
from edgevlm.cli import verify
from edgevlm.cli.app import app

VERBS = [command.name for command in app.registered_commands]


def process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgevlm.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def error(text: str) -> dict[str, Any]:
    document = json.loads(text)
    assert list(document) == ["error"]
    return dict(document["error"])


def test_a_typed_error_goes_to_standard_output_and_keeps_its_code(tmp_path: Path) -> None:
    done = process("verify", tmp_path / "none", "--json", "-")
    content = error(done.stdout)
    assert done.returncode == content["code"] == errors.BundleError.exit_code
    assert content["type"] == "BundleError" and content["verb"] == "verify"
    assert done.stderr == f"BundleError: {content['message']}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_gives_a_usage_fault_as_json(verb: str, tmp_path: Path) -> None:
    target = tmp_path / "figures.json"
    result = CliRunner().invoke(app, [verb, "--no-such-option", f"--json={target}"])
    content = error(target.read_text())
    assert result.exit_code == content["code"] == 2
    assert (content["type"], content["verb"]) == ("UsageError", verb) and "--no-such-option" in content["message"]


def test_a_defect_is_json_and_still_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Path) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr(verify, "open_bundle", broken)
    result = CliRunner().invoke(app, ["verify", str(tmp_path), "--json", str(tmp_path / "figures.json")])
    assert isinstance(result.exception, KeyError)
    assert error((tmp_path / "figures.json").read_text())["code"] == 1


def test_figures_of_an_earlier_run_do_not_outlive_an_error(tmp_path: Path) -> None:
    bundle, target = tiny.mono(tmp_path / "bundle"), tmp_path / "figures.json"
    for code in (0, errors.TamperedError.exit_code):
        assert CliRunner().invoke(app, ["verify", str(bundle), "--json", str(target)]).exit_code in (code, 1)
        assert ("error" in json.loads(target.read_text())) == (code != 0)
        (bundle / "stages" / "head.onnx").write_bytes(b"something else")


def test_without_json_an_error_is_text_alone(tmp_path: Path) -> None:
    done = process("verify", tmp_path / "none")
    assert not done.stdout and done.stderr.startswith("BundleError: ")


def test_the_next_step_is_typed_as_it_stands_and_no_pipe_gets_it(tmp_path: Path) -> None:
    bundle = tiny.mono(tmp_path / "a bundle")
    done = process("verify", bundle, "--json", "-")
    assert json.loads(done.stdout)["whole"] is True
    assert done.stderr.splitlines()[-1] == f"next: edgevlm profile '{bundle}'"
    assert "next:" not in process("verify", bundle).stdout
