"""The bytes of a coded file, without torch: magic, schema, a JSON header, one section a tensor, a SHA-256 at the end.

    8 bytes   magic, with line ends and a 0x1a that a transfer in text mode would spoil
    varint    schema
    section   the header: compact JSON, deflated with a dictionary of the words every header has
    varint    how many tensors; then each: varint coding, section payload
    32 bytes  SHA-256 of everything before

A section is its length (varint), the CRC-32 of its bytes, and these. The SHA-256 says that a file is whole; the CRC-32
says where it is not. Numbers are little-endian. Nothing in a file is ever executed or imported.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from danlu.compress.codings import Coded
from danlu.compress.codings.reader import Reader, varint
from danlu.core.errors import InputError

__all__ = ["MAGIC", "SCHEMA", "Parsed", "pack", "parse"]

MAGIC = b"\x89DLZ\r\n\x1a\n"
SCHEMA = 1
_DIGEST = 32
_HEADER_LIMIT = 16 * 2**20
_TENSORS_LIMIT = 1_000_000
# Words that stand in nearly every header: deflate refers to them instead of repeating them. Part of schema 1.
_WORDS = (
    b'"report":{},"edits":[],"twin":true,"airplane","automobile","bird","cat","deer","dog","frog","horse","ship",'
    b'"truck","fashion-mnist","cifar10","digits","label_smoothing":0.0,"input_size":[32,32],"fit":"pad",'
    b'"method":{"name":"prune","settings":{},"seed":0},"weights":"","seed":0,"data":{"name":"mnist","source":"mnist",'
    b'"hash":"","classes":["0","1","2","3","4","5","6","7","8","9"],"seed":0},"task":"classification",'
    b'"preprocess":{"picture_size":[28,28],"input_size":[28,28],"fit":"none","channels":1,"mean":[0.1306604762738429],'
    b'"std":[0.3081078038564622]},"structure":,"build":{"name":"lenet_300_100","num_classes":10,"in_channels":1}'
)


@dataclass(frozen=True)
class Parsed:
    """A coded file that is whole: its header, and (coding, payload, place in the file) of each tensor."""

    header: dict[str, Any]
    tensors: list[tuple[int, memoryview, int]]
    header_bytes: int


def pack(header: dict[str, Any], tensors: Sequence[Coded]) -> bytes:
    """Return the file's bytes."""
    text = json.dumps(header, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, _WORDS)
    parts = [MAGIC, varint(SCHEMA), *_section(deflate.compress(text) + deflate.flush()), varint(len(tensors))]
    for coded in tensors:
        parts += [varint(coded.number), *_section(coded.payload)]
    body = b"".join(parts)
    return body + hashlib.sha256(body).digest()


def _section(data: bytes) -> list[bytes]:
    return [varint(len(data)), zlib.crc32(data).to_bytes(4, "little"), data]


def parse(data: bytes, where: str) -> Parsed:
    """Take a coded file apart; nothing larger than the file and its header is allocated.

    Args:
        data: the file's bytes.
        where: what errors call it.

    Raises:
        InputError: no coded file, of a newer schema, truncated, damaged, or with a header that is no JSON object.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise InputError("is no coded file (.dlz)", where=where)
    if len(data) < len(MAGIC) + _DIGEST:
        raise InputError(f"is truncated: {len(data)} bytes are left of it", where=where, mend="get the file again")
    reader = Reader(memoryview(data)[:-_DIGEST], where)
    reader.at = len(MAGIC)
    if (schema := reader.number(2**32, "the schema")) > SCHEMA:
        what = f"schema {schema} is newer than {SCHEMA}"
        raise InputError(what, where=where, mend="use a newer version of danlu")
    packed = _read_section(reader, "the header")
    header_bytes = reader.at
    count = reader.number(_TENSORS_LIMIT, "the number of tensors")
    tensors = []
    for place in range(count):
        coding = reader.number(255, "a coding")
        payload = _read_section(reader, f"tensor {place}")
        tensors.append((coding, payload, reader.at - len(payload)))
    reader.done()
    if hashlib.sha256(reader.data).digest() != data[-_DIGEST:]:
        what = "was changed or damaged after it was written: its SHA-256 is not the one it ends with"
        raise InputError(what, where=where, mend="get the file again")
    return Parsed(_header(packed, where), tensors, header_bytes)


def _read_section(reader: Reader, name: str) -> memoryview:
    length = reader.number(2**62, f"the length of {name}")
    checksum = int.from_bytes(reader.take(4), "little")
    begin = reader.at
    section = reader.take(length)
    if zlib.crc32(section) != checksum:
        raise InputError(
            f"{name}, bytes {begin:,} to {reader.at:,}, was changed or damaged after it was written",
            where=reader.where,
            mend="get the file again",
        )
    return section


def _header(packed: memoryview, where: str) -> dict[str, Any]:
    inflate = zlib.decompressobj(-15, _WORDS)
    try:
        text = inflate.decompress(packed, _HEADER_LIMIT)
    except zlib.error as error:
        raise InputError(f"the header cannot be unpacked ({error})", where=where) from error
    if not inflate.eof or inflate.unused_data:
        raise InputError(f"the header unpacks to more than {_HEADER_LIMIT:,} bytes, or is cut", where=where)
    try:
        header = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the header is no JSON ({error})", where=where) from error
    if not isinstance(header, dict):
        raise InputError("the header is no JSON object", where=where)
    return header


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number")
