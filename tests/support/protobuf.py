"""ONNX files as bytes, written field by field without onnx: what an enemy can write, a library may refuse to."""

from __future__ import annotations


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes | str) -> bytes:
    """A number, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def tensor(name: str, dims: tuple[int, ...] = (), external: str | None = None, raw: bytes = b"") -> bytes:
    parts = [field(1, size) for size in dims] + [field(2, 1), field(8, name)]
    if external is not None:
        parts += [field(13, field(1, "location") + field(2, external)), field(14, 1)]
    return b"".join([*parts, field(9, raw)])


def node(
    operator: str, inputs: tuple[str, ...], outputs: tuple[str, ...], *attributes: bytes, domain: str = ""
) -> bytes:
    parts = [field(1, name) for name in inputs] + [field(2, name) for name in outputs]
    parts += [field(4, operator), *(field(5, attribute) for attribute in attributes)]
    return b"".join([*parts, field(7, domain)] if domain else parts)


def model(*nodes: bytes, initializers: tuple[bytes, ...] = (), more_graph: bytes = b"", more: bytes = b"") -> bytes:
    """ModelProto of IR version 8 and opset 18."""
    graph = b"".join(field(1, one) for one in nodes) + field(2, "g") + b"".join(field(5, one) for one in initializers)
    return field(1, 8) + field(7, graph + more_graph) + field(8, field(1, "") + field(2, 18)) + more
