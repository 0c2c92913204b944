"""From a request's body to pictures: one picture, a form of pictures, or raw uint8. Nothing is fetched, ever."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from danlu.deploy.serve.problems import Problem
from danlu.deploy.serve.schemas import RAW_TYPE, SHAPE_HEADER
from danlu.deploy.serve.settings import Limits

__all__ = ["Files", "count_announced", "read_body"]

FIELD = "pictures"
_FORM = "multipart/form-data"
_ONE = "application/octet-stream"
_TYPES = ["image/*", _ONE, _FORM, RAW_TYPE]
_FIELDS, _FIELD_BYTES = 8, 1024


@dataclass(frozen=True)
class Files:
    """Encoded pictures and the names they were sent under."""

    data: list[bytes]
    names: list[str | None]


class _Parser(MultiPartParser):
    # Bodies are limited already; nothing of a client's is written to the disk.
    spool_max_size = 2**40


def _kind(headers: Headers) -> str:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in (_ONE, _FORM, RAW_TYPE) or (kind.startswith("image/") and kind != "image/"):
        return kind
    raise Problem(415, f"a body of content type {kind[:80] or 'none'!r}", where="Content-Type", allowed=_TYPES)


def count_announced(headers: Headers) -> int:
    """Return how many pictures a request holds at least, from its headers alone.

    Raises:
        Problem: 415, a content type that is not read; 400, a shape that is none.
    """
    return _shape(headers)[0] if _kind(headers) == RAW_TYPE else 1


async def read_body(request: Request, limits: Limits, channels: int) -> Files | NDArray[np.uint8]:
    """Read the pictures of a request: encoded ones, or uint8 [B, H, W, C].

    Raises:
        Problem: 400, no pictures, too many, or a body that is not what its headers say; 415, another content type;
            what the guard raises for bodies that are too large or too slow.
    """
    kind = _kind(request.headers)
    if kind == _FORM:
        return await _read_form(request.headers, request.stream(), limits)
    if kind != RAW_TYPE:
        data = b"".join([chunk async for chunk in request.stream()])
        if not data:
            raise Problem(400, "the body is empty", mend="send a picture")
        return Files([data], [None])
    shape = _shape(request.headers)
    if shape[0] > limits.pictures or shape[3] != channels or shape[1] * shape[2] > limits.pixels:
        allowed = [f"1 to {limits.pictures} pictures of {channels} channels and at most {limits.pixels:,} pixels each"]
        raise Problem(400, f"pictures of shape {list(shape)}", where=SHAPE_HEADER, allowed=allowed)
    declared = request.headers.get("content-length")
    wanted = math.prod(shape)
    if declared is not None and int(declared) != wanted:
        raise Problem(400, f"a body of {declared} bytes, the shape says {wanted:,}", where=SHAPE_HEADER)
    data = b"".join([chunk async for chunk in request.stream()])
    if len(data) != wanted:
        raise Problem(400, f"a body of {len(data):,} bytes, the shape says {wanted:,}", where=SHAPE_HEADER)
    return np.frombuffer(data, np.uint8).reshape(shape)


def _shape(headers: Headers) -> tuple[int, int, int, int]:
    text = headers.get(SHAPE_HEADER)
    if text is None:
        mend = "say what the bytes are, e.g. Danlu-Shape: 32,224,224,3"
        raise Problem(400, "the header is missing", where=SHAPE_HEADER, mend=mend)
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() and len(part) <= 9 for part in parts):
        raise Problem(400, f"{text[:80]!r} is no shape", where=SHAPE_HEADER, allowed=["B,H,W,C"])
    b, h, w, c = (int(part) for part in parts)
    if min(b, h, w, c) < 1:
        raise Problem(400, f"the shape {text[:80]!r} holds no pictures", where=SHAPE_HEADER, allowed=["B,H,W,C ≥ 1"])
    return b, h, w, c


async def _read_form(headers: Headers, stream: AsyncGenerator[bytes, None], limits: Limits) -> Files:
    from python_multipart.exceptions import FormParserError

    parser = _Parser(headers, stream, max_files=limits.pictures, max_fields=_FIELDS, max_part_size=_FIELD_BYTES)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Problem(400, f"the form cannot be read: {error.message}", mend="send files alone") from None
    except (FormParserError, LookupError, UnicodeError) as error:
        raise Problem(400, f"the form cannot be read ({type(error).__name__})") from None
    except ClientDisconnect:
        raise
    try:
        data: list[bytes] = []
        names: list[str | None] = []
        for field, value in form.multi_items():
            if field != FIELD or not isinstance(value, UploadFile):
                what = f"a {'file' if isinstance(value, UploadFile) else 'text'} under the name {field[:80]!r}"
                raise Problem(400, what, allowed=[f"files under the name {FIELD!r}"])
            data.append(await value.read())
            names.append(value.filename)
        if not data:
            raise Problem(400, "the form holds no pictures", allowed=[f"files under the name {FIELD!r}"])
        return Files(data, names)
    finally:
        await form.close()
