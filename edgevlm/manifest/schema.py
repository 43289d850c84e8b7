"""The types of manifest.json: what a bundle says of itself. Nothing here touches a file.

`Manifest.parse` is the one way in: it checks the format first, then refuses unknown keys anywhere outside
`extensions`, values of another JSON type, paths that leave the bundle, and stages whose files are not listed.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator

from edgevlm.errors import CONTROL_CHARACTERS, BundleError, FormatError, TaskError, UnsafePathError
from edgevlm.manifest.contract import Contract, Spec
from edgevlm.manifest.drivers import (
    CacheSpec,
    CrossArgs,
    CrossSpec,
    DecoderArgs,
    DecoderSpec,
    DenoiseArgs,
    DenoiseSpec,
    DriverSpec,
    DualArgs,
    DualSpec,
    FuseArgs,
    FuseSpec,
    RegionsArgs,
    RegionsSpec,
    Seq2SeqArgs,
    Seq2SeqSpec,
    check_decoder,
    check_question,
    check_seq2seq,
)
from edgevlm.manifest.image_ops import ImageOp
from edgevlm.manifest.parts import ChatParts, DetectorParts, PolicyParts, QuestionParts, RetrieverParts, ScorerParts
from edgevlm.manifest.stages import Form, Port, PortKind, Precision, StageSpec
from edgevlm.manifest.text import PictureText, PromptSpec, QuestionSpec, TextSpec

__all__ = [  # with what a manifest is made of, for those who need several of them
    "DRIVERS",
    "FORMAT",
    "FORMAT_NAME",
    "PICTURE",
    "RESERVED_STAGES",
    "CacheSpec",
    "CalibrationRef",
    "ChatParts",
    "CrossArgs",
    "CrossSpec",
    "DecoderArgs",
    "DecoderSpec",
    "DenoiseArgs",
    "DenoiseSpec",
    "DetectorParts",
    "DriverSpec",
    "DualArgs",
    "DualSpec",
    "FileEntry",
    "Form",
    "FuseArgs",
    "FuseSpec",
    "Manifest",
    "PictureText",
    "PolicyParts",
    "Port",
    "PortKind",
    "Precision",
    "PromptSpec",
    "QuestionParts",
    "QuestionSpec",
    "RegionsArgs",
    "RegionsSpec",
    "RetrieverParts",
    "ScorerParts",
    "Seq2SeqArgs",
    "Seq2SeqSpec",
    "StageSpec",
    "Task",
    "TextSpec",
    "check_format",
    "safe_path",
]

FORMAT_NAME = "edgevlm.bundle"
FORMAT_MAJOR, FORMAT_MINOR = 1, 4
FORMAT = f"{FORMAT_NAME}/{FORMAT_MAJOR}.{FORMAT_MINOR}"
UNITS_SINCE = 4  # from which units are a closed list: exporters wrote "?" of their own before
NO_PROGRAMS = 4  # the minor version from which a bundle holds no program: prompts are data
_LOG = logging.getLogger(__name__)

Task = Literal["policy", "retriever", "chat", "detector", "scorer"]
# task -> each loop that can do it -> what its manifest has besides what all have
DRIVERS: Mapping[Task, Mapping[str, frozenset[str]]] = {
    "policy": {"fuse": frozenset({"contract"}), "denoise": frozenset({"contract"})},
    "retriever": {"dual": frozenset({"text"}), "cross": frozenset({"text"})},
    "chat": {"decoder": frozenset({"prompt"}), "seq2seq": frozenset({"question"})},
    "detector": {"regions": frozenset({"text"})},
    "scorer": {"cross": frozenset({"text", "labels"})},
}
PICTURE = "image"  # the key of `preprocess` where pictures come from no camera
RESERVED_STAGES = {"step", "preprocess", "overhead"}  # what a profile calls the rest of a step's time


class FileEntry(Spec):
    """What a file of the bundle must be."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0, le=1 << 36)


class CalibrationRef(Spec):
    """The table the int8 forms were made from."""

    table_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    samples: int = Field(gt=0)


def safe_path(path: str) -> str:
    """`path` itself if it stays inside a bundle: relative, forward slashes, no `..`.

    Raises:
        UnsafePathError: anything else.
    """
    pure = PurePosixPath(path)
    plain = path.isprintable() and not set(path) & {"\\", ":"} and max(map(len, pure.parts), default=256) < 256
    if not plain or len(path) >= 4096 or pure.is_absolute() or ".." in pure.parts or str(pure) != path:
        raise UnsafePathError(
            f"manifest path {path!r:.200}: expected a plain relative path such as 'stages/vision.onnx'; "
            "do not use this bundle, it was not written by edgevlm"
        )
    return path


ImageOps = Annotated[tuple[ImageOp, ...], Field(max_length=32)]
Args = TypeVar("Args", bound=Spec)


class Manifest(Spec):
    """One bundle. `sha256()` of the canonical form is the bundle's name."""

    format: str
    family: str
    task: Task
    precision: Precision
    driver: DriverSpec
    stages: Mapping[str, StageSpec] = Field(min_length=1, max_length=1024)
    preprocess: Mapping[
        str, Annotated[tuple[ImageOp, ...], Field(max_length=32)]
    ]  # camera, or PICTURE where there is none -> operations
    tokenizer: str | None  # null for a policy that takes no words. Null since 1.2
    contract: Contract | None = None  # of a policy
    text: TextSpec | None = None  # of a retriever, a detector or a scorer
    prompt: PromptSpec | None = None  # of a chat with the loop `decoder`
    question: QuestionSpec | None = None  # of a chat with the loop `seq2seq`. Since 1.3
    labels: tuple[str, ...] | None = Field(
        default=None, min_length=1, max_length=1 << 20
    )  # of a scorer: its columns. Since 1.3
    calibration: CalibrationRef | None = None
    source_sha256: str = Field(pattern="^[0-9a-f]{64}$")  # of the checkpoint's files
    files: Mapping[str, FileEntry] = Field(max_length=1 << 16)
    extensions: Mapping[str, Any] = {}

    @field_validator("files")
    @classmethod
    def _inside(cls, files: Mapping[str, FileEntry]) -> Mapping[str, FileEntry]:
        for path in files:
            safe_path(path)
        return files

    @model_validator(mode="after")
    def _complete(self) -> Manifest:
        if missing := sorted({path for path in self._named_files() if safe_path(path) not in self.files}):
            raise ValueError(f"files lists no {missing}")
        if self.prompt is not None and self.prompt.template is not None and _minor(self.format) >= NO_PROGRAMS:
            raise ValueError(f"prompt.template: {self.format} has no programs; expected prompt.dialogue")
        if reserved := sorted(RESERVED_STAGES & set(self.stages)):
            raise ValueError(f"stages have names that profiles use for other things: {reserved}")
        forms = {path for stage in self.stages.values() for path in stage.forms.values()}
        if foreign := sorted(path for path in forms if not path.endswith(".onnx")):
            raise ValueError(f"forms of stages must end with .onnx, got {foreign}")
        if unknown := sorted(self.driver.stages - set(self.stages)):
            raise ValueError(f"driver.args names stages that do not exist: {unknown}")
        if self.driver.name not in DRIVERS[self.task]:
            known = tuple(DRIVERS[self.task])
            raise ValueError(f"task {self.task!r} needs a driver among {known}, got {self.driver.name!r}")
        self._has_the_parts_of_its_task()
        return self

    def _named_files(self) -> list[str]:
        paths = [] if self.tokenizer is None else [self.tokenizer]
        for stage in self.stages.values():
            paths += [*stage.forms.values(), *stage.data]
        if isinstance(self.driver, DecoderSpec | Seq2SeqSpec | DenoiseSpec):
            paths += self.driver.files
        if self.prompt is not None and self.prompt.template is not None:
            paths.append(self.prompt.template)
        return paths

    def _has_the_parts_of_its_task(self) -> None:
        sections = ("contract", "text", "prompt", "question", "labels")
        present = {name for name in sections if getattr(self, name) is not None}
        expected = DRIVERS[self.task][self.driver.name]
        if present != expected:
            raise ValueError(
                f"task {self.task!r} with the driver {self.driver.name!r} needs {sorted(expected)} and nothing else of "
                f"{list(sections)}, got {sorted(present)}"
            )
        if self.task == "policy":
            self._policy_is_complete()
        elif self.tokenizer is None:
            raise ValueError(f"task {self.task!r} needs a `tokenizer`")
        elif set(self.preprocess) != (pictures := set() if self.task == "scorer" else {PICTURE}):
            raise ValueError(f"task {self.task!r} needs `preprocess` of {sorted(pictures)} alone")
        if isinstance(self.driver, Seq2SeqSpec):
            check_seq2seq(self.stages, self.driver.args)
            if self.question is not None:
                check_question(self.stages, self.driver.args, self.question.reader, self.question.max_tokens)
        if isinstance(self.driver, DecoderSpec):
            check_decoder(self.stages, self.driver.args)
            features = self.stages[self.driver.args.vision].outputs[0].shape[1]
            if self.prompt is not None and self.prompt.picture_tokens != features:
                raise ValueError(
                    f"prompt.picture_tokens is {self.prompt.picture_tokens}, vision gives {features} features"
                )

    def _policy_is_complete(self) -> None:
        assert self.contract is not None
        cameras = {camera.name for camera in self.contract.cameras}
        vision = set(self.driver.args.vision) if isinstance(self.driver, FuseSpec | DenoiseSpec) else cameras
        if vision != cameras or set(self.preprocess) != cameras:
            raise ValueError(f"driver.args.vision and preprocess must name exactly the cameras {sorted(cameras)}")
        self._agrees_about_words()

    def _agrees_about_words(self) -> None:
        """A policy takes words in all of its parts, or in none."""
        assert self.contract is not None
        words = isinstance(self.driver, FuseSpec | DenoiseSpec) and self.driver.words
        parts = {
            "contract.instruction": self.contract.instruction is not None,
            "driver.args.text": words,
            "tokenizer": self.tokenizer is not None,
        }
        present = sorted(name for name, there in parts.items() if there)
        if len(present) not in (0, 3):
            raise ValueError(
                f"a policy has contract.instruction, driver.args.text and tokenizer, or none of them; got {present}"
            )

    def loop(self, kind: type[Args]) -> Args:
        """The arguments of the driver, where they are of this kind.

        Raises:
            TaskError: this is another loop's manifest.
        """
        if not isinstance(self.driver.args, kind):
            raise TaskError(
                f"expected the driver of {kind.__name__}, this bundle has {self.driver.name!r}; open it with load"
            )
        return self.driver.args

    def policy(self) -> PolicyParts:
        """What a policy's manifest has.

        Raises:
            TaskError: this is another task's.
        """
        if self.contract is None or not isinstance(self.driver, FuseSpec | DenoiseSpec):
            raise _other_task("policy", self.task)
        return PolicyParts(self.contract, self.driver.args)

    def retriever(self) -> RetrieverParts:
        """What a retriever's manifest has.

        Raises:
            TaskError: this is another task's.
        """
        if self.task != "retriever" or self.text is None or not isinstance(self.driver, DualSpec | CrossSpec):
            raise _other_task("retriever", self.task)
        return RetrieverParts(self.preprocess[PICTURE], self.text, self.driver.args)

    def detector(self) -> DetectorParts:
        """What a detector's manifest has.

        Raises:
            TaskError: this is another task's.
        """
        if self.text is None or not isinstance(self.driver, RegionsSpec):
            raise _other_task("detector", self.task)
        return DetectorParts(self.preprocess[PICTURE], self.text, self.driver.args)

    def scorer(self) -> ScorerParts:
        """What a scorer's manifest has.

        Raises:
            TaskError: this is another task's.
        """
        if self.text is None or self.labels is None or not isinstance(self.driver, CrossSpec):
            raise _other_task("scorer", self.task)
        return ScorerParts(self.text, self.labels, self.driver.args)

    def questions(self) -> QuestionParts:
        """What a chat's manifest has whose loop is `seq2seq`.

        Raises:
            TaskError: this is another task's, or another loop's.
        """
        if self.question is None or not isinstance(self.driver, Seq2SeqSpec):
            raise _other_task("chat", self.task)
        return QuestionParts(self.preprocess[PICTURE], self.question, self.driver.args)

    def chat(self) -> ChatParts:
        """What a chat's manifest has whose loop is `decoder`.

        Raises:
            TaskError: this is another task's, or another loop's.
        """
        if self.prompt is None or not isinstance(self.driver, DecoderSpec):
            raise _other_task("chat", self.task)
        return ChatParts(self.preprocess[PICTURE], self.prompt, self.driver.args)

    @classmethod
    def parse(cls, text: str | bytes) -> Manifest:
        """A manifest from JSON.

        Raises:
            BundleError: not JSON, unknown keys or wrong values, each named.
            FormatError: another format, or a newer version of this one.
            UnsafePathError: a path leaves the bundle.
        """
        data = _json_object(text)
        check_format(data.get("format"))
        if _minor(data["format"]) < UNITS_SINCE and (unknown := _name_unknown_units(data)):
            _warn_unknown_units(unknown)
            text = json.dumps(data)
        try:
            manifest = cls.model_validate_json(text, strict=True)  # strict: "320" is no number, 1 is no truth
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BundleError(
                f"manifest.json at {where!r:.200}: {first['msg']:.1000} (got {first['input']!r:.80}; "
                f"{error.error_count()} fault(s) in all); export the bundle again with this version"
            ) from error
        _check_characters({key: value for key, value in data.items() if key != "extensions"})
        return manifest

    def canonical(self) -> bytes:
        """The one byte form of this manifest: sorted keys, no white space, UTF-8, a line feed at the end."""
        data = self.model_dump(mode="json")
        return (
            json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
            + b"\n"
        )

    def sha256(self) -> str:
        """`bundle_sha256`: the hash of the canonical form, which holds the hash of every file."""
        return hashlib.sha256(self.canonical()).hexdigest()


def _json_object(text: str | bytes) -> dict[str, Any]:
    """The object that `text` is, with the strictness that pydantic lacks: no NaN, no key twice, no lone surrogates."""
    try:
        data = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_distinct)
        json.dumps(data, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BundleError(f"manifest.json: expected JSON, got an error at {error}; export the bundle again") from error
    if not isinstance(data, dict):
        raise BundleError(f"manifest.json: expected an object, got {type(data).__name__}; export the bundle again")
    return data


def _name_unknown_units(data: dict[str, Any]) -> tuple[str, ...]:
    """Give state fields whose unit an exporter did not know ("?" or nothing) the unit "1"; which ones, by name."""
    contract = data.get("contract")
    state = contract.get("state") if isinstance(contract, dict) else None
    fields = state.get("fields") if isinstance(state, dict) else None
    unknown = []
    for field in fields if isinstance(fields, list) else ():
        if isinstance(field, dict) and isinstance(unit := field.get("unit"), str) and unit.strip() in ("?", ""):
            field["unit"] = "1"
            unknown.append(str(field.get("name")))
    return tuple(unknown)


@functools.lru_cache(maxsize=64)  # a bundle is read more than once
def _warn_unknown_units(names: tuple[str, ...]) -> None:
    _LOG.warning(
        "manifest.json: the unit of the state fields %a is unknown and read as '1', a number without one: nothing can "
        "be compared or converted; give their units, such as in a robot file, and export again",
        list(names),
    )


def _check_characters(value: Any) -> None:
    """No text may have what a terminal obeys: names and paths end up in tables and messages. Raises BundleError."""
    if isinstance(value, str):
        if obeyed := (set(value) & CONTROL_CHARACTERS) - {"\n", "\t", "\r"}:
            raise BundleError(
                f"manifest.json: expected texts that can be shown, got the control characters {sorted(obeyed)!a} in "
                f"{value!a:.80}; do not use this bundle"
            )
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_characters(key)
            _check_characters(item)
    elif isinstance(value, list):
        for item in value:
            _check_characters(item)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name}, which is no JSON number")


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError(f"a key that comes twice among {[key for key, _ in pairs][:20]}")
    return data


def _other_task(requested: str, got: str) -> TaskError:
    return TaskError(
        f"expected a bundle of the task {requested!r}, this one is a {got!r}; give it to what serves that task"
    )


def _minor(version: str) -> int:
    return int(version.rpartition(".")[2])


def check_format(value: object) -> None:
    """Accept this major version up to this minor one.

    Raises:
        FormatError: anything else, saying which way to go.
    """
    version = re.fullmatch(rf"{re.escape(FORMAT_NAME)}/(0|[1-9][0-9]{{0,8}})\.(0|[1-9][0-9]{{0,8}})", str(value))
    if version is None:
        raise FormatError(f"manifest.json: expected format {FORMAT!r}, got {value!r:.80}; this is no edgevlm bundle")
    major, minor = int(version[1]), int(version[2])
    if (major, minor) > (FORMAT_MAJOR, FORMAT_MINOR):
        raise FormatError(f"manifest.json: format {value!r} is newer than {FORMAT!r}; update edgevlm to open it")
    if major < FORMAT_MAJOR:
        raise FormatError(f"manifest.json: format {value!r} is older than {FORMAT!r}; export the bundle again")
