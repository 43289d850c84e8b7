"""A bundle of every format becomes one of today's: the same bytes and answers, another manifest, no program."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import talker, tiny
from typer.testing import CliRunner

import edgevlm
from edgevlm.bundle import open_bundle
from edgevlm.cli.app import app
from edgevlm.errors import BundleError, FormatError, OutputError, TamperedError
from edgevlm.manifest.schema import FORMAT
from edgevlm.migration import DIALOGUES, RECORD, migrate

COMPAT = Path(__file__).parents[1] / "compat"
BUNDLES = sorted(path.parent for path in COMPAT.glob("format_*/*/manifest.json"))
ANSWERS = {"values", "logits", "scores", "answers", "labels", "best", "waypoints", "confidence"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def answer(root: Path, maker: Path) -> dict[str, Any]:
    import importlib.util

    spec = importlib.util.spec_from_file_location(maker.stem, maker)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    answer: dict[str, Any] = module.answer(root)
    return answer


@pytest.mark.parametrize("root", BUNDLES, ids=lambda root: f"{root.parent.name}-{root.name}")
def test_a_bundle_of_every_format_answers_as_before(root: Path, tmp_path: Path) -> None:
    new = tmp_path / root.name
    done = migrate(root, new)
    bundle = open_bundle(new)
    assert (done.bundle_sha256, bundle.manifest.format) == (bundle.sha256, FORMAT)
    prompt = getattr(bundle.manifest, "prompt", None)
    assert prompt is None or prompt.template is None
    maker = COMPAT / f"make_{root.parent.name}.py"
    before, after = answer(root, maker), answer(new, maker)
    for name in ANSWERS & set(before):
        if name in ("answers", "labels", "best"):
            assert after[name] == before[name]
        else:
            np.testing.assert_array_equal(np.array(after[name]), np.array(before[name]))


@pytest.mark.parametrize("root", BUNDLES, ids=lambda root: f"{root.parent.name}-{root.name}")
def test_nothing_but_the_template_and_the_manifest_changes(root: Path, tmp_path: Path) -> None:
    done = migrate(root, tmp_path / "new")
    old, new = open_bundle(root), open_bundle(tmp_path / "new")
    assert set(done.removed) == set(old.manifest.files) - set(new.manifest.files)
    assert done.removed == (("chat_template.jinja",) if root.name == "chat" else ())
    assert {path: old.manifest.files[path] for path in new.manifest.files} == dict(new.manifest.files)
    same = {"calibration", "source_sha256", "tokenizer", "stages", "driver", "preprocess", "contract", "extensions"}
    before, after = old.manifest.model_dump(), new.manifest.model_dump()
    assert all(before[name] == after[name] for name in same)
    records = new.records()
    assert {name: record for name, record in records.items() if name != RECORD} == old.records()
    if old.manifest.format != FORMAT:
        assert new.sha256 != old.sha256
        assert records[RECORD]["from_bundle_sha256"] == old.sha256


def test_a_bundle_of_today_stays_what_it_is(tmp_path: Path) -> None:
    root = talker.chat(tmp_path / "chat")
    done = migrate(root, tmp_path / "new")
    assert done.bundle_sha256 == done.from_bundle_sha256 and RECORD not in open_bundle(tmp_path / "new").records()


def test_a_template_is_proven_on_dialogues_of_its_own_and_the_new_bundle_needs_no_jinja(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = talker.chat(tmp_path / "old", template=talker.TEMPLATE)
    done = migrate(old, tmp_path / "new")
    assert done.dialogues == DIALOGUES
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    with edgevlm.load_chat(tmp_path / "new") as chat:
        assert chat.session("Be brief.").ask(talker.picture(1), "what?", max_new_tokens=2).token_ids


def test_a_cached_form_that_is_not_the_templates_is_detected(tmp_path: Path) -> None:
    old = talker.chat(tmp_path / "old", template=talker.TEMPLATE)
    migrate(old, tmp_path / "new")
    (cached,) = (tmp_path / "cache/edgevlm/dialogues").iterdir()
    cached.write_text(cached.read_text().replace("Assistant:", "Robot:"))
    with pytest.raises(BundleError, match=r"the template writes .*Assistant.*, its derived form .*Robot"):
        migrate(old, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("template", ["{{ 12345 | round(-1000000000) }}", "{{ messages[0].role }}", "{% for %}"])
def test_a_template_that_is_no_dialogue_leaves_nothing(template: str, tmp_path: Path) -> None:
    old = talker.chat(tmp_path / "old", template=template)
    for attempt in (lambda: migrate(old, tmp_path / "new"), lambda: edgevlm.load(old)):
        with pytest.raises(BundleError, match=r"^chat template: "):
            attempt()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]


def test_what_is_no_bundle_or_is_damaged_or_newer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="expected a bundle directory"):
        migrate(tmp_path / "none", tmp_path / "new")
    root = talker.chat(tmp_path / "chat")
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(TamperedError):
        migrate(copy, tmp_path / "new")
    tiny.rewrite(root, lambda data: data.update(format="edgevlm.bundle/1.99"))
    with pytest.raises(FormatError, match="newer"):
        migrate(root, tmp_path / "new")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").write_text("x")
    with pytest.raises(OutputError, match="taken"):
        migrate(BUNDLES[0], tmp_path / "taken")
    assert not (tmp_path / "new").exists()


def test_a_bundle_may_be_replaced_by_its_own_migration(tmp_path: Path) -> None:
    root = talker.chat(tmp_path / "chat", template=talker.TEMPLATE)
    migrate(root, root)
    bundle = open_bundle(root)
    assert bundle.manifest.format == FORMAT and not (root / "chat_template.jinja").exists()


def test_the_verb_says_what_it_did_and_what_to_do_next(tmp_path: Path) -> None:
    target = tmp_path / "figures.json"
    done = CliRunner().invoke(
        app, ["migrate", str(COMPAT / "format_1_2/chat"), "-o", str(tmp_path / "new"), "--json", str(target)]
    )
    assert done.exit_code == 0, done.output
    displayed = " ".join(done.output.split())
    for words in ("1.2 -> edgevlm.bundle/1.4", "without chat_template.jinja", "200 generated", "next: edgevlm verify"):
        assert words in displayed
    figures = json.loads(target.read_text())
    assert figures["bundle_sha256"] == open_bundle(tmp_path / "new").sha256 and figures["dialogues"] == DIALOGUES


def test_the_verb_needs_both_places(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["migrate", str(tmp_path)]).exit_code == 2
