"""Make a network smaller or faster: one method a file. What a method claims is measured, on disk and on validation.

``compress(run, "deep")`` takes a run folder or a coded file and writes ``NAME.dlz``, which is evaluated, exported,
compared, measured and compressed again as a run is. A method works on a :class:`danlu.compress.base.Subject`, a copy of
the network with its training and validation pictures; it never sees the test split.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.core.callable_module import make_callable
from danlu.core.registry import Registry

if TYPE_CHECKING:
    from danlu.core.records import RunFolder
    from danlu.data.load import Data
    from danlu.tasks.trained import Trained

__all__ = ["METHODS", "compress"]

# A Method of danlu.compress.base; those that work on an ONNX file ("works_on": "onnx") are functions of their own.
METHODS: Registry[Any] = Registry("compression method", "danlu.compress")


def compress(
    run: Path | str | RunFolder | Trained,
    method: str,
    *,
    overrides: Mapping[str, Any] | None = None,
    out: Path | None = None,
    data: Data | Path | str | None = None,
    seed: int | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> dict[str, Any]:
    """Compress the network of a run by a registered method and write it as one coded file.

    Args:
        run: a run folder (its path, or what training returned), a ``.dlz``, or what
            :func:`danlu.tasks.trained.open_trained` gave; it is left as it is.
        method: one of ``METHODS``.
        overrides: the method's settings by dotted key.
        out: the file to write, ``NAME.dlz``; by default ``RUN/<method>.dlz``.
        data: the data it was trained on, or a name or folder for it; loaded from where the run says when not given.
        seed: of every draw; the run's own by default.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:<i>`` or ``mps``.
        threads: processor threads; those the run was trained with by default.

    Returns:
        the document that is also written beside the file as ``NAME.json``: ``file``, ``bytes``, ``ratio``,
        ``validation`` before and after, ``layers``, ``split`` of the bytes, and what the method reports.

    Raises:
        InputError: an unknown method or setting, a network the method cannot take, or a place that cannot be written.
    """
    from danlu.compress.job import run_method

    return run_method(run, method, dict(overrides or {}), out=out, data=data, seed=seed, device=device, threads=threads)


make_callable(__name__)
