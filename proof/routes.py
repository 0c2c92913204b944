"""Six routes to a smaller or faster network, as one table on one task: MNIST, LeNet-5, a small budget.

``python -m proof.routes --work FOLDER``: a LeNet-5 is trained; then

- light design: another network of the zoo with fewer multiply-adds, LeNet-300-100, trained as long;
- pruning: whole channels of the LeNet-5 removed, and trained again;
- search: LeNet-5 at four sets of widths, an epoch each; the one with the fewest multiply-adds whose validation accuracy
  is within half a point of the best is trained as long as the others;
- low bit: the LeNet-5 in INT8, calibrated on training pictures;
- distillation: the light design goes on, taught by the LeNet-5;
- efficient kernels: the LeNet-5 itself in ONNX Runtime instead of PyTorch.

All are trained for one epoch; pruning and distillation take one more. Each row: test accuracy with its interval, bytes
of the file that is delivered, multiply-adds of a picture, and the processor's time for one picture on one thread, all
in turn in one process, as a ratio to the first row. One seed. The test split is read at the end. Networks are kept in
FOLDER, so that ``--seconds N`` may stop before the next step and a second call goes on.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from danlu.analyze.counting import count
from danlu.compress import compress
from danlu.compress.base import Compressed, Subject, subject_of
from danlu.compress.dlz import build_model, write_dlz
from danlu.compress.edits import Edit, apply_edits
from danlu.compress.prune_channels import PruneChannelsSettings, prune_once
from danlu.compress.retrain import retrain, validate
from danlu.core.environment import describe_environment
from danlu.core.errors import CheckFailed
from danlu.core.files import sha256_bytes, write_json
from danlu.core.log import logger
from danlu.data.load import Data, load_data
from danlu.data.loader import Loader
from danlu.deploy.export import export
from danlu.evaluate import evaluate
from danlu.tasks.trained import open_trained
from danlu.train import train

__all__ = ["RESULTS", "main", "source_hash"]

RESULTS = Path(__file__).with_name("routes.json")
DATA, NETWORK, LIGHT = "mnist", "lenet5", "lenet_300_100"
EPOCHS, PRUNED, WIDTHS, ENOUGH, TURNS = 1, 0.4, (0.1, 0.2, 0.35, 0.6), 0.005, 60
# Route -> what is exported for it, and the artifact.
ROUTES = {
    "none": ("base", ""),
    "light design": ("light", "light.onnx"),
    "pruning": ("pruned.dlz", "pruned.onnx"),
    "search": ("search.dlz", "search.onnx"),
    "low bit": ("base", "base.int8.onnx"),
    "distillation": ("distilled.dlz", "distilled.onnx"),
    "efficient kernels": ("base", "base.onnx"),
}


def source_hash() -> str:
    """Return the hash of this file."""
    return sha256_bytes(Path(__file__).read_bytes())


def _steps(work: Path, data: Data) -> dict[str, Callable[[], Any]]:
    """Return what is to be done, in order: the file or folder that shows it is done -> how."""

    def fit(network: str, name: str) -> Callable[[], Any]:
        overrides = {"epochs": EPOCHS}
        return lambda: train(data, model=network, overrides=overrides, out=work / name, device="cpu", threads=1)

    def press(source: str, method: str, name: str, **settings: Any) -> Callable[[], Any]:
        return lambda: compress(
            work / source, method, overrides=settings, out=work / name, data=data, device="cpu", threads=1
        )

    def ship(name: str, target: str, int8: bool | None = False) -> Callable[[], Any]:
        return lambda: export(work / name, data, int8=int8, out=work / target, threads=1)

    done_with_base = ("", "base.onnx", "base.int8.onnx")
    return {
        "base": fit(NETWORK, "base"),
        "light": fit(LIGHT, "light"),
        "pruned.dlz": press("base", "prune-channels", "pruned.dlz", macs=PRUNED, epochs=EPOCHS, measure=False),
        "distilled.dlz": press("light", "distill", "distilled.dlz", teacher=str(work / "base"), epochs=EPOCHS),
        "search.dlz": lambda: _search(work, data),
        "base.onnx": ship("base", "base.onnx", None),
        **{target: ship(name, target) for name, target in ROUTES.values() if target not in done_with_base},
    }


def _search(work: Path, data: Data) -> None:
    """Train LeNet-5 at several widths for an epoch each, and the one chosen for as long as the others."""
    subject = subject_of(work / "base", data, device="cpu", threads=1)
    shape = (subject.preprocess.channels, *subject.preprocess.input_size)
    rows, edits_by = list[dict[str, Any]](), dict[float, tuple[Edit, ...]]()
    with subject.settled():
        for share in WIDTHS:
            model, edits = _narrow(subject, shape, share)
            retrain(subject, model, subject.settings.model_copy(update={"epochs": 1}), title=f"search {share}")
            found = validate(subject, model)["accuracy"]
            rows.append({"share": share, "macs": count(model, (1, *shape)).macs, "accuracy": found})
            edits_by[share] = edits
        best = max(row["accuracy"] for row in rows)
        chosen = min((row for row in rows if row["accuracy"] >= best - ENOUGH), key=lambda row: row["macs"])
        model, edits = _narrow(subject, shape, chosen["share"])
        retrain(subject, model, subject.settings.model_copy(update={"epochs": EPOCHS}), title="search, the chosen")
        done = Compressed(model, edits, {"candidates": rows, "chosen": chosen})
        write_dlz(work / "search.dlz", subject, done, "prune-channels", {"macs": chosen["share"]})
    write_json(work / "candidates.json", {"schema": 1, **done.report})


def _narrow(subject: Subject, shape: tuple[int, ...], share: float) -> tuple[Any, tuple[Edit, ...]]:
    """Return a fresh network with the same share of every layer's channels, and its edits."""
    torch.manual_seed(0)
    model = build_model(subject.build, (len(subject.classes), shape[0]), subject.name)
    settings = PruneChannelsSettings(criterion="random", scope="layer", least=0.05)
    edits, _ = prune_once(copy.deepcopy(model), shape, share, settings)  # type: ignore[arg-type]
    torch.manual_seed(0)
    apply_edits(model, edits)
    for module in model.modules():  # initialised for the width it now has
        reset: Any = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
    return model, edits


def _rows(work: Path, data: Data) -> list[dict[str, Any]]:
    from danlu.deploy.subjects import open_subject, predictor_for

    times, rows = _latencies(work, data), list[dict[str, Any]]()
    for route, (name, artifact) in ROUTES.items():
        if artifact and not (work / artifact).exists():
            rows.append({"route": route, "refused": "it does not hold its accuracy on validation"})
            continue
        trained = open_trained(work / name)
        predictor = predictor_for(open_subject(work / artifact)) if artifact else None
        source: Any = work / artifact if artifact else trained
        found = evaluate(source, data, "test", write=False, predictor=predictor)
        file = work / (artifact or "base.onnx")
        rows.append(
            {
                "route": route,
                "network": trained.model_name,
                "accuracy": found["results"]["test"]["accuracy"],
                "bytes": file.stat().st_size,
                "macs": count(trained.model, trained.input_shape).macs,
                "runtime": "ONNX Runtime" if artifact else "PyTorch",
                **times[route],
            }
        )
    return rows


def _latencies(work: Path, data: Data) -> dict[str, dict[str, float]]:
    """Return route -> milliseconds of the processor a picture, and how many times fewer than PyTorch: medians.

    The thread's own time: what else runs on the machine disturbs it less.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    base = open_trained(work / "base").picture_model
    height, width = base.preprocess.settings.picture_size
    picture = np.asarray(Loader(data.validation, (height, width), 1).pictures(np.arange(1)))
    tensor = torch.from_numpy(picture)

    def eager() -> None:
        with torch.inference_mode():
            base(tensor)

    def session(file: Path) -> Callable[[], Any]:
        opened = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        feed = {opened.get_inputs()[0].name: picture}
        return lambda: opened.run(None, feed)

    runs = {
        route: session(work / artifact) if artifact else eager
        for route, (_, artifact) in ROUTES.items()
        if not artifact or (work / artifact).exists()
    }
    seconds: dict[str, list[float]] = {route: [] for route in runs}
    for turn in range(TURNS + 3):
        for route, run in runs.items():
            begin = time.thread_time()
            for _ in range(50):
                run()
            if turn >= 3:
                seconds[route].append((time.thread_time() - begin) / 50)
    first = seconds["none"]
    return {
        route: {
            "ms": 1000 * statistics.median(own),
            "times_faster": statistics.median(a / b for a, b in zip(first, own, strict=True)),
        }
        for route, own in seconds.items()
    }


def main(arguments: list[str]) -> int:
    """Do what is left, then measure; return 1 where more is left to do."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    begin, data = time.monotonic(), load_data(DATA, seed=0)
    for target, step in _steps(options.work, data).items():
        if (options.work / target).exists():
            continue
        if time.monotonic() - begin > options.seconds:
            return 1
        started = time.monotonic()
        try:
            step()
        except CheckFailed as error:
            logger.warning("%s: %s", target, error)
        sys.stderr.write(f"{target}: {time.monotonic() - started:.0f} s\n")
    document = {
        "schema": 1,
        "source": source_hash(),
        "environment": describe_environment(),
        "settings": {"data": DATA, "network": NETWORK, "epochs": EPOCHS, "pruned": PRUNED, "seed": 0},
        "rows": _rows(options.work, data),
    }
    write_json(RESULTS, document)
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(sys.argv[1:]))
