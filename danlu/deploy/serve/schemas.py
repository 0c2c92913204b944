"""The documents of the routes, as the OpenAPI document shows them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "RAW_TYPE",
    "SHAPE_HEADER",
    "Answer",
    "ClassProbability",
    "Crop",
    "ErrorDocument",
    "Explanation",
    "Health",
    "Milliseconds",
    "ModelCard",
    "PictureFormat",
    "Prediction",
    "RuntimeFacts",
    "errors",
    "request_body",
]

RAW_TYPE = "application/vnd.danlu.uint8"
SHAPE_HEADER = "danlu-shape"
_PICTURES = (
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/bmp",
    "image/gif",
    "image/tiff",
    "application/octet-stream",
)


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClassProbability(_Document):
    """A class and how probable it is."""

    name: str = Field(alias="class")
    index: int = Field(ge=0)
    probability: float = Field(ge=0, le=1.001)


class Prediction(ClassProbability):
    """The answer for one picture: its most probable class, and the ``top`` most probable ones."""

    file: str | None = Field(description="the name the picture was sent under")
    top: list[ClassProbability]


class Milliseconds(_Document):
    """Where the time went: decoding, waiting in the queue, computing the batch, and all of it."""

    decode: float
    wait: float
    inference: float
    total: float


class Answer(_Document):
    """One prediction a picture, in the order sent."""

    model: str
    precision: str
    predictions: list[Prediction]
    batch: int = Field(ge=1, description="pictures that were computed together")
    milliseconds: Milliseconds


class Crop(_Document):
    """The part of the upright picture that the network sees, in its pixels."""

    left: float
    top: float
    width: float
    height: float


class Explanation(_Document):
    """What speaks for a class, place by place: ``values`` are rows from the top of the crop to its bottom.

    ``activation``: the share of each place in the class's score, from the last stage and the linear head.
    ``occlusion``: by how much the class's probability falls when the place is hidden.
    """

    method: Literal["activation", "occlusion"]
    explained: ClassProbability
    top: list[ClassProbability]
    values: list[list[float]]
    crop: Crop
    picture: dict[Literal["height", "width"], int]
    milliseconds: Milliseconds


class PictureFormat(_Document):
    """What pictures are resized and cropped to."""

    height: int
    width: int
    channels: int


class RuntimeFacts(_Document):
    """What executes the artifact."""

    name: str
    threads: int


class ModelCard(_Document):
    """What the artifact says of itself."""

    model: str
    task: str
    precision: str
    classes: list[str]
    picture: PictureFormat
    explanations: list[Literal["activation", "occlusion"]]
    hashes: dict[str, str]
    parity: dict[str, Any]
    version: str
    runtime: RuntimeFacts


class Health(_Document):
    """Whether the server lives, or takes requests."""

    status: Literal["live", "ready", "draining"]


class ErrorDocument(_Document):
    """What is wrong with a request (RFC 9457)."""

    type: Literal["about:blank"]
    title: str
    status: int
    detail: str
    where: str | None = None
    allowed: list[str] | None = None
    mend: str | None = None


_TOLD = {
    400: "The request, or a picture in it, cannot be read.",
    401: "A token is needed.",
    403: "The request comes from a page of another origin.",
    405: "The route has other methods.",
    408: "The body came too slowly.",
    413: "The body, or a picture, is too large.",
    415: "The body has a content type that is not read.",
    421: "The server does not answer to this Host.",
    500: "The runtime failed.",
    503: "Overloaded or stopping; Retry-After says when to come again.",
    504: "The deadline passed.",
}
_RETRY = {"Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 1}}}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documented error answers of a route; 401, 403 and 421 are those of every route."""
    schema = {"$ref": "#/components/schemas/ErrorDocument"}
    found: dict[int | str, dict[str, Any]] = {}
    for status in sorted({401, 403, 408, 421, 503, *statuses}):
        content = {"application/problem+json": {"schema": schema}}
        found[status] = {"description": _TOLD[status], "content": content}
        if status == 503:
            found[status]["headers"] = _RETRY
    return found


def request_body(many: bool) -> dict[str, Any]:
    """Return the OpenAPI description of a body of pictures."""
    binary = {"type": "string", "format": "binary"}
    content: dict[str, Any] = {name: {"schema": binary} for name in _PICTURES}
    field = {"type": "array", "items": binary, "minItems": 1} if many else binary
    form = {
        "type": "object",
        "properties": {"pictures": field},
        "required": ["pictures"],
        "additionalProperties": False,
    }
    content["multipart/form-data"] = {"schema": form}
    content[RAW_TYPE] = {"schema": {**binary, "description": f"uint8 [B, H, W, C] of the header {SHAPE_HEADER}"}}
    return {"requestBody": {"required": True, "content": content}}
