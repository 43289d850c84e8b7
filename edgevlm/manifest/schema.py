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
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

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
from edgevlm.manifest.stages import Form, Port, PortKind, Precision, StageSpec
from edgevlm.manifest.text import PictureText, PromptSpec, QuestionSpec, TextSpec

__all__ = [  # with what a manifest is made of, for those who need several of them
    "FORMAT",
    "FORMAT_NAME",
    "KINDS",
    "PICTURE",
    "RESERVED_STAGES",
    "CacheSpec",
    "CalibrationRef",
    "ChatManifest",
    "CrossArgs",
    "CrossSpec",
    "DecoderArgs",
    "DecoderSpec",
    "DenoiseArgs",
    "DenoiseSpec",
    "DetectorManifest",
    "DialogueManifest",
    "DriverSpec",
    "DualArgs",
    "DualSpec",
    "FileEntry",
    "Form",
    "FuseArgs",
    "FuseSpec",
    "Manifest",
    "PictureText",
    "PolicyManifest",
    "Port",
    "PortKind",
    "Precision",
    "PromptSpec",
    "QuestionManifest",
    "QuestionSpec",
    "RegionsArgs",
    "RegionsSpec",
    "RetrieverManifest",
    "ScorerManifest",
    "Seq2SeqArgs",
    "Seq2SeqSpec",
    "StageSpec",
    "Task",
    "TextSpec",
    "check_format",
    "manifest_schema",
    "safe_path",
]

FORMAT_NAME = "edgevlm.bundle"
FORMAT_MAJOR, FORMAT_MINOR = 1, 4
FORMAT = f"{FORMAT_NAME}/{FORMAT_MAJOR}.{FORMAT_MINOR}"
UNITS_SINCE = 4  # from which units are a closed list: exporters wrote "?" of their own before
NO_PROGRAMS = 4  # the minor version from which a bundle holds no program: prompts are data
_LOG = logging.getLogger(__name__)

Task = Literal["policy", "retriever", "chat", "detector", "scorer"]
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
Kind = TypeVar("Kind", bound="Manifest")
# What only manifests of some tasks have. In JSON each of them stands in every manifest, null where it has no part.
SECTIONS = ("contract", "text", "prompt", "question", "labels")


class Manifest(Spec):
    """One bundle: what the manifests of all tasks have. `sha256()` of the canonical form is the bundle's name."""

    format: str
    family: str
    task: Task
    precision: Precision
    driver: DriverSpec
    stages: Mapping[str, StageSpec] = Field(min_length=1, max_length=1024)
    preprocess: Mapping[str, ImageOps]  # camera, or PICTURE where there is none -> operations
    tokenizer: str | None  # null for a policy that takes no words. Null since 1.2
    calibration: CalibrationRef | None = None
    source_sha256: str = Field(pattern="^[0-9a-f]{64}$")  # of the checkpoint's files
    files: Mapping[str, FileEntry] = Field(max_length=1 << 16)
    extensions: Mapping[str, Any] = {}

    @model_serializer(mode="wrap")
    def _add_null_sections(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {**dict.fromkeys(SECTIONS), **serialize(self)}

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
        if reserved := sorted(RESERVED_STAGES & set(self.stages)):
            raise ValueError(f"stages have names that profiles use for other things: {reserved}")
        forms = {path for stage in self.stages.values() for path in stage.forms.values()}
        if foreign := sorted(path for path in forms if not path.endswith(".onnx")):
            raise ValueError(f"forms of stages must end with .onnx, got {foreign}")
        if unknown := sorted(self.driver.stages - set(self.stages)):
            raise ValueError(f"driver.args names stages that do not exist: {unknown}")
        self._check_task()
        return self

    def _check_task(self) -> None:
        """What only manifests of one task have to fulfil. Raises ValueError."""

    def _named_files(self) -> list[str]:
        paths = [] if self.tokenizer is None else [self.tokenizer]
        for stage in self.stages.values():
            paths += [*stage.forms.values(), *stage.data]
        return [*paths, *self.driver.files]

    def require(self, kind: type[Kind]) -> Kind:
        """This manifest, as one of that kind.

        Raises:
            TaskError: it is another task's, or another driver's.
        """
        if not isinstance(self, kind):
            rows = [(task, driver) for task, drivers in KINDS.items() for driver in drivers]
            fitting = [(task, driver) for task, driver in rows if issubclass(KINDS[task][driver], kind)]
            drivers = " or ".join(driver for _, driver in fitting)
            raise TaskError(
                f"expected a bundle of the task {fitting[0][0]!r} with the driver {drivers}, this one is a "
                f"{self.task!r} with {self.driver.name}; give it to what serves that task"
            )
        return self

    @classmethod
    def build(cls, **fields: Any) -> Manifest:
        """A manifest of the kind that its task and driver name.

        Raises:
            ValueError: the fields do not fit.
        """
        kind = _kind(fields)
        return kind(**_own(kind, fields))

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
        try:
            kind = _kind(data)
            own = json.dumps(_own(kind, data))
        except ValueError as error:
            raise BundleError(f"manifest.json: {error}; export the bundle again with this version") from error
        try:
            manifest = kind.model_validate_json(own, strict=True)  # strict: "320" is no number, 1 is no truth
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


class PolicyManifest(Manifest):
    """Observations in, action chunks and plans out."""

    task: Literal["policy"]
    driver: Annotated[FuseSpec | DenoiseSpec, Field(discriminator="name")]
    contract: Contract

    def _check_task(self) -> None:
        cameras = {camera.name for camera in self.contract.cameras}
        if set(self.driver.args.vision) != cameras or set(self.preprocess) != cameras:
            raise ValueError(f"driver.args.vision and preprocess must name exactly the cameras {sorted(cameras)}")
        words = {
            "contract.instruction": self.contract.instruction is not None,
            "driver.args.text": self.driver.words,
            "tokenizer": self.tokenizer is not None,
        }
        if len(set(words.values())) > 1:
            present = sorted(name for name, there in words.items() if there)
            raise ValueError(
                f"a policy has contract.instruction, driver.args.text and tokenizer, or none of them; got {present}"
            )


class _PictureManifest(Manifest):
    """Of a task without cameras: it always has words, and its pictures, if any, come from whoever asks."""

    tokenizer: str
    _pictures: ClassVar[frozenset[str]] = frozenset({PICTURE})

    @property
    def operations(self) -> tuple[ImageOp, ...]:
        """How a picture is prepared."""
        return self.preprocess[PICTURE]

    def _check_task(self) -> None:
        if set(self.preprocess) != self._pictures:
            raise ValueError(f"task {self.task!r} needs `preprocess` of {sorted(self._pictures)} alone")


class RetrieverManifest(_PictureManifest):
    """Pictures and texts in; how well they fit together, or embeddings, out."""

    task: Literal["retriever"]
    driver: Annotated[DualSpec | CrossSpec, Field(discriminator="name")]
    text: TextSpec


class DetectorManifest(_PictureManifest):
    """A picture and labels in, boxes out."""

    task: Literal["detector"]
    driver: RegionsSpec
    text: TextSpec


class ScorerManifest(_PictureManifest):
    """Features of a picture's regions and a text in; a score for each of `labels` out."""

    task: Literal["scorer"]
    driver: CrossSpec
    text: TextSpec
    labels: tuple[str, ...] = Field(min_length=1, max_length=1 << 20)  # since 1.3
    _pictures: ClassVar[frozenset[str]] = frozenset()


class ChatManifest(_PictureManifest):
    """Pictures and words in, words out."""

    task: Literal["chat"]
    driver: Annotated[DecoderSpec | Seq2SeqSpec, Field(discriminator="name")]


class DialogueManifest(ChatManifest):
    """A chat that reads words and pictures in one row."""

    driver: DecoderSpec
    prompt: PromptSpec

    def _check_task(self) -> None:
        super()._check_task()
        if self.prompt.template is not None and _minor(self.format) >= NO_PROGRAMS:
            raise ValueError(f"prompt.template: {self.format} has no programs; expected prompt.dialogue")
        check_decoder(self.stages, self.driver.args)
        features = self.stages[self.driver.args.vision].outputs[0].shape[1]
        if self.prompt.picture_tokens != features:
            raise ValueError(f"prompt.picture_tokens is {self.prompt.picture_tokens}, vision gives {features} features")

    def _named_files(self) -> list[str]:
        template = self.prompt.template
        return [*super()._named_files(), *([] if template is None else [template])]


class QuestionManifest(ChatManifest):
    """A chat that reads its question apart from its answer. Since 1.3."""

    driver: Seq2SeqSpec
    question: QuestionSpec

    def _check_task(self) -> None:
        super()._check_task()
        check_seq2seq(self.stages, self.driver.args)
        check_question(self.stages, self.driver.args, self.question.reader, self.question.max_tokens)


# task -> driver -> what its manifests are
KINDS: Mapping[str, Mapping[str, type[Manifest]]] = {
    "policy": {"fuse": PolicyManifest, "denoise": PolicyManifest},
    "retriever": {"dual": RetrieverManifest, "cross": RetrieverManifest},
    "chat": {"decoder": DialogueManifest, "seq2seq": QuestionManifest},
    "detector": {"regions": DetectorManifest},
    "scorer": {"cross": ScorerManifest},
}


def manifest_schema() -> dict[str, Any]:
    """The JSON schema of manifest.json, whichever task it is of."""
    union: TypeAdapter[Manifest] = TypeAdapter(
        PolicyManifest | RetrieverManifest | DetectorManifest | ScorerManifest | DialogueManifest | QuestionManifest
    )
    return union.json_schema()


def _kind(fields: Mapping[str, Any]) -> type[Manifest]:
    """What a manifest with these fields is. Raises ValueError."""
    task, driver = fields.get("task"), fields.get("driver")
    if not isinstance(task, str) or task not in KINDS:
        raise ValueError(f"expected a task among {list(KINDS)}, got {task!r:.80}")
    name = driver.get("name") if isinstance(driver, Mapping) else getattr(driver, "name", None)
    if not isinstance(name, str) or name not in KINDS[task]:
        raise ValueError(f"task {task!r} needs a driver among {list(KINDS[task])}, got {name!r:.80}")
    return KINDS[task][name]


def _own(kind: type[Manifest], fields: Mapping[str, Any]) -> dict[str, Any]:
    """`fields` without the sections of other kinds. Raises ValueError where these, or those that are needed, differ."""
    own = {name for name in SECTIONS if name in kind.model_fields}
    present = {name for name in SECTIONS if fields.get(name) is not None}
    if own != present:
        raise ValueError(
            f"task {fields['task']!r} with this driver needs {sorted(own)} and nothing else of {list(SECTIONS)}, got "
            f"{sorted(present)}"
        )
    return {name: value for name, value in fields.items() if name in own or name not in SECTIONS}


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


def _json_object(text: str | bytes) -> dict[str, Any]:
    """The object that `text` is, with the strictness that pydantic lacks: no NaN, no key twice, no lone surrogates."""
    try:
        text = text.decode() if isinstance(text, bytes) else text  # UTF-8 alone
        data = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_distinct)
        json.dumps(data, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BundleError(f"manifest.json: expected JSON, got an error at {error}; export the bundle again") from error
    if not isinstance(data, dict):
        raise BundleError(f"manifest.json: expected an object, got {type(data).__name__}; export the bundle again")
    return data


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
