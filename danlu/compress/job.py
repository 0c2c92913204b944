"""Carry out one compression: open, apply, write the coded file, read it back, and write down what was measured."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danlu.compress import METHODS
from danlu.compress.base import Compressed, subject_of
from danlu.compress.codings import Coded
from danlu.compress.dlz import build_model, open_dlz, write_dlz
from danlu.compress.edits.quantise import quantised_layers
from danlu.compress.retrain import validate
from danlu.core.errors import CheckFailed, InputError
from danlu.core.files import check_writable, read_json, sha256_file, write_json
from danlu.core.log import logger
from danlu.core.records import SCHEMA, RunFolder
from danlu.core.settings import apply_overrides
from danlu.data.load import Data, opened_data
from danlu.tasks.trained import Trained, open_trained

__all__ = ["run_method", "target_of"]


def run_method(
    run: Path | str | RunFolder | Trained,
    method: str,
    overrides: dict[str, Any],
    *,
    out: Path | None,
    data: Data | Path | str | None,
    seed: int | None,
    device: str,
    threads: int | None,
) -> dict[str, Any]:
    """Compress a network and write it as a coded file; see :func:`danlu.compress.compress`."""
    method = METHODS.check(method, "compress")
    if METHODS.index[method].get("works_on") == "onnx":
        raise InputError(f"{method} works on an ONNX file", where="compress", mend=f"danlu compress {method} RUN")
    thing = METHODS.get(method)
    # What is wrong with the request alone is found before anything is opened.
    settings = apply_overrides(thing.Settings(), overrides)
    trained = run if isinstance(run, Trained) else open_trained(run)
    path = target_of(trained, method, out)
    if layer := next((name for name, _ in quantised_layers(trained.model)), None):
        what = f"is quantised already (layer {layer}), and whole numbers are not trained on"
        raise InputError(what, where=trained.run.name, mend="compress the float network first, danlu compress qat last")
    if data is not None:
        data = opened_data(data, trained.config["effective"]["data"].get("seed"))
    subject = subject_of(trained, data, seed=seed, device=device, threads=threads)
    begin = time.perf_counter()
    with subject.settled():
        before = validate(subject, subject.model)
        logger.info("%s: %s, validation accuracy %.4f before", method, subject.name, before["accuracy"])
        done: Compressed = thing.apply(subject, settings)
        after = validate(subject, done.model)
        changed = settings.model_dump(mode="json", exclude_defaults=True)
        coded = write_dlz(path, subject, done, method, changed)
        _check_readable(path, done)
    document = {
        "schema": SCHEMA,
        "method": {"name": method, "settings": settings.model_dump(mode="json"), "seed": subject.seed},
        "source": {"run": subject.name, "weights": subject.weights_hash},
        "file": path.name,
        "sha256": sha256_file(path),
        **_sizes(path, trained, done, coded),
        "validation": {"before": before, "after": after},
        "seconds": round(time.perf_counter() - begin, 3),
        "report": done.report,
    }
    write_json(path.with_suffix(".json"), document)
    return {**document, "path": str(path)}


def target_of(trained: Trained, method: str, out: Path | None) -> Path:
    """Return the file to write: ``out``, or ``RUN/<method>.dlz``, or ``NAME-<method>.dlz`` beside a coded file.

    Raises:
        InputError: not a name of a coded file, a folder that does not exist or cannot be written, or the input itself.
    """
    source = trained.run.file
    if out is None:
        out = source.with_name(f"{source.stem}-{method}.dlz") if source else trained.run.path / f"{method}.dlz"
    if out.suffix != ".dlz" or out.is_dir():
        raise InputError("is no name of a coded file", where=str(out), mend="give --out NAME.dlz")
    if source is not None and out.resolve() == source.resolve():
        raise InputError("is the file that is compressed", where=str(out), mend="give another --out")
    if not out.parent.is_dir():
        raise InputError("no such folder", where=str(out.parent), mend="make it, or give another --out")
    report = out.with_suffix(".json")
    if report.exists() and not _is_report(report):
        what = f"its report would replace {report.name}, which no compression wrote"
        raise InputError(what, where=str(out), mend="give another --out")
    check_writable(out.parent)
    return out


def _is_report(path: Path) -> bool:
    try:
        document = read_json(path)
    except InputError:
        return False
    return isinstance(document, dict) and {"schema", "method", "file", "sha256"} <= document.keys()


def _check_readable(path: Path, done: Compressed) -> None:
    """See that the file holds the compressed network bit for bit; remove it if it does not."""
    found = open_dlz(path).model.state_dict()
    wrong = [
        name
        for name, value in done.model.state_dict().items()
        if name not in found or not _same_bits(found[name], value.detach().cpu())
    ]
    if wrong:
        path.unlink()
        raise CheckFailed(f"{path} does not hold {', '.join(wrong[:5])} as they were; it was removed")


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same bit for bit; 0.0 and -0.0 are not."""
    return torch.equal(a, b) and (not a.is_floating_point() or torch.equal(a.signbit(), b.signbit()))


def _dense_bytes(trained: Trained) -> int:
    """Return the bytes in float32 of the network as it was built, before any edit; counters are not counted."""
    counts = len(trained.classes), trained.preprocess.settings.channels
    with torch.device("meta"):
        built = build_model(dict(trained.config["effective"]["model"]), counts, trained.run.name)
    return sum(4 * value.numel() for value in built.state_dict().values() if value.is_floating_point())


def _sizes(path: Path, trained: Trained, done: Compressed, coded: dict[str, Coded]) -> dict[str, Any]:
    """Return the file's bytes, what they are for, and the tensors; the ratio is to the float32 network."""
    size = path.stat().st_size
    dense = _dense_bytes(trained)
    split: dict[str, int] = {}
    for one in coded.values():
        for key, count in one.split.items():
            split[key] = split.get(key, 0) + count
    split = {"header": size - sum(split.values()), **split}
    state = done.model.state_dict()
    layers = [
        {
            "name": name,
            "shape": list(value.shape),
            "weights": value.numel(),
            "kept": int(torch.count_nonzero(value)),
            "bytes": len(one.payload),
            "bits_a_weight": 8 * len(one.payload) / max(1, value.numel()),
            **one.facts,
            "split": one.split,
        }
        for name, one in coded.items()
        for value in [state[name]]
    ]
    return {"bytes": size, "dense_bytes": dense, "ratio": dense / size, "split": split, "layers": layers}
