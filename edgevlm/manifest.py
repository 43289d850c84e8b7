"""The types of manifest.json: what a bundle says of itself. Nothing here touches a file.

`Manifest.parse` is the one way in: it checks the format first, then refuses unknown keys anywhere outside
`extensions`, values of another JSON type, paths that leave the bundle, and stages whose files are not listed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, ValidationError, field_validator, model_validator

from edgevlm.contract import Contract, Spec
from edgevlm.errors import BundleError, FormatError, TaskError, UnsafePathError
from edgevlm.operations import ImageOp

FORMAT_NAME = "edgevlm.bundle"
FORMAT_MAJOR, FORMAT_MINOR = 1, 1
FORMAT = f"{FORMAT_NAME}/{FORMAT_MAJOR}.{FORMAT_MINOR}"

Precision = Literal["fp32", "fp16", "int8"]
Form = Literal["cpu", "tensorrt"]
PortKind = Literal["pixels", "ids", "mask", "features", "embedding", "state", "action", "waypoints", "scores"]
Dimension = Annotated[int, Field(gt=0, lt=1 << 31)] | Annotated[str, Field(min_length=1)]

Task = Literal["policy", "retriever"]
DRIVERS: Mapping[Task, tuple[str, ...]] = {"policy": ("fuse",), "retriever": ("dual",)}  # the loops that can do a task
PICTURE = "image"  # the key of `preprocess` where pictures come from no camera
RESERVED_STAGES = {"step", "preprocess", "overhead"}  # what a profile calls the rest of a step's time


class Port(Spec):
    """One tensor of a stage; a dimension is a number or the name of a symbol in the stage's `dynamic`."""

    name: str = Field(min_length=1)
    dtype: Literal["float32", "int64"]
    shape: tuple[Dimension, ...]
    kind: PortKind


class StageSpec(Spec):
    """A pure tensor function: one file for each form an engine may want."""

    inputs: tuple[Port, ...] = Field(min_length=1)
    outputs: tuple[Port, ...] = Field(min_length=1)
    forms: Mapping[Form, str] = Field(min_length=1)
    opset: int
    precision: Precision
    reason: str = ""  # why this precision, where it is not the one asked for
    quantized_nodes: int = 0
    frame_cache: Literal["frame", "instruction", "none"] = "none"
    dynamic: Mapping[str, tuple[int, int, int]] = {}  # symbol -> (min, opt, max)

    @model_validator(mode="after")
    def _ports_agree(self) -> StageSpec:
        for side, ports in (("inputs", self.inputs), ("outputs", self.outputs)):
            names = [port.name for port in ports]
            if len(set(names)) != len(names):
                raise ValueError(f"{side} repeat a name: {names}")
            symbols = {d for port in ports for d in port.shape if isinstance(d, str)}
            if unknown := sorted(symbols - set(self.dynamic)):
                raise ValueError(f"{side} use dimensions that `dynamic` does not explain: {unknown}")
        for symbol, (low, usual, high) in self.dynamic.items():
            if not 0 < low <= usual <= high:
                raise ValueError(f"dynamic {symbol!r}: expected 0 < min <= opt <= max, got {(low, usual, high)}")
        return self


class FuseArgs(Spec):
    """Which stage plays which part in the `fuse` driver of a policy.

    Attributes:
        vision: camera name -> image-only stage (pixels -> one feature map), run once per sampled frame.
        text: stage (ids, mask -> one vector), run once per instruction.
        pool: stage over the window; inputs `<camera>_<slot>`, slot 0 the oldest; one output per camera.
        head: stage (pooled maps, text, state -> chunk[, waypoints, step_logits]).
    """

    vision: Mapping[str, str] = Field(min_length=1)
    text: str
    pool: str
    head: str


class FuseSpec(Spec):
    """Frames, an instruction and the state -> one head: the loop of a policy."""

    name: Literal["fuse"] = "fuse"
    args: FuseArgs

    @property
    def stages(self) -> set[str]:
        """The stages it names."""
        return {*self.args.vision.values(), self.args.text, self.args.pool, self.args.head}


class DualArgs(Spec):
    """Two encoders into one space: `logits = scale * cosine(image, text) + bias`. Since 1.1.

    Attributes:
        vision: stage (pixels -> one embedding), run once per picture.
        text: stage (ids[, mask] -> one embedding), run once per text.
        scores: what makes probabilities of one picture's logits: `softmax` over the texts, or `sigmoid` of each.
    """

    vision: str
    text: str
    scale: float
    bias: float = 0.0
    scores: Literal["softmax", "sigmoid"]


class DualSpec(Spec):
    """A picture and texts, encoded apart and compared: the loop of a retriever. Since 1.1."""

    name: Literal["dual"] = "dual"
    args: DualArgs

    @property
    def stages(self) -> set[str]:
        """The stages it names."""
        return {self.args.vision, self.args.text}


DriverSpec = Annotated[FuseSpec | DualSpec, Field(discriminator="name")]


class TextSpec(Spec):
    """How a text becomes ids, where no contract says it. Since 1.1.

    Attributes:
        max_tokens: the longest text, special tokens included; a longer one is refused.
        length: `own` gives as many ids as the text has, `fixed` always `max_tokens`, filled up at the end.
        pad_id: what fills up.
    """

    max_tokens: int = Field(gt=0)
    length: Literal["own", "fixed"]
    pad_id: int = Field(default=0, ge=0)


class FileEntry(Spec):
    """What a file of the bundle must be."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


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
            f"manifest path {path!r}: expected a plain relative path such as 'stages/vision.onnx'; "
            "do not use this bundle, it was not written by edgevlm"
        )
    return path


class PolicyParts(NamedTuple):
    """What only the manifest of a policy has."""

    contract: Contract
    args: FuseArgs


class RetrieverParts(NamedTuple):
    """What only the manifest of a retriever has."""

    operations: tuple[ImageOp, ...]
    text: TextSpec
    args: DualArgs


class Manifest(Spec):
    """One bundle. `sha256()` of the canonical form is the bundle's name."""

    format: str
    family: str
    task: Task
    precision: Precision
    driver: DriverSpec
    stages: Mapping[str, StageSpec] = Field(min_length=1)
    preprocess: Mapping[str, tuple[ImageOp, ...]]  # camera, or PICTURE where there is none -> operations
    tokenizer: str
    contract: Contract | None = None  # of a policy
    text: TextSpec | None = None  # of every other task
    calibration: CalibrationRef | None = None
    source_sha256: str = Field(pattern="^[0-9a-f]{64}$")  # of the checkpoint's files
    files: Mapping[str, FileEntry]
    extensions: Mapping[str, Any] = {}

    @field_validator("files")
    @classmethod
    def _inside(cls, files: Mapping[str, FileEntry]) -> Mapping[str, FileEntry]:
        for path in files:
            safe_path(path)
        return files

    @model_validator(mode="after")
    def _complete(self) -> Manifest:
        wanted = [self.tokenizer, *(path for stage in self.stages.values() for path in stage.forms.values())]
        if missing := sorted({path for path in wanted if safe_path(path) not in self.files}):
            raise ValueError(f"files lists no {missing}")
        if reserved := sorted(RESERVED_STAGES & set(self.stages)):
            raise ValueError(f"stages have names that profiles use for other things: {reserved}")
        if unknown := sorted(self.driver.stages - set(self.stages)):
            raise ValueError(f"driver.args names stages that do not exist: {unknown}")
        if self.driver.name not in DRIVERS[self.task]:
            raise ValueError(f"task {self.task!r} needs a driver among {DRIVERS[self.task]}, got {self.driver.name!r}")
        if self.task == "policy":
            self._policy_is_complete()
        elif self.contract is not None or self.text is None or set(self.preprocess) != {PICTURE}:
            raise ValueError(f"task {self.task!r} needs `text`, `preprocess` of {PICTURE!r} alone and no `contract`")
        return self

    def _policy_is_complete(self) -> None:
        if self.contract is None or self.text is not None:
            raise ValueError("task 'policy' needs a `contract`, which says how texts are read, and no `text`")
        cameras = {camera.name for camera in self.contract.cameras}
        vision = set(self.driver.args.vision) if isinstance(self.driver, FuseSpec) else cameras
        if vision != cameras or set(self.preprocess) != cameras:
            raise ValueError(f"driver.args.vision and preprocess must name exactly the cameras {sorted(cameras)}")

    def policy(self) -> PolicyParts:
        """What a policy's manifest has.

        Raises:
            TaskError: this is another task's.
        """
        if self.contract is None or not isinstance(self.driver, FuseSpec):
            raise _other_task("policy", self.task)
        return PolicyParts(self.contract, self.driver.args)

    def retriever(self) -> RetrieverParts:
        """What a retriever's manifest has.

        Raises:
            TaskError: this is another task's.
        """
        if self.text is None or not isinstance(self.driver, DualSpec):
            raise _other_task("retriever", self.task)
        return RetrieverParts(self.preprocess[PICTURE], self.text, self.driver.args)

    @classmethod
    def parse(cls, text: str | bytes) -> Manifest:
        """A manifest from JSON.

        Raises:
            BundleError: not JSON, unknown keys or wrong values, each named.
            FormatError: another format, or a newer version of this one.
            UnsafePathError: a path leaves the bundle.
        """
        check_format(_json_object(text).get("format"))
        try:
            return cls.model_validate_json(text, strict=True)  # strict: "320" is no number, 1 is no truth
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BundleError(
                f"manifest.json at {where!r}: {first['msg']} (got {first['input']!r:.80}; "
                f"{error.error_count()} fault(s) in all); export the bundle again with this version"
            ) from error

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


def _no_constant(name: str) -> None:
    raise ValueError(f"{name}, which is no JSON number")


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError(f"a key that comes twice among {[key for key, _ in pairs][:20]}")
    return data


def _other_task(wanted: str, got: str) -> TaskError:
    return TaskError(
        f"expected a bundle of the task {wanted!r}, this one is a {got!r}; give it to what serves that task"
    )


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
