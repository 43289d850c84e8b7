"""A bundle on disk: refused when anything in it is not as it was written, and written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny
from support.protobuf import model, node, tensor

from edgevlm.bundle import file_sha256, new_directory, open_bundle, read_manifest, write_manifest, write_record
from edgevlm.errors import BundleError, EdgevlmError, OutputError, TamperedError, UnsafePathError
from edgevlm.manifest.schema import FileEntry, Manifest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tiny.mono(tmp_path / "bundle")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.mono(tmp_path_factory.mktemp("shared") / "bundle")


def files_of(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def test_opens_what_was_written(root: Path) -> None:
    bundle = open_bundle(root)
    assert bundle.manifest.family == "tiny"
    assert bundle.path("stages/vision.onnx").read_bytes() == (tiny.STAGES / "vision.onnx").read_bytes()
    with pytest.raises(BundleError, match=r"lists no file 'stages/other\.onnx'"):
        bundle.path("stages/other.onnx")


def test_its_name_is_the_hash_of_the_manifest_which_sha256sum_can_check(root: Path) -> None:
    bundle = open_bundle(root)
    text = (root / "manifest.json").read_bytes()
    assert bundle.sha256 == bundle.manifest.sha256() == hashlib.sha256(text).hexdigest()
    subprocess.run(["sha256sum", "--check", "--quiet", "manifest.sha256"], cwd=root, check=True)


def test_two_writings_of_one_model_have_one_name(root: Path, tmp_path: Path) -> None:
    assert open_bundle(tiny.mono(tmp_path / "again")).sha256 == open_bundle(root).sha256
    assert open_bundle(tiny.duo(tmp_path / "other")).sha256 != open_bundle(root).sha256


def test_keeps_its_name_when_a_manifest_lacks_keys_that_became_optional_later(root: Path) -> None:
    tiny.rewrite(root, lambda data: data.pop("calibration"))  # stands for a key that this format did not have yet
    bundle = open_bundle(root)
    assert bundle.manifest.calibration is None
    assert bundle.sha256 == file_sha256(root / "manifest.json") != bundle.manifest.sha256()


def test_records_are_no_part_of_the_name(root: Path) -> None:
    before = open_bundle(root).sha256
    write_record(root, "fidelity", {"cosine": 0.999})
    bundle = open_bundle(root)
    assert bundle.sha256 == before
    assert bundle.records() == {"fidelity": {"cosine": 0.999}}


@settings(max_examples=100)
@given(data=st.data())
def test_refuses_a_flipped_bit_anywhere_in_any_file(shared: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(files_of(shared)))
    content = path.read_bytes()
    position, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    flipped = bytearray(content)
    flipped[position] ^= 1 << bit
    path.write_bytes(flipped)
    try:
        with pytest.raises(BundleError):
            open_bundle(shared)
    finally:
        path.write_bytes(content)
    open_bundle(shared)


@settings(max_examples=60)
@given(data=st.data(), grow=st.binary(min_size=0, max_size=3))
def test_refuses_a_truncated_or_grown_file(shared: Path, data: st.DataObject, grow: bytes) -> None:
    path = data.draw(st.sampled_from(files_of(shared)))
    content = path.read_bytes()
    path.write_bytes(content + grow if grow else content[: data.draw(st.integers(0, len(content) - 1))])
    try:
        with pytest.raises(BundleError):
            open_bundle(shared)
    finally:
        path.write_bytes(content)


def test_refuses_a_missing_file_and_names_it(root: Path) -> None:
    for path in files_of(root):
        moved = path.rename(root.parent / "moved")
        kind = BundleError if path.name == "manifest.json" else TamperedError
        with pytest.raises(kind, match=path.name):
            open_bundle(root)
        moved.rename(path)
    open_bundle(root)


def test_whoever_runs_nothing_reads_the_manifest_alone_and_it_is_the_one_that_the_hash_names(root: Path) -> None:
    bundle = open_bundle(root)
    for path in files_of(root):
        if path.name not in ("manifest.json", "manifest.sha256"):
            path.unlink()
    assert read_manifest(root) == (bundle.manifest, bundle.sha256)
    content = (root / "manifest.json").read_bytes()
    (root / "manifest.json").write_bytes(content.replace(b"tiny", b"mini"))
    with pytest.raises(TamperedError, match="expected sha256"):
        read_manifest(root)


@pytest.mark.parametrize("kind", ["absent", "file", "empty", "no manifest"])
def test_refuses_a_place_that_is_no_bundle_and_says_how_to_make_one(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "place"
    if kind == "file":
        place.write_text("{}")
    elif kind != "absent":
        place.mkdir()
        if kind == "no manifest":
            (place / "model.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match="edgevlm export CHECKPOINT -o"):
        open_bundle(place)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_refuses_a_link_that_leads_out(root: Path, tmp_path: Path, what: str) -> None:
    moved = root / ("tokenizer.json" if what == "file" else "stages")
    outside = shutil.move(moved, tmp_path / "outside")
    moved.symlink_to(outside)
    with pytest.raises(UnsafePathError, match="leads out of the bundle"):
        open_bundle(root)


def test_takes_a_link_that_stays_inside_and_a_link_to_the_bundle(root: Path, tmp_path: Path) -> None:
    tiny.refile(root, "stages/copy.onnx", (root / "stages" / "vision.onnx").read_bytes())
    sha256 = open_bundle(root).sha256
    (root / "stages" / "copy.onnx").unlink()
    (root / "stages" / "copy.onnx").symlink_to("vision.onnx")
    (tmp_path / "latest").symlink_to(root)
    assert open_bundle(tmp_path / "latest").sha256 == sha256


@pytest.mark.parametrize("place", ["w.bin", "stages/w.bin", ".hidden", "more/deep/w.bin", "empty/", "stages/pipe|"])
def test_refuses_whatever_the_manifest_does_not_list(root: Path, place: str) -> None:
    path = root / place.rstrip("/|")
    if place.endswith("|"):
        os.mkfifo(path)
    elif place.endswith("/"):
        path.mkdir()
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")
    with pytest.raises(TamperedError, match="bundle_sha256 does not cover"):
        open_bundle(root)


@pytest.mark.parametrize("target", ["other.json", "records/other.json"])
def test_refuses_a_link_to_what_the_manifest_does_not_list(root: Path, target: str) -> None:
    (root / "records").mkdir(exist_ok=True)
    (root / "tokenizer.json").rename(root / target)
    (root / "tokenizer.json").symlink_to(target)
    with pytest.raises(TamperedError):
        open_bundle(root)


@pytest.mark.parametrize("location", ["w.bin", "../w.bin", "/etc/hostname", "*/_ORT_MEM_ADDR_/*", "./w.bin", ""])
def test_refuses_a_stage_that_reads_weights_which_are_not_listed_for_it(root: Path, location: str) -> None:
    content = model(node("Relu", ("x",), ("y",)), initializers=(tensor("w", (4,), external=location),))
    tiny.refile(root, "stages/vision.onnx", content)
    if "w.bin" in location:  # a file of the bundle, but no data of this stage
        tiny.refile(root, "w.bin", b"weights")
    with pytest.raises(UnsafePathError, match=r"stages/vision\.onnx: expected weights in"):
        open_bundle(root)


def test_refuses_a_stage_with_control_flow_though_its_hash_is_right(root: Path) -> None:
    tiny.refile(root, "stages/vision.onnx", model(node("Loop", ("x",), ("y",))))
    with pytest.raises(BundleError, match="control flow operator Loop"):
        open_bundle(root)


def test_refuses_a_manifest_that_is_too_large_before_it_reads_it(root: Path) -> None:
    with (root / "manifest.json").open("r+b") as stream:
        stream.truncate(1 << 40)  # a hole: reading it would take a terabyte
    with pytest.raises(TamperedError, match="expected at most 16777216 bytes, got 1099511627776"):
        open_bundle(root)


@pytest.mark.parametrize("kind", ["pipe", "link", "large", "many", "linked folder"])
def test_records_are_read_with_bounds_and_never_followed_outside(root: Path, tmp_path: Path, kind: str) -> None:
    place = root / "records"
    if kind == "linked folder":
        (tmp_path / "outside").mkdir()
        place.symlink_to(tmp_path / "outside")
        with pytest.raises(UnsafePathError):
            open_bundle(root)
        return
    place.mkdir()
    if kind == "pipe":
        os.mkfifo(place / "x.json")
    elif kind == "link":
        (place / "x.json").symlink_to("/proc/self/environ")
    elif kind == "large":
        with (place / "x.json").open("wb") as stream:
            stream.truncate(1 << 40)
    else:
        for number in range(300):
            (place / f"{number}.json").write_text("{}")
    bundle = open_bundle(root)
    with pytest.raises(BundleError, match=r"expected (a JSON record|at most 256 records)"):
        bundle.records()


def test_refuses_a_link_in_a_circle_a_folder_and_a_device(root: Path) -> None:
    tokenizer = root / "tokenizer.json"
    tokenizer.unlink()
    tokenizer.symlink_to("tokenizer.json")
    with pytest.raises(TamperedError, match="tokenizer"):
        open_bundle(root)
    tokenizer.unlink()
    tokenizer.mkdir()
    with pytest.raises(TamperedError, match="tokenizer"):
        open_bundle(root)
    tokenizer.rmdir()
    os.mkfifo(tokenizer)
    with pytest.raises(TamperedError, match="tokenizer"):
        open_bundle(root)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_refuses_files_that_may_not_be_read(root: Path) -> None:
    for name in ("manifest.json", "manifest.sha256", "tokenizer.json"):
        (root / name).chmod(0)
        with pytest.raises(TamperedError, match=f"{name}.*cannot be read"):
            open_bundle(root)
        (root / name).chmod(0o644)


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"[" * 100_000])
def test_names_a_record_that_is_no_json(root: Path, content: bytes) -> None:
    write_record(root, "fidelity", {"cosine": 1.0})
    (root / "records" / "fidelity.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"fidelity\.json: expected a JSON record"):
        open_bundle(root).records()


def test_a_record_is_replaced_in_full_or_stays_as_it_was(root: Path) -> None:
    write_record(root, "fidelity", {"cosine": 1.0})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_record(root, "fidelity", {"cosine": float("nan")})
    (root / "records" / "speed.json").mkdir()  # the place is taken: what a full disk looks like from here
    with pytest.raises(OutputError, match="cannot be written"):
        write_record(root, "speed", {"cosine": 0.5})
    (root / "records" / "speed.json").rmdir()
    assert [path.name for path in (root / "records").iterdir()] == ["fidelity.json"]
    assert open_bundle(root).records() == {"fidelity": {"cosine": 1.0}}


def test_the_manifest_lists_every_file_but_the_records(root: Path) -> None:
    write_record(root, "made_by", {"version": "0"})
    before = open_bundle(root).manifest

    def build(files: Mapping[str, FileEntry]) -> Manifest:
        return before.model_copy(update={"files": files})

    (root / "stages" / "extra.bin").write_bytes(b"weights")
    manifest = write_manifest(root, build)
    assert set(manifest.files) == {*before.files, "stages/extra.bin"}
    assert open_bundle(root).manifest == manifest


# --- writing ---


def tree(place: Path) -> dict[str, bytes | None]:
    """Every name under `place`, with the content of files."""
    paths = sorted(place.rglob("*"))
    return {path.relative_to(place).as_posix(): path.read_bytes() if path.is_file() else None for path in paths}


def test_a_directory_appears_when_the_block_ends_and_not_before(tmp_path: Path) -> None:
    place = tmp_path / "build" / "bundle"
    with new_directory(place) as work:
        (work / "file").write_text("whole")
        assert not place.exists()
    assert tree(tmp_path) == {"build": None, "build/bundle": None, "build/bundle/file": b"whole"}
    assert place.stat().st_mode & 0o777 == 0o755


class Failure(Exception):
    pass


FAILURES = [
    Failure("no"),
    KeyboardInterrupt(),
    SystemExit(3),
    BundleError("no"),
    OSError(28, "No space left on device"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize("earlier", [True, False])
def test_a_failure_leaves_nothing_behind_and_an_earlier_bundle_as_it_was(
    tmp_path: Path, failure: BaseException, earlier: bool
) -> None:
    place = tmp_path / "bundle"
    if earlier:
        tiny.mono(place)
    before = tree(tmp_path)
    expected = OutputError if isinstance(failure, OSError) else type(failure)

    def fail() -> None:
        with new_directory(place) as work:
            (work / "half").write_text("half")
            raise failure

    with pytest.raises(expected):
        fail()
    assert tree(tmp_path) == before


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")

    def fill() -> None:
        with new_directory(tmp_path / "bundle") as work:
            (work / "weights").symlink_to("/dev/full")
            (work / "weights").write_bytes(b"x" * 100_000)

    with pytest.raises(OutputError, match=r"bundle: cannot be written \(.*No space left.*free some space"):
        fill()
    assert tree(tmp_path) == {}


SCRIPT = """
import os, resource, signal, sys
from edgevlm.bundle import new_directory
from edgevlm.errors import OutputError
place, way = sys.argv[1:]
try:
    with new_directory(place) as work:
        (work / "first").write_bytes(b"x" * 1000)
        if way == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if way == "interrupt":
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits "ignore"
            os.kill(os.getpid(), signal.SIGINT)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        (work / "second").write_bytes(b"x" * 10000)
except OutputError as error:
    sys.exit(f"output error: {error}")
"""


@pytest.mark.parametrize(("way", "code"), [("limit", 1), ("kill", -signal.SIGKILL), ("interrupt", -signal.SIGINT)])
def test_the_place_stays_free_when_a_real_process_fails(tmp_path: Path, way: str, code: int) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "bundle"), way]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == code
    assert not (tmp_path / "bundle").exists()
    if way == "limit":
        assert "cannot be written" in done.stderr
    if way != "kill":
        assert tree(tmp_path) == {}


def environment() -> dict[str, str]:
    """This process's, with what its imports need."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_replaces_an_earlier_bundle_also_a_damaged_or_newer_one(root: Path) -> None:
    (root / "stages" / "vision.onnx").unlink()
    tiny.rewrite(root, lambda data: data.update(format="edgevlm.bundle/7.3"))
    write_record(root, "fidelity", {"cosine": 1.0})
    tiny.duo(root)
    assert [camera.name for camera in open_bundle(root).manifest.contract.cameras] == ["left", "wrist"]
    assert open_bundle(root).records() == {}
    assert [path.name for path in root.parent.iterdir()] == [root.name]


def test_takes_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    open_bundle(tiny.mono(tmp_path / "bundle"))


@pytest.mark.parametrize(
    "content",
    [
        {"notes.txt": "mine"},
        {"manifest.json": '{"manifest_version": 3, "name": "a browser extension"}'},
        {"manifest.json": "no json"},
        {"manifest.json": '["edgevlm.bundle/1.0"]'},
        {"manifest.json": '{"format": "other/1.0", "files": {}}'},
    ],
)
def test_never_replaces_what_is_no_bundle(tmp_path: Path, content: dict[str, str]) -> None:
    place = tmp_path / "place"
    place.mkdir()
    for name, text in content.items():
        (place / name).write_text(text)
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=r"expected a free place or an earlier bundle.*another -o"):
        tiny.mono(place)
    assert tree(tmp_path) == before


def test_never_replaces_a_bundle_with_files_of_somebody_else_in_it(root: Path) -> None:
    (root / "stages" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes\.txt"):
        tiny.duo(root)
    assert (root / "stages" / "notes.txt").read_text() == "mine"


def test_never_replaces_a_file(tmp_path: Path) -> None:
    (tmp_path / "bundle").write_text("mine")
    with pytest.raises(OutputError):
        tiny.mono(tmp_path / "bundle")
    with pytest.raises(OutputError, match="cannot be written"):
        tiny.mono(tmp_path / "bundle" / "below")
    assert tree(tmp_path) == {"bundle": b"mine"}


def test_writes_where_it_was_asked_to_with_dots_in_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    tiny.mono(Path("../there/./bundle"))
    assert open_bundle(tmp_path / "there" / "bundle").manifest.family == "tiny"
    (tmp_path / "here" / "mine").write_text("mine")
    with pytest.raises(OutputError, match="found something else"):
        tiny.mono(Path("."))


def test_every_refusal_is_one_of_ours(root: Path) -> None:
    tiny.rewrite(root, lambda data: data["files"]["tokenizer.json"].update(bytes=10**30))
    with pytest.raises(EdgevlmError):
        open_bundle(root)
    tiny.rewrite(
        root, lambda data: data["files"].update({"a" * 255 + "/" + "b" * 255: {"sha256": "0" * 64, "bytes": 1}})
    )
    with pytest.raises(EdgevlmError):
        open_bundle(root)
    assert json.loads((root / "manifest.json").read_text())
