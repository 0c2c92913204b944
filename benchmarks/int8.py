"""INT8 on one core at batch 1: our choice against what the stock tools give, on one trained network in one run.

    python -m benchmarks.int8 RUN [--rounds 40]

RUN is a trained classifier on CIFAR-10 or on any folder of pictures; the row of the issue is ResNet-18 (CIFAR). The
contestants: ONNX Runtime float32; ONNX Runtime's ``quantize_static`` with its defaults; NNCF's ``quantize`` with its
defaults in OpenVINO with its defaults; pt2e with the x86 quantiser where it runs; ours in ONNX Runtime and in OpenVINO,
and of these two the faster one that keeps its accuracy on validation. Rounds are interleaved; a ratio is taken within
a round.
Writes ``benchmarks/int8.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from danlu.compress.quantize import quantize_onnx
from danlu.compress.quantize_openvino import quantize_openvino
from danlu.core.silence import silence
from danlu.data.loader import Loader
from danlu.deploy.capture import PREPROCESS_STAGE, STAGE_PREFIX, capture
from danlu.deploy.graph_parts import with_outputs
from danlu.deploy.intervals import median_interval
from danlu.single import data_of
from danlu.tasks.trained import Trained, open_trained

Pictures = Any
Answer = Callable[[Pictures], Any]
STOCK = ("onnxruntime int8, defaults", "openvino int8, defaults", "torch pt2e int8")
OURS = ("ours, onnxruntime int8", "ours, openvino int8")
FLOAT = "onnxruntime fp32"
CALLS, LARGEST_LOSS = 3, 0.003


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--most", type=int, default=2000, help="pictures of validation to measure accuracy on")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    trained = open_trained(given.run)
    data = data_of(trained.run)
    settings = trained.preprocess.settings
    loader = Loader(data.validation, settings.picture_size, settings.channels)
    chosen = np.arange(min(given.most, len(data.validation)), dtype=np.int64)
    with tempfile.TemporaryDirectory() as folder:
        batches = _calibration(trained, data)
        runners, absent = _contestants(trained, batches, Path(folder))
        accuracies = {name: _accuracy(answer, loader, chosen, data) for name, answer in runners.items()}
        seconds = _measure(runners, loader.pictures(chosen[:1]), given.rounds)
    document = _document(given, trained, data, seconds, accuracies, absent, len(chosen))
    given.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for row in document["rows"]:
        print(f"{row['name']:32s} {row['median_ms']:8.3f} ms  accuracy {100 * row['accuracy']:.2f} %")
    print(json.dumps(document["verdict"], indent=1))


def _calibration(trained: Trained, data: Any) -> list[Pictures]:
    settings = trained.preprocess.settings
    loader = Loader(data.train, settings.picture_size, settings.channels)
    return [loader.pictures(np.arange(k, k + 32, dtype=np.int64)) for k in range(0, min(256, len(data.train)), 32)]


def _contestants(trained: Trained, batches: list[Pictures], folder: Path) -> tuple[dict[str, Answer], dict[str, str]]:
    import onnx

    model = with_outputs(capture(trained), ["logits"])
    source = folder / "float.onnx"
    onnx.save(model, source)
    _stock_onnx(source, folder / "stock.onnx", batches)
    first = STAGE_PREFIX + PREPROCESS_STAGE
    quantize_onnx(source, folder / "ours.onnx", batches, float_until=first)
    _stock_openvino(source, folder / "stock-ov", batches)
    quantize_openvino(source, batches, folder / "ours-ov")
    runners: dict[str, Answer] = {
        FLOAT: _onnx(source),
        STOCK[0]: _onnx(folder / "stock.onnx"),
        STOCK[1]: _openvino(folder / "stock-ov" / "model.xml", {}),
        OURS[0]: _onnx(folder / "ours.onnx"),
        OURS[1]: _openvino(folder / "ours-ov" / "model.xml", {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}),
    }
    absent = {}
    try:
        runners[STOCK[2]] = _pt2e(trained, batches)
    except Exception as error:  # it is a peer: whatever stops it is part of the record
        absent[STOCK[2]] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return runners, absent


def _stock_onnx(source: Path, target: Path, batches: list[Pictures]) -> None:
    import logging

    import onnxruntime.quantization as tools
    from onnxruntime.quantization.shape_inference import quant_pre_process

    logging.getLogger().setLevel(logging.ERROR)
    ready = target.with_name("ready.onnx")
    quant_pre_process(str(source), str(ready))

    class Reader(tools.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> Any:
            batch = next(self.left, None)
            return None if batch is None else {"fitted": batch}

    tools.quantize_static(str(ready), str(target), Reader())


def _stock_openvino(source: Path, target: Path, batches: list[Pictures]) -> None:
    silence()
    import nncf
    import openvino as ov

    model = nncf.quantize(ov.Core().read_model(str(source)), nncf.Dataset(batches))
    ov.save_model(model, str(target / "model.xml"))


def _onnx(path: Path) -> Answer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda pictures: session.run(["logits"], {"fitted": pictures})[0]


def _openvino(path: Path, more: dict[str, str]) -> Answer:
    silence()
    import openvino as ov

    core = ov.Core()
    compiled = core.compile_model(core.read_model(str(path)), "CPU", {"INFERENCE_NUM_THREADS": "1", **more})
    request = compiled.create_infer_request()
    return lambda pictures: request.infer([pictures], share_inputs=True)[compiled.output(0)].copy()


def _pt2e(trained: Trained, batches: list[Pictures]) -> Answer:
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    network = trained.picture_model
    example = torch.from_numpy(batches[0][:1].copy())
    exported = torch.export.export(network, (example,)).module()
    quantiser = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(exported, quantiser)
    for picture in batches[0]:
        prepared(torch.from_numpy(picture[None].copy()))
    with torch.no_grad():
        compiled = torch.compile(convert_pt2e(prepared))
        compiled(example)

    def answer(pictures: Pictures) -> Any:
        with torch.no_grad():
            return np.concatenate([compiled(torch.from_numpy(p[None].copy())).numpy() for p in pictures])

    return answer


def _accuracy(answer: Answer, loader: Loader, chosen: Any, data: Any) -> float:
    rows = [answer(loader.pictures(chosen[k : k + 50])) for k in range(0, len(chosen), 50)]
    labels = np.asarray(data.validation.labels)[chosen]
    return float((np.concatenate(rows).argmax(axis=1) == labels).mean())


def _measure(runners: dict[str, Answer], picture: Pictures, rounds: int) -> dict[str, Any]:
    names = list(runners)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        for _ in range(5):
            runners[name](picture)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            runners[name](picture)
            times = []
            for _ in range(CALLS):
                begin = time.perf_counter()
                runners[name](picture)
                times.append(time.perf_counter() - begin)
            seconds[name].append(float(np.median(times)))
    return {name: np.array(values) for name, values in seconds.items()}


def _document(
    given: Any, trained: Trained, data: Any, seconds: Any, accuracies: Any, absent: Any, pictures: int
) -> dict[str, Any]:
    kept = [n for n in OURS if accuracies[n] >= accuracies[FLOAT] - LARGEST_LOSS]
    ours = min(kept or OURS, key=lambda name: float(np.median(seconds[name])))
    stock = min((n for n in STOCK if n in seconds), key=lambda name: float(np.median(seconds[name])))
    ratio, low, high = median_interval(seconds[stock] / seconds[ours])
    over_float = median_interval(seconds[FLOAT] / seconds[ours])
    return {
        "command": f"python -m benchmarks.int8 {given.run} --rounds {given.rounds}",
        "status": "not run at full budget",
        "network": trained.model_name,
        "data": {"name": data.name, "train": len(data.train)},
        "machine": {"processor": platform.processor() or platform.machine(), "threads": 1, "batch": 1},
        "rows": [
            {
                "name": name,
                "median_ms": 1000 * float(np.median(values)),
                "accuracy": accuracies[name],
                "rounds": len(values),
            }
            for name, values in seconds.items()
        ],
        "absent": absent,
        "accuracy_pictures": pictures,
        "verdict": {
            "ours": ours,
            "best_stock": stock,
            "times_as_fast_as_best_stock": {"value": ratio, "low": low, "high": high},
            "times_as_fast_as_onnxruntime_fp32": dict(zip(("value", "low", "high"), over_float, strict=True)),
            "accuracy_kept": bool(kept),
        },
    }


if __name__ == "__main__":
    main()
