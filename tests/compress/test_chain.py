"""One method after the other: narrow, then taught by what it was, then trained to be coded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from danlu.analyze.counting import count
from danlu.compress import compress
from danlu.data.loader import Loader
from danlu.tasks.trained import Trained, open_trained
from tests.compress.networks import few_digits, network_run


def _agreement(one: Trained, other: Trained) -> float:
    pictures = torch.from_numpy(np.array(Loader(few_digits().train, (8, 8), 1).pictures(np.arange(96))))
    with torch.inference_mode():
        found = one.picture_model(pictures).argmax(1) == other.picture_model(pictures).argmax(1)
    return float(found.float().mean())


def test_narrow_then_taught_then_coded(tmp_path: Path) -> None:
    dense = network_run("lenet5", tmp_path / "dense", steps=40)
    whole, narrow, taught, coded = (tmp_path / f"{name}.dlz" for name in ("whole", "narrow", "taught", "coded"))
    steps = [
        (dense, "prune", whole, {"keep": 0.99, "epochs": 1, "rounds": 1}),
        (dense, "prune-channels", narrow, {"macs": 0.5, "epochs": 1, "measure": False}),
        (narrow, "distill", taught, {"teacher": str(whole), "epochs": 12, "hard": 0.0, "optimizer.lr": 0.003}),
        (taught, "entropy", coded, {"epochs": 4}),
    ]
    for subject, method, out, overrides in steps:
        compress(subject, method, overrides=overrides, data=few_digits(), out=out, device="cpu", threads=1)
    opened = {path: open_trained(path) for path in (whole, narrow, taught, coded)}
    work = {path: count(trained.model, (1, 1, 32, 32)).macs for path, trained in opened.items()}
    assert work[narrow] < 0.6 * work[whole]
    assert work[taught] == work[coded] == work[narrow]
    # What each step is for: the lesson brings the narrow one nearer to the whole one, the coding makes it small.
    agreement = {path: _agreement(trained, opened[whole]) for path, trained in opened.items()}
    assert agreement[taught] > agreement[narrow]
    assert agreement[coded] > 0.6
    assert coded.stat().st_size < 0.4 * taught.stat().st_size < 0.4 * whole.stat().st_size
