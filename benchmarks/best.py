"""`danlu export --best` beside eager PyTorch and the runtimes used by hand: ResNet-50 at 224², batch 32.

    python -m benchmarks.best [--batch N] [--model NAME] [--rounds N]

Four ways answer the same uint8 pictures, each in a process of its own that waits while another one is timed, in turn:

- *system*: eager float32 in a fresh process with the system's allocator settings, as a user would write it;
- *eager*: the same with the allocator settings Danlu uses (freed blocks are kept);
- *by hand*: the float32 artifact in ONNX Runtime, and OpenVINO's own conversion, INT8 by NNCF where it is there, with
  each library's default options; the quicker of them counts;
- *best*: what ``danlu export --best`` chose.

Speed does not depend on what the weights know: they are random, with batch normalisation calibrated on the pictures so
that activations have the ranges of a trained network, and the last layer set to the means of three easy classes, so
that a rounding does not decide between near ties. That accuracy is kept on a real task is another row, which needs a
ResNet-18 trained on CIFAR-10. Writes ``best.json``; rows not measured keep what was found before.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from danlu.deploy.intervals import median_interval

RESULTS = Path(__file__).with_name("best.json")
BARS = {"eager": 13.0, "system": 20.0}
PICTURES = 16


def synthetic_run(folder: Path, model: str, side: int) -> None:
    """Write a run whose network has random weights and calibrated normalisation, and the pictures it is of."""
    import safetensors.torch
    import torch
    from PIL import Image

    from danlu.core.files import sha256_file, write_json
    from danlu.data.load import load_data
    from danlu.models import create_model

    draw = np.random.default_rng(0)
    for colour, name in enumerate(("red", "green", "blue")):
        (folder / "data" / name).mkdir(parents=True)
        for place in range(PICTURES):
            small = draw.integers(0, 160, (14, 14, 3), dtype=np.uint8)
            small[..., colour] += 90
            picture = Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)
            picture.save(folder / "data" / name / f"{place:03d}.png")
    data = load_data(folder / "data")
    torch.manual_seed(0)
    network = create_model(model, num_classes=len(data.classes), in_channels=3)
    settings = {"picture_size": [side, side], "input_size": [side, side], "fit": "none", "channels": 3}
    settings |= {"mean": list(data.mean), "std": list(data.std)}
    calibrate(network, data, settings)
    checkpoint = folder / "run/checkpoints/step-000001"
    checkpoint.mkdir(parents=True)
    safetensors.torch.save_file(network.state_dict(), checkpoint / "weights.safetensors")
    hashes = {"weights.safetensors": sha256_file(checkpoint / "weights.safetensors")}
    write_json(checkpoint / "manifest.json", {"schema": 1, "step": 1, "epoch": 1, "files": hashes})
    pointers = {"schema": 1, "best": checkpoint.name, "last": checkpoint.name}
    write_json(folder / "run/checkpoints/pointers.json", pointers)
    used = {"name": data.name, "source": data.source, "hash": data.hash, "classes": list(data.classes), "seed": 0}
    described = {"name": model, "num_classes": len(data.classes), "in_channels": 3}
    effective = {"data": used, "task": "classification", "model": described, "preprocess": settings, "seed": 0}
    effective |= {"train": {}, "machine": {"threads": None}}
    write_json(folder / "run/config.json", {"schema": 1, "requested": {"model": model}, "effective": effective})


def calibrate(network: Any, data: Any, settings: dict[str, Any]) -> None:
    """Set the running statistics of every normalisation from a few pictures."""
    import torch

    from danlu.data.loader import Loader
    from danlu.deploy.benchmark import pictures_of
    from danlu.tasks.preprocess import Preprocess, PreprocessSettings

    prepare = Preprocess(PreprocessSettings(**settings))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    network.train()
    with torch.no_grad():
        for pictures in np.split(pictures_of(data, 16, settings["picture_size"], 3), 2):
            network(prepare(torch.from_numpy(pictures)))
    network.eval()
    last = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1]
    seen: list[Any] = []
    handle = last.register_forward_hook(lambda module, given, _: seen.append(given[0]))
    chosen = np.arange(len(data.train), dtype=np.int64)
    with torch.no_grad():
        network(prepare(torch.from_numpy(Loader(data.train, settings["picture_size"], 3).pictures(chosen))))
        handle.remove()
        labels = torch.from_numpy(np.asarray(data.train.labels))
        means = torch.stack([seen[0][labels == place].mean(0) for place in range(len(data.classes))])
        scale = 20 / (means @ means.T).max()  # of two classes the nearer mean wins
        last.weight.copy_(scale * means)
        last.bias.copy_(-0.5 * scale * (means * means).sum(1))


def work(way: str, folder: Path, batch: int) -> None:
    """Be a worker: answer once for each line, say the seconds."""
    pictures = np.load(folder / "pictures.npy")
    pictures = pictures[np.arange(batch) % len(pictures)]
    answer = globals()["_" + way.replace("-", "_")](folder)
    answer(pictures)
    answer(pictures)
    print("@ready", flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        answer(pictures)
        print(f"@{time.perf_counter() - begin}", flush=True)


def _eager(folder: Path) -> Any:
    from danlu.core.allocator import keep_freed_memory

    keep_freed_memory()
    return _system(folder)


def _system(folder: Path) -> Any:
    import torch

    from danlu.tasks.trained import open_trained

    trained = open_trained(folder / "run")
    network = trained.picture_model

    def answer(pictures: Any) -> Any:
        with torch.inference_mode():
            return network(torch.from_numpy(pictures)).softmax(1).numpy()

    return answer


def _best(folder: Path) -> Any:
    from danlu.deploy.opening import open_artifact

    runtime, _ = open_artifact(folder / "run/best.json")
    return lambda pictures: runtime.predict(pictures, ["probabilities"])


def _hand_onnxruntime(folder: Path) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "run/model.onnx"), providers=["CPUExecutionProvider"])
    return lambda pictures: session.run(["probabilities"], {"pictures": pictures})


def _hand_onnxruntime_int8(folder: Path) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "run/model.int8.onnx"), providers=["CPUExecutionProvider"])
    return lambda pictures: session.run(["probabilities"], {"pictures": pictures})


def _hand_openvino(folder: Path, name: str = "model.openvino") -> Any:
    from danlu.core.silence import silence

    silence()
    import openvino

    compiled = openvino.compile_model(str(folder / "run" / name / "model.xml"), "CPU")
    request = compiled.create_infer_request()

    def answer(pictures: Any) -> Any:
        request.infer({"pictures": pictures}, share_inputs=True)
        return request.get_tensor("probabilities").data.copy()

    return answer


def _hand_openvino_int8(folder: Path) -> Any:
    return _hand_openvino(folder, "model.openvino.int8")


class Worker:
    """One way in a process of its own."""

    def __init__(self, way: str, folder: Path, batch: int) -> None:
        command = [sys.executable, "-m", "benchmarks.best", "--worker", way, str(folder), "--batch", str(batch)]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "MALLOC_"))}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=kept, cwd=Path(__file__).parents[1]
        )
        self.answer()

    def answer(self) -> str:
        """Return what the worker says next."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("@"):
                return line[1:].strip()
        raise RuntimeError(f"the worker ended: {self.process.wait()}")

    def once(self) -> float:
        """Let it answer one batch; return the seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.answer())

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


def measure(folder: Path, batch: int, rounds: int) -> dict[str, Any]:
    """Time all ways in turn; return the seconds of each and how many times as fast the best is."""
    by_hand = {"hand-onnxruntime": "model.onnx", "hand-onnxruntime-int8": "model.int8.onnx"}
    by_hand |= {"hand-openvino": "model.openvino", "hand-openvino-int8": "model.openvino.int8"}
    ways = ["best", "eager", "system", *(way for way, name in by_hand.items() if (folder / "run" / name).exists())]
    workers = {way: Worker(way, folder, batch) for way in ways}
    try:
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(rounds):
            for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
                workers[way].once()  # wakes its threads and its caches
                seconds[way].append(workers[way].once())
    finally:
        for worker in workers.values():
            worker.end()
    own = np.array(seconds["best"])
    ratios = {
        way: dict(zip(("median", "low", "high"), median_interval(np.array(seconds[way]) / own), strict=True))
        for way in ways[1:]
    }
    medians = {way: float(np.median(values)) for way, values in seconds.items()}
    hand = min((way for way in ways if way.startswith("hand")), key=medians.__getitem__)
    return {
        "seconds": {way: [round(value, 5) for value in values] for way, values in seconds.items()},
        "median_ms": {way: round(1000 * value, 2) for way, value in medians.items()},
        "times_as_fast_as": ratios,
        "quickest_by_hand": hand,
        "bars": {
            way: {"asked": bar, "found": ratios[way]["median"], "met": ratios[way]["median"] >= bar}
            for way, bar in BARS.items()
        },
    }


def main() -> None:
    """Export, choose, measure side by side, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", nargs=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, help="keep the run here, and use it again where it stands")
    parser.add_argument("--stage", choices=["make", "choose", "measure", "all"], default="all")
    asked = parser.parse_args()
    if asked.worker:
        work(asked.worker[0], Path(asked.worker[1]), asked.batch)
        return
    with tempfile.TemporaryDirectory() as temporary:
        run_stages(asked, asked.folder or Path(temporary))


def run_stages(asked: argparse.Namespace, folder: Path) -> None:
    """Do the stages asked for; each can wait for a quiet moment of its own."""
    from danlu.data.load import load_data
    from danlu.deploy.benchmark import pictures_of
    from danlu.deploy.best import best
    from danlu.tasks.trained import open_trained

    if asked.stage in ("make", "all"):
        synthetic_run(folder, asked.model, asked.side)
        data = load_data(folder / "data")
        np.save(folder / "pictures.npy", pictures_of(data, min(asked.batch, 32), (asked.side, asked.side), 3))
    if asked.stage in ("choose", "all"):
        found = best(open_trained(folder / "run"), load_data(folder / "data"), batch=asked.batch, yardstick=False)
        print(json.dumps({key: found[key] for key in ("artifact", "runtime", "precision", "threads", "options")}))
    if asked.stage in ("measure", "all"):
        write(asked, folder, measure(folder, asked.batch, asked.rounds))


def write(asked: argparse.Namespace, folder: Path, found: dict[str, Any]) -> None:
    """Print the row and keep it."""
    from benchmarks.ceilings import ceilings
    from danlu.core.environment import describe_environment
    from danlu.core.files import write_json
    from danlu.deploy.machine import load_average

    chosen = json.loads((folder / "run/best.json").read_text(encoding="utf-8"))
    kept = ("artifact", "runtime", "precision", "threads", "options", "tried")
    row = {"weights": "random, normalisation calibrated", "load": load_average(), "ceilings": ceilings(), **found}
    row["chosen"] = {key: chosen[key] for key in kept}
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.exists() else {}
    rows[f"{asked.model}-{asked.side}-batch{asked.batch}"] = row
    not_run = "not run at full budget: needs a ResNet-18 trained on CIFAR-10 to the end of its recipe"
    rows.setdefault("accuracy kept, resnet18_cifar on cifar10", {"state": not_run})
    write_json(RESULTS, {"schema": 1, "environment": describe_environment(), "rows": rows})
    for way, ratio in found["times_as_fast_as"].items():
        bar = f", asked {BARS[way]:g}" if way in BARS else ""
        print(f"{way:<22} {ratio['median']:.2f}× ({ratio['low']:.2f}–{ratio['high']:.2f}){bar}")


if __name__ == "__main__":
    main()
