"""The row "ResNet-56, CIFAR-10, structured": 2.1 times fewer multiply-adds, 1.6 times faster, nothing lost.

``python -m proof.resnet56 --work FOLDER [--device cuda] [--seeds 3]`` does the whole row: a ResNet-56 is trained, the
fourteen residual blocks whose absence costs least on validation are left out, what is missing of the target is pruned
by channels, and it is trained again; both are asked the test pictures, once, and compared picture by picture (paired
non-inferiority, margin 0.30 points). Blocks and not channels, because ONNX Runtime computes channels in blocks of
sixteen: stages of 8, 24 and 56 channels do 2.2 times less work and take nearly the same time. The dense network must
itself reach 93.0 %, otherwise the row reads *not run at full budget*. Hours on a GPU, days on two cores; a training
that was stopped goes on where it was.

``--speed`` measures the speed of the pruned structure alone, with weights as they are at the start, on one core in ONNX
Runtime, beside the dense network.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from danlu.analyze.counting import count
from danlu.compress import compress
from danlu.compress.blocks import residual_blocks, without
from danlu.compress.edits import apply_edits
from danlu.compress.latency import side_by_side
from danlu.compress.prune_channels import PruneChannelsSettings, prune_once
from danlu.core.environment import describe_environment
from danlu.core.files import read_json, write_json
from danlu.data.load import Data, load_data
from danlu.data.loader import Loader
from danlu.evaluate.prediction import BATCH, predict_logits, predictor_of
from danlu.metrics.accuracy import accuracy
from danlu.metrics.non_inferiority import non_inferiority
from danlu.models import create_model
from danlu.tasks.trained import open_trained
from danlu.train import resume, train

__all__ = ["RESULTS", "speed", "verdict"]

RESULTS = Path(__file__).with_name("resnet56.json")
SHAPE, MACS, FASTER, MARGIN, LEAST = (3, 32, 32), 2.1, 1.6, 0.30, 0.930
TRAINING = {
    "epochs": 182,
    "batch_size": 128,
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
    "schedule": {"name": "cosine", "warmup": 0.03},
    "augment": [{"name": "pad_crop", "padding": 4}, {"name": "flip"}],
}
BLOCKS = 14
PRUNING = {"blocks": BLOCKS, "macs": f"{MACS}x", "criterion": "taylor", "multiple": 16, "epochs": 120}
_OPTIMIZER = {"optimizer": {"name": "sgd", "lr": 0.02, "momentum": 0.9, "weight_decay": 5e-4}}


def speed() -> dict[str, Any]:
    """Return how much less work the pruned structure does and how much faster it is, on one core."""
    torch.manual_seed(0)
    dense = create_model("resnet56").eval()
    blocks = residual_blocks(dense, SHAPE)
    spread = [blocks[place * len(blocks) // BLOCKS] for place in range(BLOCKS)]
    models = {"dense": dense, "blocks": without(dense, spread), "channels": copy.deepcopy(dense)}
    edits, _ = prune_once(dense, SHAPE, 1 / MACS, PruneChannelsSettings(scope="layer", multiple=8))
    apply_edits(models["channels"], edits)
    macs = {name: count(model, (1, *SHAPE)).macs for name, model in models.items()}
    found = side_by_side(models, SHAPE, rounds=60, seconds=30.0)
    return {name: {"macs": macs[name], "fewer": macs["dense"] / macs[name], **found[name]} for name in models}


def row(work: Path, data: Data, seed: int, device: str) -> dict[str, Any]:
    """Train, prune, train again; return the row of one seed, with what each network has right of the test pictures."""
    folder, pruned = work / f"dense-{seed}", work / f"pruned-{seed}.dlz"
    if not folder.exists():
        train(data, model="resnet56", overrides=TRAINING, out=folder, seed=seed, device=device)
    else:
        resume(folder, data=data)  # a finished run is left as it is
    if not pruned.exists():
        compress(folder, "prune-channels", overrides={**PRUNING, **_OPTIMIZER}, out=pruned, data=data, device=device)
    document = read_json(pruned.with_suffix(".json"))
    right = {name: _right(path, data) for name, path in (("dense", folder), ("pruned", pruned))}
    macs, latency = document["report"]["macs"], document["report"]["latency"]["pruned"]
    return {"seed": seed, "right": right, "macs": macs["before"] / macs["after"], "faster": latency["ratio"]}


def _right(path: Path, data: Data) -> np.ndarray[Any, np.dtype[np.bool_]]:
    predictor, dataset = predictor_of(open_trained(path)), data.test
    loader = Loader(dataset, predictor.size, predictor.channels, cache_bytes=0)
    logits = predict_logits(predictor.logits, loader, np.arange(len(dataset), dtype=np.int64), BATCH, "test")
    return np.asarray(logits.argmax(1) == np.asarray(dataset.labels))


def verdict(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what all seeds say together.

    ``reads`` is ``met``, ``missed``, or ``not run at full budget`` where the dense networks are not good enough or none
    was trained.
    """
    if not rows:
        return {"reads": "not run at full budget"}
    dense, pruned = (np.stack([one["right"][name] for one in rows]) for name in ("dense", "pruned"))
    compared = non_inferiority(dense, pruned, MARGIN)
    good = float(dense.mean()) >= LEAST
    macs, faster = (min(one[key] for one in rows) for key in ("macs", "faster"))
    met = compared["holds"] and macs >= MACS and faster >= FASTER
    return {
        "reads": ("met" if met else "missed") if good else "not run at full budget",
        "dense": [accuracy(np.ones(dense.shape[1]), one.astype(int)) for one in dense],
        "pruned": [accuracy(np.ones(dense.shape[1]), one.astype(int)) for one in pruned],
        "compared": compared,
        "macs": macs,
        "faster": faster,
    }


def main(arguments: list[str]) -> int:
    """Write ``proof/resnet56.json``; return 1 where the row is not met."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--speed", action="store_true", help="measure the speed of the pruned structure alone")
    options = parser.parse_args(arguments)
    if not options.speed and options.work is None:
        parser.error("give --work FOLDER, or --speed")
    document: dict[str, Any] = read_json(RESULTS) if RESULTS.exists() else {"schema": 1, "row": verdict([])}
    if options.speed:
        document["speed"] = {**speed(), "environment": describe_environment()}
    else:
        options.work.mkdir(parents=True, exist_ok=True)
        data = load_data("cifar10", seed=0)
        rows = [row(options.work, data, seed, options.device) for seed in range(options.seeds)]
        document["row"] = {**verdict(rows), "seeds": options.seeds, "environment": describe_environment()}
    write_json(RESULTS, document)
    sys.stderr.write(f"{document}\n")
    return 0 if options.speed or document["row"]["reads"] == "met" else 1


if __name__ == "__main__":
    torch.set_num_threads(1 if "--speed" in sys.argv else torch.get_num_threads())
    sys.exit(main(sys.argv[1:]))
