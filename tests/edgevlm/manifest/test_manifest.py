"""manifest.json: what is accepted comes back the same; everything else is a typed error."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny

from edgevlm.bundle import open_bundle
from edgevlm.errors import BundleError, EdgevlmError, FormatError, UnsafePathError
from edgevlm.manifest.schema import FORMAT, FORMAT_MINOR, Manifest, _warn_unknown_units, check_format, safe_path

Path_ = tuple[Any, ...]


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tiny.mono(tmp_path_factory.mktemp("manifest") / "bundle")
    tiny.rewrite(
        root, lambda data: data.update(extensions={"edgevlm.simulator": {"name": "tabletop", "seeds": [1, 2]}})
    )
    data: dict[str, Any] = json.loads((root / "manifest.json").read_text())
    open_bundle(root)
    return data


def parse(data: Any) -> Manifest:
    return Manifest.parse(json.dumps(data))


def containers(data: Any, path: Path_ = ()) -> list[tuple[Path_, Any]]:
    """Every object and list of a JSON value, with the keys that lead there."""
    if not isinstance(data, dict | list):
        return []
    items = data.items() if isinstance(data, dict) else enumerate(data)
    return [(path, data), *(result for key, value in items for result in containers(value, (*path, key)))]


def leaves(data: Any, path: Path_ = ()) -> list[tuple[Path_, Any]]:
    """Every value of a JSON value that holds no others."""
    if not isinstance(data, dict | list):
        return [(path, data)]
    items = data.items() if isinstance(data, dict) else enumerate(data)
    return [result for key, value in items for result in leaves(value, (*path, key))]


def at(data: Any, path: Path_) -> Any:
    for key in path:
        data = data[key]
    return data


def replaced(data: dict[str, Any], path: Path_, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(data)
    at(changed, path[:-1])[path[-1]] = value
    return changed


def holds(full: Any, part: Any) -> bool:
    """Whether nothing of `part` was dropped or changed on the way to `whole`, which may hold defaults besides."""
    if isinstance(part, dict):
        return isinstance(full, dict) and all(key in full and holds(full[key], value) for key, value in part.items())
    if isinstance(part, list):
        return isinstance(full, list) and len(full) == len(part) and all(map(holds, full, part))
    return bool(full == part)


# Objects whose keys are names that the exporter chose: a new key there is another name, judged by other rules.
NAMED = {("extensions",), ("stages",), ("files",), ("preprocess",), ("driver", "args", "vision")}


def named(path: Path_) -> bool:
    return path in NAMED or path[:1] == ("extensions",) or path[-1:] in {("forms",), ("dynamic",)}


def test_a_valid_manifest_comes_back_from_its_canonical_form(valid: dict[str, Any]) -> None:
    manifest = parse(valid)
    assert Manifest.parse(manifest.canonical()) == manifest
    assert Manifest.parse(manifest.canonical()).sha256() == manifest.sha256()
    assert manifest.canonical().endswith(b"}\n")


def test_the_hash_depends_on_values_and_not_on_order_or_white_space(valid: dict[str, Any]) -> None:
    backwards = dict(reversed(valid.items()))
    assert Manifest.parse(json.dumps(backwards, indent=3)).sha256() == parse(valid).sha256()
    assert parse({**valid, "family": "other"}).sha256() != parse(valid).sha256()


@settings(max_examples=80)
@given(data=st.data(), key=st.text(max_size=12), value=st.none() | st.integers() | st.text(max_size=5))
def test_refuses_an_unknown_key_at_any_depth(valid: dict[str, Any], data: st.DataObject, key: str, value: Any) -> None:
    objects = [path for path, result in containers(valid) if isinstance(result, dict) and not named(path)]
    changed = copy.deepcopy(valid)
    target = at(changed, data.draw(st.sampled_from(objects)))
    if key not in target:
        target[key] = value
        with pytest.raises(BundleError):
            parse(changed)


@settings(max_examples=40)
@given(
    key=st.text(max_size=12), value=st.recursive(st.none() | st.floats(allow_nan=False, allow_infinity=False), st.lists)
)
def test_takes_any_json_under_extensions(valid: dict[str, Any], key: str, value: Any) -> None:
    changed = {**valid, "extensions": {key: value}}
    manifest = parse(changed)
    assert manifest.extensions == {key: value}
    assert Manifest.parse(manifest.canonical()) == manifest


OTHER_TYPES: list[Any] = [None, True, 7, -1, 0.5, "text", "7", [], [1, 2], {}, {"a": 1}]


@settings(max_examples=200)
@given(data=st.data(), value=st.sampled_from(OTHER_TYPES))
def test_a_value_of_another_type_is_never_accepted(valid: dict[str, Any], data: st.DataObject, value: Any) -> None:
    path, old = data.draw(st.sampled_from([(p, v) for p, v in leaves(valid) if p[:1] != ("extensions",)]))
    number = isinstance(old, int | float) and not isinstance(old, bool)
    same = type(value) is type(old) or (number and isinstance(value, int | float) and not isinstance(value, bool))
    without = value is None and path == ("driver", "args", "pool")  # a policy may do without a pool
    if not same and not without and not (old is None and path == ("calibration",)):
        with pytest.raises(EdgevlmError):
            parse(replaced(valid, path, value))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=150)
@given(data=st.data(), value=JSON, remove=st.booleans())
def test_any_change_is_accepted_in_full_or_refused_with_a_typed_error(
    valid: dict[str, Any], data: st.DataObject, value: Any, remove: bool
) -> None:
    places = [p for p, _ in (*leaves(valid), *containers(valid)) if p]
    changed = copy.deepcopy(valid)
    for path in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=2)):
        try:
            parent = at(changed, path[:-1])
            parent[path[-1]] = value
            if remove:
                del parent[path[-1]]
        except (KeyError, IndexError, TypeError):
            continue  # the first change took the place of the second away
    try:
        manifest = parse(changed)
    except EdgevlmError as error:
        assert "manifest" in str(error)
        str(error).encode()  # can be printed, whatever came in
    else:
        assert holds(json.loads(manifest.canonical()), changed)


@settings(max_examples=200)
@given(text=st.binary(max_size=200) | st.text(max_size=200))
def test_refuses_anything_that_is_no_manifest(text: str | bytes) -> None:
    with pytest.raises(BundleError):
        Manifest.parse(text)


@settings(max_examples=200)
@given(data=st.data())
def test_refuses_every_truncation(valid: dict[str, Any], data: st.DataObject) -> None:
    text = json.dumps(valid).encode()
    with pytest.raises(BundleError):
        Manifest.parse(text[: data.draw(st.integers(0, len(text) - 1))])


def _nested(valid: dict[str, Any]) -> bytes:
    return json.dumps(valid).replace('"extensions": {', '"extensions": {"deep": ' + "[" * 100_000).encode()


@pytest.mark.parametrize(
    "make",
    [
        _nested,
        lambda valid: b"[" * 1_000_000,
        lambda valid: json.dumps({**valid, "extensions": {"x": float("nan")}}).encode(),
        lambda valid: json.dumps({**valid, "extensions": {"x": float("-inf")}}).encode(),
        lambda valid: json.dumps({**valid, "extensions": {"x": "\ud800"}}).encode(),
        lambda valid: json.dumps({**valid, "extensions": {"\udfff": 1}}).encode(),
        lambda valid: json.dumps({**valid, "family": "\ud800"}).encode(),
        lambda valid: json.dumps(valid).replace('"family"', '"family": "x", "family"').encode(),
        lambda valid: json.dumps(valid).encode("utf-16"),
        lambda valid: b"\xef\xbb\xbf" + json.dumps(valid).encode(),
        lambda valid: json.dumps(valid).encode() + b"x",
        lambda valid: json.dumps([valid]).encode(),
        lambda valid: b"",
        lambda valid: json.dumps({**valid, "extensions": {"x": 1}}).replace("1}", "9" * 5000 + "}").encode(),
    ],
)
def test_refuses_json_that_not_every_reader_reads_alike(valid: dict[str, Any], make: Callable[[Any], bytes]) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Manifest.parse(make(valid))


@pytest.mark.parametrize("version", [f"1.{FORMAT_MINOR + 1}", "2.0", "1.10", "999999999.0"])
def test_refuses_a_newer_format_and_says_update(valid: dict[str, Any], version: str) -> None:
    with pytest.raises(FormatError, match=r"newer than .*; update edgevlm"):
        parse({**valid, "format": f"edgevlm.bundle/{version}", "a key of the future": 1})


@pytest.mark.parametrize(
    "value",
    ["edgevlm.bundle/0.9", "edgevlm.bundle/1", "edgevlm.bundle/1.0.0", "edgevlm.bundle/01.0", "edgevlm.bundle/1.٠",
     "edgevlm.bundle/1.0\n", "other/1.0", "", None, 1.0, [], {}, "edgevlm.bundle/" + "9" * 5000 + ".0"],
)  # fmt: skip
def test_refuses_what_is_not_this_format(valid: dict[str, Any], value: Any) -> None:
    with pytest.raises(FormatError, match=r"manifest\.json"):
        parse({**valid, "format": value})


@given(st.integers(0, 30), st.integers(0, 30))
def test_reads_this_major_version_up_to_this_minor_one(major: int, minor: int) -> None:
    text = f"edgevlm.bundle/{major}.{minor}"
    if major == 1 and f"edgevlm.bundle/1.{minor}" <= FORMAT and minor < 10:
        check_format(text)
    else:
        with pytest.raises(FormatError):
            check_format(text)


UNSAFE = ["/etc/passwd", "../x.onnx", "stages/../../x", "stages/..", "..", ".", "", "stages//x", "stages/./x",
          "stages/",
          "C:/x", "stages\\x", "\\\\host\\x", "stages/x\0", "stages/x\n", "a" * 300, "a/" * 2100 + "b"]  # fmt: skip


@pytest.mark.parametrize("path", UNSAFE)
def test_refuses_unsafe_paths_wherever_they_stand(valid: dict[str, Any], path: str) -> None:
    entry = {"sha256": "0" * 64, "bytes": 1}
    changes: list[tuple[Path_, Any]] = [
        (("files", path), entry),
        (("tokenizer",), path),
        (("stages", "text", "forms", "cpu"), path),
    ]
    for place, value in changes:
        with pytest.raises(UnsafePathError, match="do not use this bundle"):
            parse(replaced(valid, place, value))


@given(st.text(max_size=40) | st.lists(st.sampled_from(["..", ".", "a", "", "b c"]), max_size=4).map("/".join))
def test_a_safe_path_stays_inside(path: str) -> None:
    root = Path("/tmp/bundle")
    try:
        safe_path(path)
    except UnsafePathError:
        return
    assert (root / path).resolve().is_relative_to(root)
    assert (root / path) != root


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("stages", "text", "forms", "cpu"), "stages/none.onnx", "files lists no"),
        (("tokenizer",), "other.json", "files lists no"),
        (("driver", "args", "pool"), "nowhere", "stages that do not exist"),
        (("driver", "args", "vision"), {"side": "vision"}, "exactly the cameras"),
        (("preprocess",), {}, "exactly the cameras"),
        (("stages", "head", "inputs", 0, "shape"), [1, 0], "greater than 0"),
        (("stages", "head", "inputs", 0, "shape"), [1, -4], "greater than 0"),
        (("stages", "head", "inputs", 0, "shape"), [1, 10**12], "less than"),
        (("stages", "head", "inputs", 0, "shape"), ["N", 4], "does not explain.*'N'"),
        (("stages", "head", "inputs", 0, "name"), "state", "inputs repeat a name"),
        (("stages", "head", "dynamic"), {"N": [1, 4, 2]}, "min <= opt <= max"),
        (("stages", "head", "dynamic"), {"N": [0, 1, 2]}, "min <= opt <= max"),
        (("stages", "head", "forms"), {}, "at least 1 item"),
        (("stages", "head", "forms"), {"gpu": "stages/head.onnx"}, "forms"),
        (("preprocess", "front", 0, "op"), "rotate", "rotate"),
        (("files", "tokenizer.json", "sha256"), "0" * 63, "sha256"),
        (("files", "tokenizer.json", "sha256"), "A" * 64, "sha256"),
    ],
)
def test_names_what_does_not_fit(valid: dict[str, Any], path: Path_, value: Any, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        parse(replaced(valid, path, value))


@pytest.mark.parametrize("name", ["step", "preprocess", "overhead"])
def test_refuses_stage_names_that_a_profile_uses_for_other_things(valid: dict[str, Any], name: str) -> None:
    changed = copy.deepcopy(valid)
    changed["stages"][name] = changed["stages"].pop("pool")
    changed["driver"]["args"]["pool"] = name
    with pytest.raises(BundleError, match="profiles use for other things"):
        parse(changed)


@pytest.mark.parametrize(
    ("edit", "where"),
    [
        (lambda data: data["contract"]["cameras"][0].update(width=1 << 20), "width"),
        (lambda data: data["contract"]["action"].update(steps=1 << 30), "steps"),
        (lambda data: data["contract"]["instruction"].update(max_tokens=1 << 40), "max_tokens"),
        (lambda data: data["stages"]["vision"]["inputs"][0].update(shape=[1] * 9), "shape"),
        (lambda data: data["stages"]["vision"]["inputs"][0].update(shape=[1 << 20, 1 << 20]), "numbers"),
        (lambda data: data["preprocess"]["front"].extend(data["preprocess"]["front"] * 40), "preprocess"),
        (lambda data: data["stages"].update({f"s{i}": data["stages"]["vision"] for i in range(1100)}), "stages"),
    ],
)
def test_sizes_that_no_model_has_are_refused_before_anything_is_allocated(
    valid: dict[str, Any], edit: Callable[[dict[str, Any]], None], where: str
) -> None:
    data = copy.deepcopy(valid)
    edit(data)
    with pytest.raises(BundleError, match=where):
        parse(data)


@pytest.mark.parametrize("character", ["\x1b", "\x07", "\x9b", "\u202e", "\x00", "\u2066"])
@pytest.mark.parametrize("place", ["family", "camera", "stage"])
def test_control_characters_are_refused_wherever_they_would_be_printed(
    valid: dict[str, Any], character: str, place: str
) -> None:
    data = copy.deepcopy(valid)
    if place == "family":
        data["family"] = f"tiny{character}"
    elif place == "camera":
        data["contract"]["cameras"][0]["frame_id"] = character
    else:
        data["stages"][f"more{character}"] = data["stages"]["vision"]
    with pytest.raises(BundleError, match="control characters") as refusal:
        parse(data)
    assert character not in str(refusal.value)


OLD = Path(__file__).parents[2] / "compat" / "format_1_0" / "mono"


@pytest.mark.parametrize("unit", ["?", "", " ? "])
def test_a_state_unit_that_an_old_exporter_did_not_know_is_a_number_without_one(
    unit: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = Path(shutil.copytree(OLD, tmp_path / "old"))
    _warn_unknown_units.cache_clear()
    tiny.rewrite(root, lambda data: data["contract"]["state"]["fields"][0].update(unit=unit))
    state = open_bundle(root).manifest.contract.state
    assert state is not None and state.fields[0].unit == "1"
    assert state.fields[1:] == open_bundle(OLD).manifest.contract.state.fields[1:]
    open_bundle(root)
    (record,) = caplog.records
    assert (record.levelname, "robot file" in record.getMessage()) == ("WARNING", True)
    assert state.fields[0].name in record.getMessage()


def test_other_units_of_old_bundles_and_unknown_ones_of_today_are_refused(
    valid: dict[str, Any], tmp_path: Path
) -> None:
    def old(edit: Callable[[dict[str, Any]], None]) -> Path:
        root = Path(shutil.copytree(OLD, tmp_path / "old", dirs_exist_ok=True))
        tiny.rewrite(root, edit)
        return root

    for unit in ("fill_in", "??"):
        with pytest.raises(BundleError, match="unit: expected one of"):
            open_bundle(old(lambda data, unit=unit: data["contract"]["state"]["fields"][0].update(unit=unit)))
    with pytest.raises(BundleError, match="unit: expected one of"):
        open_bundle(old(lambda data: data["contract"]["action"]["groups"][0]["units"].__setitem__(0, "?")))
    for broken in (None, [], {"state": 3}, {"state": {"fields": 3}}, {"state": {"fields": [3, {"unit": 3}]}}):
        with pytest.raises(BundleError, match="contract"):
            open_bundle(old(lambda data, broken=broken: data.update(contract=broken)))
    today = copy.deepcopy(valid)
    today["contract"]["state"]["fields"][0]["unit"] = "?"
    with pytest.raises(BundleError, match="unit: expected one of"):
        parse(today)
