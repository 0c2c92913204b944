"""Picture files to uint8 pixels: the one decoder of training, evaluation and prediction. Pillow, no torch.

Every picture becomes uint8 [H, W, C] with C = 1 (grey) or 3 (RGB), turned upright by its EXIF orientation.

| stored as | becomes |
|---|---|
| 1 bit | 0 or 255 |
| 8-bit grey, RGB | as it is; a 48-bit RGB file keeps the high byte of each value |
| palette | its colours |
| alpha or transparent colour | blended over white (a transparent level of 16-bit grey is not looked at) |
| 16-bit grey | round(v · 255 / 65535): the full range, whatever the picture's own brightest value |
| 16-bit grey TIFF where 0 is white | the same of 65535 - v |
| 32-bit integer | like 16-bit; a value outside 0…65535 is an error |
| float | in [0, 1]: round(v · 255); else in [0, 255]: round(v); anything else, or NaN, is an error |
| CMYK, YCbCr, HSV, L*a*b* | Pillow's conversion to RGB |
| several frames | the first one |

Colour becomes grey by ITU-R 601 luma, (19595 R + 38470 G + 7471 B + 32768) >> 16; grey becomes colour by repetition.
"""

from __future__ import annotations

import io
import struct
import threading
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from danlu.core.errors import InputError
from danlu.data.names import text_of

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "SUFFIXES",
    "PictureFacts",
    "change_channels",
    "decode",
    "fit",
    "fit_steps",
    "inspect",
    "prepare",
    "resized_size",
]

MAX_PIXELS = 80_000_000
MAX_BYTES = 512 * 2**20

# Suffix -> Pillow's name of the format. Formats that run other programs (EPS) or describe no pixels are left out.
SUFFIXES = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".apng": "PNG",
    ".bmp": "BMP",
    ".dib": "BMP",
    ".gif": "GIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".pbm": "PPM",
    ".pnm": "PPM",
    ".jp2": "JPEG2000",
    ".avif": "AVIF",
}
_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
_SAME_FORMAT = {"MPO": "JPEG", "DIB": "BMP"}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
# What Pillow raises for damaged files, plugin by plugin (warnings where a user turns them into errors).
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    IndexError,
    TypeError,
    KeyError,
    RuntimeError,
    Warning,
)
_init_lock = threading.Lock()


@dataclass(frozen=True)
class PictureFacts:
    """What a picture file holds: upright size, Pillow's mode and format name, frames, EXIF orientation (1…8)."""

    height: int
    width: int
    mode: str
    format: str
    frames: int
    orientation: int

    @property
    def channels(self) -> int:
        """1 for grey modes, else 3."""
        return 1 if self.mode in _GREY_MODES else 3


@cache
def _formats() -> tuple[str, ...]:
    """The formats of :data:`_FORMATS` this Pillow was built with."""
    with _init_lock:
        Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _identified(data: bytes) -> Image.Image:
    """Open ``data`` with the plugins Pillow loads first, which are quick to import, and with all others if need be."""
    if not _formats.cache_info().currsize:
        with _init_lock:
            Image.preinit()
        try:
            return Image.open(io.BytesIO(data), formats=[name for name in _FORMATS if name in Image.OPEN])
        except UnidentifiedImageError:
            pass
    return Image.open(io.BytesIO(data), formats=_formats())


def _where(source: Path | bytes, name: str | None) -> str:
    return name or (text_of(source) if isinstance(source, Path) else "picture")


def _read(source: Path | bytes, where: str) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        if (size := source.stat().st_size) > MAX_BYTES:
            raise InputError(f"has {size:,} bytes, at most {MAX_BYTES:,} are read", where=where)
        return source.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", where=where) from error


def _not_a_picture(data: bytes) -> str:
    if not data:
        return "is empty (0 bytes)"
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        return "is an HTML page, no picture"
    if start.startswith((b"<svg", b"<?xml")):
        return "is SVG or XML text, no pixel picture"
    return f"is no picture of a known format ({', '.join(_formats())})"


def _open(data: bytes, where: str, max_pixels: int) -> Image.Image:
    """Open a picture without decoding it; the number of pixels is checked before any memory is taken."""
    try:
        image = _identified(data)
    except UnidentifiedImageError:
        raise InputError(_not_a_picture(data), where=where) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(f"has more pixels than the allowed {max_pixels:,}", where=where) from None
    except _DAMAGE as error:
        raise InputError(f"cannot be opened as a picture ({error})", where=where) from error
    if image.width * image.height > max_pixels:
        what = f"has {image.width} × {image.height} pixels, more than the allowed {max_pixels:,}"
        raise InputError(what, where=where, mend="make it smaller")
    if image.width < 1 or image.height < 1:
        raise InputError("has no pixels", where=where)
    return image


def _load(image: Image.Image, where: str) -> None:
    """Decode all pixels: a truncated file is found here, not by looking at its header."""
    try:
        image.load()
    except MemoryError as error:
        raise InputError("does not fit into memory", where=where) from error
    except _DAMAGE as error:
        raise InputError(f"is damaged ({error})", where=where) from error


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; a block that cannot be read says nothing, and the pixels stand as stored."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _DAMAGE:
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _deep_grey(values: NDArray[np.generic], where: str) -> Image.Image:
    """16-bit, 32-bit and float grey to 8 bits by the rules of the module's table."""
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise InputError("holds NaN or infinite values", where=where)
        low, high = float(values.min()), float(values.max())
        if low < 0 or high > 255:
            raise InputError(f"holds float values {low:g}…{high:g}; 0…1 or 0…255 are read", where=where)
        scaled = values.astype(np.float64) * (255.0 if high <= 1 else 1.0)
    else:
        lowest, highest = int(values.min()), int(values.max())
        if lowest < 0 or highest > 65535:
            raise InputError(f"holds integer values {lowest}…{highest}; 0…65535 are read", where=where)
        scaled = values.astype(np.float64) * (255.0 / 65535.0)
    return Image.fromarray(np.floor(scaled + 0.5).astype(np.uint8))


def _photometric(image: Image.Image) -> object:
    """Return TIFF's PhotometricInterpretation, None for other formats."""
    return getattr(image, "tag_v2", {}).get(_PHOTOMETRIC)


def _plain(image: Image.Image, where: str) -> Image.Image:
    """Return the picture in mode L or RGB."""
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        # Pillow inverts such TIFF files itself at 8 bits and fewer only.
        inverse = image.mode.startswith("I;16") and _photometric(image) == _WHITE_IS_ZERO
        return _deep_grey(65535 - values if inverse else values, where)
    if image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info:
        grey = image.mode in ("LA", "La", "L", "1")
        opaque = Image.new("RGBA", image.size, (255, 255, 255, 255))
        opaque.alpha_composite(image.convert("LA").convert("RGBA") if grey else image.convert("RGBA"))
        return opaque.convert("L" if grey else "RGB")
    return image.convert("L" if image.mode == "1" else "RGB")


def inspect(
    source: Path | bytes, *, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> tuple[PictureFacts, NDArray[np.uint8]]:
    """Decode a picture fully and return what it holds, with its pixels in the channels it has.

    Raises:
        InputError: as :func:`decode`.
    """
    where = _where(source, name)
    image = _open(_read(source, where), where, max_pixels)
    form = image.format or ""
    frames = 1 if form == "MPO" else _frames(image)
    _load(image, where)
    orientation, mode = _orientation(image), image.mode
    try:
        plain = _plain(image, where)
        if orientation != 1:
            plain = plain.transpose(_UPRIGHT[orientation])
    except InputError:
        raise
    except (*_DAMAGE, MemoryError) as error:
        raise InputError(f"cannot be converted from mode {mode} ({error})", where=where) from error
    facts = PictureFacts(plain.height, plain.width, mode, _SAME_FORMAT.get(form, form), frames, orientation)
    pixels = np.array(plain, dtype=np.uint8)
    return facts, pixels.reshape(plain.height, plain.width, -1)


def _frames(image: Image.Image) -> int:
    try:
        return int(getattr(image, "n_frames", 1))
    except _DAMAGE:
        return 1


def decode(
    source: Path | bytes, channels: int | None, *, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decode one picture to uint8 [H, W, channels], upright.

    Args:
        source: a file, or its bytes.
        channels: 1, 3, or None for the channels the picture has.
        name: what errors call it; the path when not given.
        max_pixels: of the picture, checked before it is decoded; at most :data:`MAX_PIXELS`.

    Raises:
        InputError: unreadable, no picture, damaged or cut short, more than ``max_pixels`` pixels, or values with
            no rule in the table above.
    """
    pixels = inspect(source, name=name, max_pixels=max_pixels)[1]
    return pixels if channels is None else change_channels(pixels, channels)


def change_channels(pictures: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Turn uint8 pictures [..., C] into [..., channels]: grey repeated, colour weighted by ITU-R 601 luma.

    Raises:
        ValueError: ``channels`` is neither 1 nor 3, or the pictures have another number.
    """
    given = pictures.shape[-1]
    if channels not in (1, 3) or given not in (1, 3):
        raise ValueError(f"channels are 1 or 3, got pictures of {given} and {channels} wanted")
    if given == channels:
        return pictures
    if channels == 3:
        return np.repeat(pictures, 3, axis=-1)
    red, green, blue = (pictures[..., index].astype(np.uint32) for index in range(3))
    luma: NDArray[np.uint8] = ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)
    return luma[..., None]


def resized_size(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of a picture resized so that it just covers ``size`` = (h, w), halves rounded up."""
    h, w = size
    if h * width >= w * height:
        return h, max(w, (2 * width * h + height) // (2 * height))
    return max(h, (2 * height * w + width) // (2 * width)), w


def fit(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Bring uint8 [H, W, C] to [h, w, C]: antialiased bilinear resize until it covers ``size``, then the centre crop.

    A picture of the right size is returned as it is. Of one much longer than the crop only the middle is resized, so
    that 1 × 60000 pixels take no more memory than any other.
    """
    return fit_steps(picture, size)[1]


def fit_steps(picture: NDArray[np.uint8], size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return both steps of :func:`fit`: the resized picture that covers ``size``, and its centre [h, w, C]."""
    h, w = size
    height, width = picture.shape[:2]
    if (height, width) == (h, w):
        return picture, picture
    new_h, new_w = resized_size(height, width, size)
    if new_h > 4 * h and height > 16:
        picture = _middle(picture, 0, max(8, -(-4 * h * height // new_h)))
    elif new_w > 4 * w and width > 16:
        picture = _middle(picture, 1, max(8, -(-4 * w * width // new_w)))
    new_h, new_w = resized_size(picture.shape[0], picture.shape[1], size)
    resized = picture
    if (new_h, new_w) != picture.shape[:2]:
        image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
        resized = np.asarray(image.resize((new_w, new_h), Image.Resampling.BILINEAR)).reshape(new_h, new_w, -1)
    top, left = (new_h - h) // 2, (new_w - w) // 2
    return resized, np.ascontiguousarray(resized[top : top + h, left : left + w])


def _middle(picture: NDArray[np.uint8], axis: int, length: int) -> NDArray[np.uint8]:
    """Cut the middle ``length`` rows or columns out, keeping the centre where it was."""
    whole = picture.shape[axis]
    length = min(whole, length + (whole - length) % 2)
    begin = (whole - length) // 2
    rows = slice(begin, begin + length)
    return np.ascontiguousarray(picture[rows] if axis == 0 else picture[:, rows])


def prepare(
    source: Path | bytes, channels: int, size: tuple[int, int], *, name: str | None = None
) -> NDArray[np.uint8]:
    """Decode and fit one picture: uint8 [h, w, channels]. See :func:`decode` and :func:`fit`."""
    return fit(decode(source, channels, name=name), size)
