"""From a picture file to the pixels a network is fed, step by step: decode, colour, resize, crop. Torch-free.

Each step is compared alone: it is given what the reference gave the step before, so that the first step that differs is
named and not all that follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from danlu.data.decode import change_channels, fit_steps, inspect

if TYPE_CHECKING:
    import onnx

__all__ = ["STEPS", "Front", "FrontRow", "Pixels", "compare_fronts", "graph_front", "shared_front"]

Pixels = NDArray[np.uint8]
STEPS = ("decode", "colour order", "resize", "crop")
# ONNX Runtime resizes with Pillow's fixed-point arithmetic; it differs by one level, in noise rarely by two, and up as
# often as down: of pictures of nothing but noise one value in five, while their mean is off by 0.02 levels at most.
_MOST_LEVELS = 2
_MOST_MEAN_LEVELS = 0.3
_MOST_SHIFT_LEVELS = 0.1
# A resize is looked at though all pictures of the data have the right size: users will feed others.
_SCALES = ((2.7, 2.2), (1.4, 3.1), (0.7, 0.6))


@dataclass(frozen=True)
class Front:
    """The four steps; any may be a foreign program's own.

    Attributes:
        decode: a file, its bytes, or pixels [H, W, C'] -> uint8 [H, W, C'] upright, in the channels it has.
        colour: [H, W, C'] -> [H, W, C] in the channels and the order of the network.
        resize: [H, W, C] -> [H', W', C], which covers the network's picture size.
        crop: [H', W', C] -> [h, w, C].
    """

    decode: Callable[[Any], Pixels]
    colour: Callable[[Pixels], Pixels]
    resize: Callable[[Pixels], Pixels]
    crop: Callable[[Pixels], Pixels]

    @property
    def steps(self) -> tuple[Callable[[Any], Pixels], ...]:
        """The functions in the order of :data:`STEPS`."""
        return self.decode, self.colour, self.resize, self.crop

    def trace(self, source: Any) -> list[Pixels]:
        """Return what each step gives for one picture."""
        values: list[Any] = [source]
        for step in self.steps:
            values.append(step(values[-1]))
        return values[1:]


@dataclass(frozen=True)
class FrontRow:
    """One step compared: the largest and the mean difference in levels (None: another shape), whether it is within."""

    step: str
    levels: float | None
    mean: float | None
    within: bool
    cause: str


def shared_front(size: tuple[int, int], channels: int) -> Front:
    """Return the steps of :mod:`danlu.data.decode`."""
    h, w = size

    def crop(resized: Pixels) -> Pixels:
        top, left = (resized.shape[0] - h) // 2, (resized.shape[1] - w) // 2
        return np.ascontiguousarray(resized[top : top + h, left : left + w])

    return Front(
        decode=lambda source: source if isinstance(source, np.ndarray) else inspect(source)[1],
        colour=lambda pixels: change_channels(pixels, channels),
        resize=lambda pixels: fit_steps(pixels, size)[0],
        crop=crop,
    )


def graph_front(model: onnx.ModelProto, size: tuple[int, int], channels: int) -> Front | None:
    """Return the steps of an artifact whose graph resizes and crops itself, or None where it does not.

    Raises:
        danlu.core.errors.InputError: ONNX Runtime cannot run them.
    """
    from danlu.deploy.graph_parts import fitting_steps
    from danlu.deploy.runtimes.onnxruntime import OnnxRuntime

    steps = fitting_steps(model)
    if steps is None:
        return None
    resize, crop = (OnnxRuntime.load(step.SerializeToString(), threads=1) for step in steps)
    shared = shared_front(size, channels)

    def resized(pixels: Pixels) -> Pixels:
        if pixels.shape[:2] == size:
            return pixels
        return np.asarray(next(iter(resize.predict(np.ascontiguousarray(pixels)[None]).values()))[0], np.uint8)

    def cropped(pixels: Pixels) -> Pixels:
        return np.asarray(next(iter(crop.predict(np.ascontiguousarray(pixels)[None]).values()))[0], np.uint8)

    return Front(shared.decode, shared.colour, resized, cropped)


def compare_fronts(a: Front, b: Front, sources: Sequence[Any]) -> list[FrontRow]:
    """Compare step by step on pictures (files, bytes or pixels) and resized forms of them; ``a`` is the reference."""
    worst: dict[str, FrontRow] = {step: FrontRow(step, 0.0, 0.0, True, "") for step in STEPS}
    for source in sources:
        values = [source, *a.trace(source)]
        _compare(a, b, values, 0, source, worst)
        for scaled in _scaled(values[2]):
            _compare(a, b, [None, None, scaled, *_rest(a, scaled)], 2, source, worst)
    return [worst[step] for step in STEPS]


def _rest(front: Front, colour: Pixels) -> list[Pixels]:
    resized = front.resize(colour)
    return [resized, front.crop(resized)]


def _scaled(pixels: Pixels) -> Iterator[Pixels]:
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    for down, across in _SCALES:
        width, height = max(1, round(image.width * across)), max(1, round(image.height * down))
        sized = image.resize((width, height), Image.Resampling.BICUBIC)
        yield np.asarray(sized, np.uint8).reshape(height, width, -1)


def _compare(a: Front, b: Front, values: list[Any], first: int, source: Any, worst: dict[str, FrontRow]) -> None:
    for place, (given, wanted) in enumerate(pairwise(values[first:]), first):
        step = STEPS[place]
        if a.steps[place] is b.steps[place]:
            continue
        try:
            found = np.asarray(b.steps[place](given))
        except Exception as error:  # a foreign program's own step may fail in any way
            worst[step] = FrontRow(step, None, None, False, f"it fails: {type(error).__name__}: {error}")
            continue
        row = _row(step, given, wanted, found, source)
        kept = worst[step]
        if (not row.within and (kept.within or (row.levels or 1e9) > (kept.levels or 1e9))) or (
            row.within and kept.within and (row.levels or 0) > (kept.levels or 0)
        ):
            worst[step] = row


def _row(step: str, given: Any, wanted: Pixels, found: NDArray[Any], source: Any) -> FrontRow:
    if found.shape != wanted.shape:
        cause = _CAUSES[step](given, wanted, found, source) or f"another size: {found.shape}, not {wanted.shape}"
        return FrontRow(step, None, None, False, cause)
    difference = found.astype(np.float64) - wanted.astype(np.float64)
    shift, difference = abs(float(difference.mean())), np.abs(difference)
    levels, mean = float(difference.max()), float(difference.mean())
    if step == "resize":
        within = levels <= _MOST_LEVELS and mean <= _MOST_MEAN_LEVELS and shift <= _MOST_SHIFT_LEVELS
    else:
        within = levels == 0
    return FrontRow(step, levels, mean, within, "" if within else _CAUSES[step](given, wanted, found, source))


def _near(found: NDArray[Any], other: NDArray[Any], levels: float = 1.5) -> bool:
    if found.shape != other.shape:
        return False
    difference = np.abs(found.astype(np.float64) - other.astype(np.float64))
    return bool(difference.max() <= max(levels, 2) and difference.mean() <= levels / 3)


def _why_decode(given: Any, wanted: Pixels, found: NDArray[Any], source: Any) -> str:
    if (scale := _scale(wanted, found)) is not None:
        return scale
    if wanted.shape[2] == 3 and _near(found, wanted[..., ::-1]):
        return "BGR instead of RGB"
    turned = [np.rot90(one, k) for one in (wanted, wanted[:, ::-1]) for k in range(4)][1:]
    if any(_near(found, one) for one in turned):
        return "the EXIF orientation is not followed"
    if isinstance(source, Path | bytes):
        import io

        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.mode.startswith(("I", "F")):
                return "more than 8 bits a value are cut off or clipped instead of scaled"
            if "A" in image.mode or "transparency" in image.info:
                return "transparency is dropped or blended over another colour than white"
            if image.mode == "P":
                return "the palette is not applied"
    return "another decoder: pixels differ"


def _scale(wanted: NDArray[Any], found: NDArray[Any]) -> str | None:
    if found.dtype.kind == "f" and wanted.max(initial=0) > 1 and _near(found * 255, wanted):
        return "0-1 instead of 0-255"
    return None


def _why_colour(given: Any, wanted: Pixels, found: NDArray[Any], source: Any) -> str:
    if (scale := _scale(wanted, found)) is not None:
        return scale
    if wanted.shape[2] == 3 and _near(found, wanted[..., ::-1]):
        return "BGR instead of RGB"
    if wanted.shape[2] == 1 and np.asarray(given).shape[2] == 3:
        swapped = change_channels(np.ascontiguousarray(given[..., ::-1]), 1)
        if _near(found, swapped):
            return "grey from BGR instead of RGB"
        if _near(found, given.mean(axis=2, keepdims=True)):
            return "grey as the mean of the channels instead of luma"
        return "grey with other weights of the channels"
    return "another conversion of the channels"


def _why_resize(given: Pixels, wanted: Pixels, found: NDArray[Any], source: Any) -> str:
    if (scale := _scale(wanted, found)) is not None:
        return scale
    if found.shape != wanted.shape:
        stretched = "the sides are scaled each by its own factor (the picture is stretched)"
        same = found.shape[0] < wanted.shape[0] or found.shape[1] < wanted.shape[1]
        return stretched if same else f"another size before the crop: {found.shape[:2]}, not {wanted.shape[:2]}"
    ways = _resizes(given, wanted.shape[0], wanted.shape[1])
    if explained := list(dict.fromkeys(name for name, other in ways if _near(found, other))):
        return " or ".join(explained)
    centred = float((found.astype(np.float64) - wanted).mean())
    if 0.2 < abs(centred) < 1.2 and np.abs(found.astype(np.float64) - wanted).max() <= 3:
        return "values are cut off instead of rounded"
    return "another interpolation"


def _resizes(picture: Pixels, height: int, width: int) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield resized forms by the name of what differs from the antialiased bilinear one."""
    image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
    filters = {"nearest": Image.Resampling.NEAREST, "bicubic": Image.Resampling.BICUBIC}
    filters |= {
        "box (area)": Image.Resampling.BOX,
        "Lanczos": Image.Resampling.LANCZOS,
        "Hamming": Image.Resampling.HAMMING,
    }
    yield "antialias: bilinear without antialiasing", _plain_bilinear(picture, height, width, corners=False)
    for name, resample in filters.items():
        sized = np.asarray(image.resize((width, height), resample)).reshape(height, width, -1)
        yield f"interpolation: {name} instead of bilinear", sized
    yield "interpolation: bilinear with aligned corners", _plain_bilinear(picture, height, width, corners=True)
    rows = np.minimum((np.arange(height) * picture.shape[0] / height).astype(int), picture.shape[0] - 1)
    columns = np.minimum((np.arange(width) * picture.shape[1] / width).astype(int), picture.shape[1] - 1)
    yield "interpolation: nearest instead of bilinear", picture[rows][:, columns]


def _plain_bilinear(picture: Pixels, height: int, width: int, *, corners: bool) -> NDArray[np.float64]:
    values = picture.astype(np.float64)
    for axis, size in enumerate((height, width)):
        old = picture.shape[axis]
        step = (old - 1) / max(size - 1, 1) if corners else old / size
        place = np.arange(size) * step if corners else (np.arange(size) + 0.5) * step - 0.5
        place = np.clip(place, 0, old - 1)
        low = np.floor(place).astype(int)
        share = (place - low).reshape([-1 if i == axis else 1 for i in range(3)])
        high = np.minimum(low + 1, old - 1)
        values = values.take(low, axis) * (1 - share) + values.take(high, axis) * share
    return values


def _why_crop(given: Pixels, wanted: Pixels, found: NDArray[Any], source: Any) -> str:
    if (scale := _scale(wanted, found)) is not None:
        return scale
    if found.shape != wanted.shape:
        return f"another size: {found.shape[:2]}, not {wanted.shape[:2]}"
    h, w = wanted.shape[:2]
    top, left = (given.shape[0] - h) // 2, (given.shape[1] - w) // 2
    for y, x in product(range(given.shape[0] - h + 1), range(given.shape[1] - w + 1)):
        if np.array_equal(given[y : y + h, x : x + w], found):
            return f"crop offset: {y - top} rows and {x - left} columns from the centre"
    if any(_near(found, one) for one in (wanted[:, ::-1], wanted[::-1])):
        return "the picture is mirrored"
    whole = Image.fromarray(given[..., 0] if given.shape[2] == 1 else given)
    squeezed = np.asarray(ImageOps.contain(whole, (w, h))) if min(given.shape[:2]) else wanted
    if squeezed.shape[:2] == (h, w):
        return "resized again instead of cropped"
    return "another crop"


_CAUSES: Mapping[str, Callable[[Any, Pixels, NDArray[Any], Any], str]] = {
    "decode": _why_decode,
    "colour order": _why_colour,
    "resize": _why_resize,
    "crop": _why_crop,
}
