"""What goes with an artifact: golden pictures with their answers, the licences, a model card. Torch-free.

Golden pictures are kept packed in the metadata, so that they cannot get lost: the bytes of a uint8 array, compressed by
zlib, in base64. Whoever runs the artifact elsewhere feeds them and compares with the logits beside them.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import InputError
from danlu.deploy.artifact import ArtifactInfo

__all__ = ["GOLDEN_PICTURES", "card_of", "licence_of", "model_card", "pack_golden", "unpack_golden"]

GOLDEN_PICTURES = 2
NOT_STATED = "not stated"


def pack_golden(pictures: NDArray[np.uint8], logits: NDArray[np.float32]) -> dict[str, Any]:
    """Return uint8 pictures [N, h, w, C] and their logits [N, K] as plain values for the metadata."""
    packed = base64.b64encode(zlib.compress(np.ascontiguousarray(pictures).tobytes(), 9)).decode("ascii")
    return {
        "shape": list(pictures.shape),
        "pictures": packed,
        "logits": [[float(f"{value:.7g}") for value in row] for row in logits.tolist()],
    }


def unpack_golden(golden: Mapping[str, Any], where: str) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return pictures [N, h, w, C] and logits [N, K] that :func:`pack_golden` packed.

    Raises:
        InputError: they are not what was packed.
    """
    try:
        shape = [int(side) for side in golden["shape"]]
        size = int(np.prod(shape))
        # No more is unpacked than the shape says, whatever the bytes would grow to.
        data = zlib.decompressobj().decompress(base64.b64decode(golden["pictures"], validate=True), size + 1)
        pictures = np.frombuffer(data, np.uint8).reshape(shape)
        logits = np.asarray(golden["logits"], dtype=np.float32)
    except (KeyError, TypeError, ValueError, zlib.error, binascii.Error) as error:
        raise InputError(f"the golden pictures cannot be read ({error})", where=where, mend="export it again") from None
    if pictures.ndim != 4 or logits.ndim != 2 or len(logits) != len(pictures):
        raise InputError("the golden pictures and answers do not fit together", where=where, mend="export it again")
    return pictures, logits


def licence_of(data: str) -> dict[str, str]:
    """Return what is known of the licences: of the data from the catalogue, of the weights nothing unless told."""
    from danlu.data.catalog import CATALOG

    entry = CATALOG.get(data)
    return {"weights": NOT_STATED, "data": entry.licence if entry is not None else NOT_STATED}


def card_of(path: Path) -> Path:
    """Return where the card of the ONNX artifact ``path`` lies: ``model.onnx`` -> ``model.md``."""
    return path.with_suffix(".md")


def model_card(info: ArtifactInfo, name: str, runtime: str = "ONNX Runtime") -> str:
    """Return the model card as Markdown: what it is, what it takes and gives, what was proved, its limits."""
    height, width = info.picture_size
    licence, colours = info.licence or {}, "grey" if info.channels == 1 else "RGB"
    lines = [
        f"# {name}",
        "",
        f"`{info.model}`, {info.task}, {info.precision}, for {runtime}. Written by danlu {info.version}.",
        "",
        "## In and out",
        "",
        (
            f"- takes uint8 pictures `[batch, height, width, {info.channels}]`, {colours}; "
            f"resized and cropped to {height} × {width} and normalised inside"
        ),
        *(
            f"- gives `{output['name']}` [batch, {len(info.classes)}]: {output.get('meaning', '')}"
            for output in info.outputs
        ),
        f"- classes, in the order of the logits: {', '.join(f'`{_plain(label)}`' for label in info.classes)}",
        "",
        "## Proof",
        "",
        "Compared with the trained network in PyTorch before it was written:",
        "",
        "| split | pictures | largest logit difference | flips | accuracy | passed |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for split, found in info.parity.items():
        lines.append(
            f"| {split} | {found['n']:,} | {_figure(found['max_abs_logit_difference'])} | {found['flips']} | "
            f"{_percent(found['accuracy_b'])} | {'yes' if found['passed'] else 'no'} |"
        )
    lines += [
        "",
        "## Origin",
        "",
        *(f"- SHA-256 of the {kind}: `{digest}`" for kind, digest in info.hashes.items()),
        f"- licence of the weights: {_plain(str(licence.get('weights', NOT_STATED)))}",
        f"- licence of the data: {_plain(str(licence.get('data', NOT_STATED)))}",
        "",
        "## Limits",
        "",
        "Measured on pictures like those it was trained on; of others these figures say nothing.",
        "It names one of its classes for every picture, also for one that shows none of them.",
        "",
    ]
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    """Return a share in per cent; there is none where training took the split."""
    return "–" if share is None else f"{100 * share:.2f} %"


def _plain(text: str) -> str:
    """Keep Markdown and HTML in names from being read as such."""
    return "".join(" " if letter in "\r\n`|<>" else letter for letter in text)


def _figure(value: Any) -> str:
    return "none" if value is None else f"{value:.2g}"
