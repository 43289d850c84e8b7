"""Exports from a hub: a real HTTP server on this machine, and the hub's own library in a process of its own.

The library reads HF_ENDPOINT and its kin when it is imported, so every claim runs in a new process.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import hub
from support.hub_server import REVOKED, Hub, commit

from edgevlm.bundle import open_bundle
from edgevlm_export.hub import resolve
from edgevlm_export.report import ExportReport

NAME = "someone/small-clip"
CODE = "raise SystemExit('code of a checkpoint was run')"
CHECKPOINT_ERROR = 4  # the exit code of CheckpointError
RESOLVE = """
import json, os, sys
from edgevlm.errors import EdgevlmError
from edgevlm_export.hub import resolve
{before}
results = []
for source, token in json.loads(sys.argv[1]):
    os.environ.pop("HF_TOKEN", "")
    os.environ |= {{"HF_TOKEN": token}} if token else {{}}
    progress = []
    try:
        result = resolve(source, lambda *what: progress.append(what))
        results.append({{"path": str(result.path), "origin": result.origin, "progress": progress}})
    except EdgevlmError as error:
        results.append({{"error": type(error).__name__, "message": str(error)}})
print(json.dumps(results))
"""
SMALL_DISK = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as repositories have it: beside what is read there is code, pickles and another format."""
    root = hub.clip(tmp_path_factory.mktemp("clip") / "checkpoint")
    (root / "modeling_small.py").write_text(CODE)
    (root / "README.md").write_text("a model")
    for name in ("pytorch_model.bin", "model.pt", "scaler.pkl", "consolidated.safetensors", "onnx/config.json"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"not for us")
    return Path(root)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another version of the model."""
    return Path(hub.clip(tmp_path_factory.mktemp("other") / "checkpoint", seed=1))


@pytest.fixture
def served(source: Path) -> Iterator[Hub]:
    with Hub() as served:
        served.add(NAME, source)
        yield served


def environment(home: Path, url: str, **more: str) -> dict[str, str]:
    """This process's, less what it may say of the hub."""
    retained = {
        key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))
    }
    no_proxy = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    return {**retained, **no_proxy, "HF_HOME": str(home), "HF_ENDPOINT": url, "OMP_NUM_THREADS": "2", **more}


def ask_all(
    asked: Sequence[tuple[str, str]], home: Path, url: str, before: str = "", **more: str
) -> list[dict[str, Any]]:
    """What `resolve` gives or raises for each source and token, one after another in one process."""
    arguments = [sys.executable, "-c", RESOLVE.format(before=before), json.dumps(asked)]
    done = subprocess.run(
        arguments, env=environment(home, url, **more), cwd=home.parent, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "%|" not in done.stderr, "a progress bar was drawn"
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results


def ask(source: str, home: Path, url: str, before: str = "", **more: str) -> dict[str, Any]:
    """What `resolve` gives or raises."""
    (result,) = ask_all([(source, more.get("HF_TOKEN", ""))], home, url, before, **more)
    return result


def cli(home: Path, url: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The command line."""
    return subprocess.run(
        [sys.executable, "-m", "edgevlm.cli", *arguments],
        env=environment(home, url, **more),
        cwd=home.parent,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow
def test_an_export_from_an_id_is_that_of_the_directory_and_works_again_offline(
    served: Hub, source: Path, traced: Callable[..., ExportReport], tmp_path: Path
) -> None:
    local = traced(source, tmp_path / "local")
    home = tmp_path / "home"
    done = cli(home, served.url, "export", NAME, "-o", "remote", "--json", "-")
    assert done.returncode == 0, done.stderr
    bundle = open_bundle(tmp_path / "remote")
    assert json.loads(done.stdout)["bundle_sha256"] == bundle.sha256 == local.bundle_sha256
    origin = {"endpoint": served.url, "id": NAME, "revision": "main", "commit": commit(1)}
    assert bundle.records()["export"]["hub"] == origin
    assert open_bundle(tmp_path / "local").records()["export"]["hub"] is None

    requests = len(served.asked)
    done = cli(home, served.url, "export", NAME, "-o", "again", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    again = open_bundle(tmp_path / "again")
    assert again.sha256 == local.bundle_sha256 and again.records()["export"]["hub"] == origin
    done = cli(home, served.url, "verify", "remote", "--against", f"{NAME}@{commit(1)}", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert len(served.asked) == requests


def test_only_what_an_export_reads_is_fetched(served: Hub, source: Path, tmp_path: Path) -> None:
    results = ask(NAME, tmp_path / "home", served.url)
    requested = {path.name for path in source.iterdir() if path.suffix in (".json", ".safetensors", ".txt")}
    requested -= {"consolidated.safetensors"}
    assert {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"} <= requested
    assert served.fetched() == requested == {path.name for path in Path(results["path"]).rglob("*")}
    assert not [path for _, path in served.asked if path.endswith((".py", ".bin", ".pt", ".pkl"))]


def test_the_download_is_reported_in_megabytes(served: Hub, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.mkdir()
    (large / "model.safetensors").write_bytes(bytes(40_900_000))
    (large / "config.json").write_text("{}")
    served.add("someone/large", large)
    progress = ask("someone/large", tmp_path / "home", served.url)["progress"]
    assert progress[-1] == ["download (MB)", 40, 40]
    steps = [done for _, done, _ in progress]
    assert steps == sorted(steps) and len(set(steps)) > 2


def test_a_revision_is_a_branch_a_tag_or_a_commit(served: Hub, other: Path, tmp_path: Path) -> None:
    second = served.add(NAME, other, number=2, revisions=("v2", "refs/pr/1"))
    home = tmp_path / "home"
    revisions = ("v2", "refs/pr/1", second)
    *others, latest = ask_all([*((f"{NAME}@{name}", "") for name in revisions), (NAME, "")], home, served.url)
    for revision, results in zip(revisions, others, strict=True):
        assert results["origin"] == {"endpoint": served.url, "id": NAME, "revision": revision, "commit": second}
        weights = Path(results["path"]) / "model.safetensors"
        assert weights.read_bytes() == (other / "model.safetensors").read_bytes()
    assert latest["origin"]["commit"] == commit(1)


def test_a_directory_of_that_name_wins(served: Hub, tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir(parents=True)
    results = ask(NAME, tmp_path / "home", served.url)
    assert (results["path"], results["origin"]) == (NAME, None)
    assert not served.asked


@pytest.mark.parametrize(
    "text",
    ["checkpoint", "./some/one", "../some/one", "/some/one", "a/b/c", "some/one@", "some/one@../x", "some/one@/etc/x",
     "some/one@x/../../y",
     "some/one.git", "a--b/c", "some/", "s p/one", "a\0/b", "some/" + "x" * 100, "~/one", "https://hub/some/one"],
)  # fmt: skip
def test_what_is_no_id_is_a_directory_that_is_not_there(text: str) -> None:
    results = resolve(text)
    assert results.path == Path(text) and results.origin is None
    assert resolve(Path(NAME)).path == Path(NAME)  # a path is never an id


def test_what_is_no_id_keeps_its_error(served: Hub, tmp_path: Path) -> None:
    done = cli(tmp_path / "home", served.url, "export", "some/where/else", "-o", "bundle")
    assert done.returncode == CHECKPOINT_ERROR
    assert "some/where/else: expected a checkpoint directory with config.json" in done.stderr
    assert not served.asked and not (tmp_path / "bundle").exists()


def refused(outcome: dict[str, Any], *words: str) -> None:
    assert outcome.get("error") == "CheckpointError", outcome
    assert all(word in outcome["message"] for word in words), outcome["message"]


def test_a_model_or_revision_that_is_not_there(served: Hub, tmp_path: Path) -> None:
    asked = [("someone/nothing", ""), ("someone/nothing", served.token), (f"{NAME}@v9", "")]
    nothing, with_token, revision = ask_all(asked, tmp_path / "home", served.url)
    refused(nothing, "someone/nothing: expected a directory, or a model", served.url)
    refused(with_token, "found neither; check the name")
    refused(revision, "expected the revision 'v9'", "check the name")


def test_a_gated_or_private_model_asks_for_a_token(served: Hub, source: Path, tmp_path: Path) -> None:
    home, gated, private = tmp_path / "home", "someone/gated", "someone/private"
    for name, names in ((gated, served.gated), (private, served.private)):
        served.add(name, source)
        names.add(name)
    asked = [(NAME, REVOKED), (gated, ""), (gated, "hf_wrong"), (private, "")]
    revoked, *results = ask_all(asked, home, served.url)
    refused(revoked, f"{served.url} refused it", "HF_TOKEN")
    for result in results[:2]:
        refused(result, "it is gated", f"{served.url}/{gated}", "HF_TOKEN")
    refused(results[2], "private", "HF_TOKEN")
    assert not list(home.rglob("*.safetensors"))
    assert ask(private, home, served.url, HF_TOKEN=served.token)["origin"]["commit"] == commit(1)


def test_offline_and_not_in_the_cache(served: Hub, tmp_path: Path) -> None:
    outcome = ask(NAME, tmp_path / "home", served.url, HF_HUB_OFFLINE="1")
    refused(outcome, "whole in the hub's cache", "HF_HUB_OFFLINE", "unset it once")
    assert not served.asked


def test_no_network_takes_what_is_complete_in_the_cache(served: Hub, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{free.getsockname()[1]}"
        refused(ask(NAME, tmp_path / "home", dead), f"expected to download it from {dead}", "check the network")
        assert ask(NAME, tmp_path / "home", served.url)["origin"]["commit"] == commit(1)
        assert ask(NAME, tmp_path / "home", dead)["origin"]["commit"] == commit(1)


@pytest.mark.slow
def test_a_server_that_breaks_off_leaves_no_output_and_the_next_time_works(served: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    served.broken["model.safetensors"] = 20_000
    done = cli(home, served.url, "export", NAME, "-o", "bundle")
    assert done.returncode == CHECKPOINT_ERROR, done.stderr
    assert f"expected to download it from {served.url}" in done.stderr and "try again" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert not list(home.rglob("model.safetensors"))
    refused(ask(NAME, home, served.url, HF_HUB_OFFLINE="1"), "whole in the hub's cache")
    served.broken.clear()
    weights = Path(ask(NAME, home, served.url)["path"]) / "model.safetensors"
    assert weights.stat().st_size > 20_000


def test_a_full_disk_and_a_cache_that_cannot_be_written(served: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    refused(ask(NAME, home, served.url, SMALL_DISK), "the disk is full", "HF_HUB_CACHE")
    assert not list(home.rglob("model.safetensors"))
    (tmp_path / "file").write_text("no directory")
    outcome = ask(NAME, home, served.url, HF_HUB_CACHE=str(tmp_path / "file"))
    refused(outcome, "cache that can be written", "HF_HUB_CACHE")


def test_pickled_weights_alone_are_refused_and_never_fetched(served: Hub, source: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_bytes((source / "config.json").read_bytes())
    (pickled / "pytorch_model.bin").write_bytes(b"pickle")
    served.add("someone/old", pickled)
    refused(ask("someone/old", tmp_path / "home", served.url), "safetensors", "pickled", "save_pretrained")
    assert served.fetched() == {"config.json"}


@pytest.mark.parametrize("body", [b"<html>please log in</html>", b"{}", b"[]", b'{"id": "a/b", "sha": 3}'])
def test_an_answer_that_is_no_hubs_is_a_network_failure(body: bytes, served: Hub, tmp_path: Path) -> None:
    served.instead = body
    refused(ask(NAME, tmp_path / "home", served.url), f"expected to download it from {served.url}", "HF_ENDPOINT")


def test_an_endpoint_that_is_none_is_a_network_failure(served: Hub, tmp_path: Path) -> None:
    for url in (f"{served.url}/elsewhere", "nonsense"):
        refused(ask(NAME, tmp_path / "home", url), f"expected to download it from {url}", "HF_ENDPOINT")
