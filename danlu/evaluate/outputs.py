"""What an evaluation leaves in the run folder for people: a table of predictions and the worst pictures."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from danlu.core.files import write_whole
from danlu.core.records import RunFolder

__all__ = ["safe_cell", "write_predictions", "write_worst"]

_SHOWN_PIXELS = 96
# What spreadsheets take for the start of a formula, also in their full-width forms.
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")


def safe_cell(text: str) -> str:
    """Return ``text`` as a spreadsheet shows it and never executes it.

    Control and unpaired characters are written as escapes (``\\n``); what starts like a formula gets an apostrophe.
    """
    shown = "".join(
        c.encode("unicode_escape").decode("ascii") if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c
        for c in text
    )
    return "'" + shown if shown.lstrip().startswith(_FORMULA) else shown


def write_predictions(
    path: Path,
    ids: Sequence[str],
    labels: NDArray[np.int64],
    log_probabilities: NDArray[np.float64],
    classes: Sequence[str],
) -> None:
    """Write one row a picture, in the data set's order: id, true, predicted, correct, probability, loss.

    The file is UTF-8 with a byte order mark, without which spreadsheets garble names that are not ASCII.

    Args:
        path: the CSV file.
        ids: N sample ids.
        labels: integers [N].
        log_probabilities: [N, K].
        classes: K names.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "true", "predicted", "correct", "probability", "loss"])
    names = [safe_cell(name) for name in classes]
    predictions = log_probabilities.argmax(axis=1)
    for i, (label, predicted) in enumerate(zip(labels.tolist(), predictions.tolist(), strict=True)):
        probability = float(np.exp(log_probabilities[i, predicted]))
        loss = max(0.0, -float(log_probabilities[i, label]))  # not -0, which looks like a formula
        cells = [safe_cell(ids[i]), names[label], names[predicted], int(label == predicted)]
        writer.writerow([*cells, f"{probability:.6f}", f"{loss:.6f}"])
    write_whole(path, text.getvalue().encode("utf-8-sig"))


def write_worst(run: RunFolder, split: str, pictures: NDArray[np.uint8]) -> list[str]:
    """Write uint8 pictures [N, h, w, C] as ``pictures/worst-00.png`` …, the worst first.

    Small ones are enlarged by repeating pixels to 96 and more, so that they can be seen. Those of an earlier evaluation
    of the same split are replaced.

    Returns:
        their paths, relative to the run folder.
    """
    from PIL import Image

    stem = "worst" if split == "test" else f"worst-{split}"
    run.pictures.mkdir(exist_ok=True)
    paths = []
    for number, picture in enumerate(pictures):
        factor = max(1, -(-_SHOWN_PIXELS // min(picture.shape[:2])))
        shown = picture.repeat(factor, axis=0).repeat(factor, axis=1)
        buffer = io.BytesIO()
        Image.fromarray(shown[:, :, 0] if shown.shape[2] == 1 else shown).save(buffer, format="PNG")
        path = run.pictures / f"{stem}-{number:02d}.png"
        write_whole(path, buffer.getvalue())
        paths.append(path.relative_to(run.path).as_posix())
    for old in run.pictures.glob(f"{stem}-[0-9][0-9].png"):
        if old.relative_to(run.path).as_posix() not in paths:
            old.unlink()
    return paths
