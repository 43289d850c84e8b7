"""The chat template of a bundle of 1.2 or 1.3, which is a program, turned into data before anything is done with it.

A child process runs it, see `edgevlm.text.confined`; the result is cached in the user's directory by the hash of all
that it depends on. A template that does not end, takes too much memory or is no form of `DialogueSpec` is refused.
Bundles of 1.4 have no template, and no child is started for them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgevlm.bounded import read_bounded
from edgevlm.bundle import Bundle
from edgevlm.errors import BundleError, DependencyError
from edgevlm.manifest.schema import DialogueManifest
from edgevlm.manifest.text import DialogueSpec, PromptSpec
from edgevlm.text.confined import MAX_REPLY, MAX_SOURCE, Unanswered, run_confined
from edgevlm.text.special_tokens import special_tokens
from edgevlm.text.tokenizer_file import open_tokenizer

CHILD = "edgevlm.text.sandbox"
FORM = 1  # of what is cached; a new one when `derive` changes what it makes of a template
_NEXT = "do not use this bundle, or export its checkpoint again"


def prompt_as_data(bundle: Bundle) -> PromptSpec:
    """The prompt of a chat with the loop `decoder`, with no program in it.

    Raises:
        TaskError: the bundle is another loop's.
        BundleError, DependencyError: see `ChatTemplate`.
    """
    prompt = bundle.manifest.require(DialogueManifest).prompt
    if prompt.template is None:
        return prompt
    dialogue = _bundled(bundle, prompt, prompt.template).dialogue
    return prompt.model_copy(update={"template": None, "variables": {}, "dialogue": dialogue})


def check_dialogue(bundle: Bundle, dialogue: DialogueSpec, seed: int, count: int) -> int:
    """How many of `count` generated dialogues `dialogue` writes, all as the bundle's own template does.

    Raises:
        BundleError, DependencyError: see `ChatTemplate`; also for the first dialogue that differs.
    """
    prompt = bundle.manifest.require(DialogueManifest).prompt
    if prompt.template is None:
        return 0
    return _bundled(bundle, prompt, prompt.template).check(dialogue, seed, count)


def _bundled(bundle: Bundle, prompt: PromptSpec, template: str) -> ChatTemplate:
    try:
        source = read_bounded(bundle.path(template), 4 * MAX_SOURCE).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{template}: the chat template cannot be read ({error}); export the bundle again") from error
    _, file = open_tokenizer(bundle.tokenizer())
    return ChatTemplate(source, prompt.variables, prompt.placeholder, tuple(special_tokens(file)))


class ChatTemplate:
    """A template as data.

    Args:
        variables: what it may use besides the messages.
        placeholder: what it writes for a picture.
        reserved: signs that no user may say.

    Attributes:
        dialogue: the data.

    Raises:
        BundleError: it is none, does not end, or is no literal text around the parts of a dialogue.
        DependencyError: jinja2 is not installed, and no result is cached.
    """

    def __init__(
        self, source: str, variables: Mapping[str, str], placeholder: str = "<image>", reserved: Sequence[str] = ()
    ) -> None:
        if len(source) > MAX_SOURCE:
            raise BundleError(
                f"chat template: expected at most {MAX_SOURCE} characters, got {len(source)}; export the bundle again"
            )
        self._request = {
            "source": source,
            "variables": dict(variables),
            "placeholder": placeholder,
            "reserved": sorted(reserved),
        }
        cached = _cache_file(self._request)
        dialogue = _read(cached)
        if dialogue is None:
            dialogue = _derived(self._request)
            _store(cached, dialogue)
        self.dialogue = dialogue

    def check(self, dialogue: DialogueSpec, seed: int, count: int) -> int:
        """How many of `count` generated dialogues `dialogue` writes, all as the template does. Raises BundleError."""
        check = {"dialogue": dialogue.model_dump(mode="json"), "seed": seed, "count": count}
        written: int = _answer({**self._request, "check": check})["written"]
        return written


def _derived(request: Mapping[str, Any]) -> DialogueSpec:
    try:
        return DialogueSpec.model_validate_json(json.dumps(_answer(request)["dialogue"]), strict=True)
    except (ValidationError, LookupError, TypeError) as error:
        raise BundleError(f"chat template: expected a dialogue, the child wrote something else; {_NEXT}") from error


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """What the child says to a request that is no refusal. Raises BundleError, DependencyError."""
    if importlib.util.find_spec("jinja2") is None:
        raise DependencyError(
            "chat template: a bundle of format 1.2 or 1.3 needs the package 'jinja2' once, which is not installed; "
            "install it with: pip install 'edgevlm[chat]', or make a bundle that needs none where it is installed, "
            "with: edgevlm migrate BUNDLE -o NEW"
        )
    try:
        answer = run_confined(CHILD, request)
    except Unanswered as error:
        raise BundleError(f"chat template: {error}; {_NEXT}") from error
    if not isinstance(answer, dict) or "refused" in answer:
        reason = answer["refused"] if isinstance(answer, dict) else "the child wrote something else"
        raise BundleError(f"chat template: {reason}; {_NEXT}")
    return answer


def cache_directory() -> Path:
    """Where results are cached, by the XDG base directory specification."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "edgevlm" / "dialogues"


def _cache_file(request: Mapping[str, Any]) -> Path | None:
    text = json.dumps({"form": FORM, **request}, sort_keys=True)
    try:
        return cache_directory() / f"{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()}.json"
    except RuntimeError:  # no home
        return None


def _read(path: Path | None) -> DialogueSpec | None:
    """The cached result: a plain file of this user's, of bounded size, that is valid; else None."""
    if path is None:
        return None
    with suppress(OSError, ValueError):  # pydantic's and Unicode's errors are ValueErrors
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as stream:
            status = os.fstat(handle)
            own = status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            if stat.S_ISREG(status.st_mode) and own and status.st_size <= MAX_REPLY:
                return DialogueSpec.model_validate_json(stream.read(MAX_REPLY + 1), strict=True)
    return None


def _store(path: Path | None, dialogue: DialogueSpec) -> None:
    """Write it beside its place and rename; where that cannot be done, the next load derives it again."""
    if path is None:
        return
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=".", delete=False) as stream:
            part = stream.name
            stream.write(dialogue.model_dump_json())
        os.replace(part, path)
    except OSError:
        if part is not None:
            with suppress(OSError):
                os.unlink(part)
