"""Run folders with plausible records, written by hand: what the report's tests read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from danlu.core.files import write_json
from danlu.core.records import RunFolder

DIGITS = [str(i) for i in range(10)]
HOSTILE = [
    "<script>alert(1)</script>",
    "</style><img src=x onerror=alert(2)>",
    '" onmouseover="alert(3)',
    "=cmd()|' /C calc'!A0",
    "../../etc/passwd",
    "{{ 7 * 7 }}{% raw %}",
    "🦊🧑‍🚀 astronaut fox",
    "白菜炖粉条和一个非常非常长的中文类别名称用来测试截断",
    "x" * 10_000,
    "\u202egnp.exe",
    "bell\x07 and\nline",
    "&amp; &lt;b&gt;",
    "javascript:alert(4)",
    "http://example.com/evil.js",
    "naïve café Ωμέγα",
    "عربي قطة",
    "]]><!--",
    "",
]


def write_png(path: Path, text: str, size: int, seed: int) -> None:
    """Write a small grey picture of ``text`` with noise."""
    random = np.random.default_rng(seed)
    picture = Image.new("L", (size, size), 12)
    ImageDraw.Draw(picture).text((size * 0.32, size * 0.18), text, fill=235, font_size=size * 0.62)
    noisy = np.clip(np.asarray(picture, dtype=np.int64) + random.integers(-10, 26, (size, size)), 0, 255)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noisy.astype(np.uint8)).save(path)


def _result(value: float, n: int) -> dict[str, Any]:
    z, p = 1.96, value
    middle, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return {"value": p, "low": (middle - spread) / (1 + z * z / n), "high": (middle + spread) / (1 + z * z / n), "n": n}


def _confusion(classes: int, each: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    matrix = np.zeros((classes, classes), dtype=np.int64)
    for true in range(classes):
        total = int(each * random.uniform(0.8, 1.2))
        wrong = random.poisson(0.018 * total) if classes <= 12 else random.poisson(0.12 * total)
        for predicted in (true + random.zipf(1.6, wrong)) % classes:
            matrix[true, predicted] += 1
        matrix[true, true] += total - matrix[true].sum()
    return matrix


def _evaluation(names: list[str], matrix: np.ndarray, worst: list[dict[str, Any]]) -> dict[str, Any]:
    rows = []
    for i, name in enumerate(names):
        hit, support, predicted = int(matrix[i, i]), int(matrix[i].sum()), int(matrix[:, i].sum())
        precision, recall = hit / predicted if predicted else 0.0, hit / support if support else 0.0
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        rows.append(
            {
                "class": name,
                "precision": precision,
                "recall": recall,
                "f1": f1,
                "support": support,
                "predicted": predicted,
            }
        )
    return {"split": "test", "confusion": matrix.tolist(), "classes": names, "per_class": rows, "worst": worst}


def _write_log(run: RunFolder, epochs: int, per_epoch: int, classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    lines = []
    for step in range(1, epochs * per_epoch + 1):
        at = step / (epochs * per_epoch)
        rate = 0.1 * min(1.0, at / 0.1) * 0.5 * (1 + math.cos(math.pi * max(0.0, at - 0.1) / 0.9))
        loss = 0.05 + math.log(classes) * math.exp(-9 * at)
        lines.append(
            {
                "kind": "step",
                "step": step,
                "epoch": (step - 1) // per_epoch,
                "loss": float(loss * random.lognormal(0, 0.18)),
                "lr": rate,
            }
        )
        if step % per_epoch == 0:
            wobble = float(random.normal(0, 0.004 * (1 - at) + 0.0008))
            accuracy = 1 - 0.006 - 0.85 * math.exp(-11 * at)
            lines.append(
                {
                    "kind": "epoch",
                    "epoch": step // per_epoch - 1,
                    "step": step,
                    "lr": rate,
                    "train": {"loss": loss, "accuracy": min(1.0, accuracy)},
                    "validation": {"loss": loss * 1.15 + 0.03, "accuracy": min(0.99, accuracy - 0.008 + wobble)},
                    "seconds": 0.41,
                    "pictures_per_second": float(2_900 * random.normal(1, 0.03)),
                }
            )
    run.log_path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _config(data: str, source: str, classes: list[str], model: str, channels: int) -> dict[str, Any]:
    return {
        "schema": 1,
        "requested": {
            "command": ["danlu", "run", source, "--seed", "0", "--set", "epochs=20"],
            "verb": "run",
            "data": source,
            "model": "auto",
            "recipe": None,
            "overrides": {"epochs": 20},
            "seed": 0,
            "device": "auto",
            "threads": None,
            "int8": None,
            "lang": None,
        },
        "effective": {
            "data": {
                "name": data,
                "source": source,
                "hash": "9f2c" * 16,
                "classes": classes[:3],
                "seed": 0,
                "sizes": {"train": 1149, "validation": 288, "test": 360},
            },
            "task": "classification",
            "model": {"name": model, "num_classes": len(classes), "in_channels": channels},
            "preprocess": {
                "picture_size": [8, 8],
                "input_size": [32, 32],
                "fit": "resize",
                "channels": channels,
                "mean": [0.3053],
                "std": [0.3762],
            },
            "train": {
                "epochs": 20,
                "batch_size": 64,
                "label_smoothing": 0.05,
                "augment": {"crop": 1, "flip": False},
                "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0005},
                "schedule": {"name": "cosine", "warmup_share": 0.1},
            },
            "machine": {"device": "cpu", "threads": 2, "precision": "bf16", "channels_last": True},
            "seed": 0,
        },
        "why": {
            "model": "one channel of 8 × 8 pixels and 10 classes: the smallest network that fits",
            "precision": "the processor multiplies bfloat16 matrices (amx_bf16)",
            "threads": "2 threads were the fastest of 1, 2 in a short measurement",
        },
    }


def _environment() -> dict[str, Any]:
    return {
        "danlu": "0.1.0",
        "python": "3.11.9",
        "system": "Linux 6.8.0",
        "machine": "x86_64",
        "processor": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
        "cores": 2,
        "encoding": "utf-8",
        "cpu_features": ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"],
        "packages": {
            "torch": "2.14.1",
            "numpy": "2.4.6",
            "pillow": "12.1.0",
            "onnx": "1.20.0",
            "onnxruntime": "1.24.1",
            "onnxscript": "0.5.7",
            "safetensors": "0.7.0",
            "pydantic": "2.12.5",
        },
    }


LAYERS = [
    ("c1", "Conv2d", [1, 6, 28, 28], 156, 117_600, 3.1e-5),
    ("tanh1", "Tanh", [1, 6, 28, 28], 0, 0, 1.2e-5),
    ("s2", "AvgPool2d", [1, 6, 14, 14], 0, 0, 9e-6),
    ("c3", "Conv2d", [1, 16, 10, 10], 2_416, 240_000, 4.4e-5),
    ("tanh3", "Tanh", [1, 16, 10, 10], 0, 0, 8e-6),
    ("s4", "AvgPool2d", [1, 16, 5, 5], 0, 0, 6e-6),
    ("c5", "Conv2d", [1, 120, 1, 1], 48_120, 48_000, 3.6e-5),
    ("f6", "Linear", [1, 84], 10_164, 10_080, 1.4e-5),
    ("output", "Linear", [1, 10], 850, 840, 8e-6),
]


def _parity(n_validation: int, n_test: int, test_accuracy: float) -> dict[str, Any]:
    def row(n: int, difference: float, relative: float, flips: int, a: float, b: float, passed: bool) -> dict[str, Any]:
        return {
            "n": n,
            "max_abs_logit_difference": difference,
            "relative": relative,
            "flips": flips,
            "ties": 0,
            "accuracy_a": a,
            "accuracy_b": b,
            "accuracy_difference": b - a,
            "passed": passed,
        }

    stages = [("conv1", 2.4e-6, 1.8e-7), ("conv2", 4.1e-6, 3.3e-7), ("conv3", 5.2e-6, 4.1e-7), ("fc1", 6e-6, 4.4e-7)]
    return {
        "fp32": {
            "validation": row(n_validation, 7.6e-6, 5.1e-7, 0, 0.9896, 0.9896, True),
            "test": row(n_test, 8.1e-6, 5.4e-7, 0, test_accuracy, test_accuracy, True),
            "stages": [{"stage": s, "max_abs": a, "relative": r} for s, a, r in stages],
            "first_bad_stage": None,
        },
        "int8": {
            "validation": row(n_validation, 0.41, 0.027, 1, 0.9896, 0.9861, True),
            "test": row(n_test, 0.44, 0.029, 1, test_accuracy, test_accuracy - 1 / n_test, True),
            "delivered": True,
            "reason": "loses 0.35 points on validation, 0.69 are allowed",
            "layers": [
                {"layer": "conv1", "error": 0.021},
                {"layer": "conv2", "error": 0.016},
                {"layer": "fc2", "error": 0.011},
                {"layer": "conv3", "error": 0.008},
                {"layer": "fc1", "error": 0.0042},
            ],
        },
        "in_graph_resize": {"n": 32, "max_probability_difference": 0.0042, "flips": 0},
    }


def _benchmark() -> dict[str, Any]:
    rows, figures = (
        [],
        {
            1: {
                "pytorch eager": (0.412, 0.455, 0.61),
                "onnxruntime fp32": (0.0612, 0.0671, 0.093),
                "onnxruntime int8": (0.0388, 0.0431, 0.072),
            },
            32: {
                "pytorch eager": (2.31, 2.52, 3.02),
                "onnxruntime fp32": (1.18, 1.27, 1.66),
                "onnxruntime int8": (0.704, 0.75, 1.1),
            },
        },
    )
    ratios = []
    for batch, runtimes in figures.items():
        for runtime, (median, p90, p99) in runtimes.items():
            rows.append(
                {
                    "runtime": runtime,
                    "precision": runtime[-4:] if "onnx" in runtime else "fp32",
                    "batch": batch,
                    "median_ms": median,
                    "p90_ms": p90,
                    "p99_ms": p99,
                    "pictures_per_second": 1000 * batch / median,
                }
            )
        for a, b in (
            ("pytorch eager", "onnxruntime fp32"),
            ("pytorch eager", "onnxruntime int8"),
            ("onnxruntime fp32", "onnxruntime int8"),
        ):
            value = runtimes[a][0] / runtimes[b][0]
            ratios.append({"a": a, "b": b, "batch": batch, "median": value, "low": 0.93 * value, "high": 1.06 * value})
    return {
        "threads": 2,
        "settings": {"repeats": 41, "calls_per_repeat": 20, "warmup": 20},
        "rows": rows,
        "ratios": ratios,
    }


def write_full_run(folder: Path) -> RunFolder:
    """Write the run of a good day: LeNet-5 on the ten digits, every section there."""
    run = RunFolder(folder)
    folder.mkdir(parents=True)
    write_json(run.config_path, _config("digits", "digits", DIGITS, "lenet5", 1))
    _write_log(run, epochs=20, per_epoch=18, classes=10, seed=1)
    matrix = _confusion(10, 36, seed=3)
    for i in range(12):
        write_png(run.pictures / f"worst-{i:02d}.png", str(i % 10), 28, seed=i)
    worst = [
        {
            "id": f"digits/{100 + 7 * i}",
            "true": str(i % 10),
            "predicted": str((i * 3 + 1) % 10),
            "probability": 0.97 - 0.05 * i,
            "loss": 4.2 - 0.3 * i,
            "picture": f"pictures/worst-{i:02d}.png",
        }
        for i in range(12)
    ]
    grid = Image.new("L", (16 * 29, 4 * 29), 255)
    for i in range(64):
        write_png(folder / "one.png", str(i * 7 % 10), 28, seed=100 + i)
        grid.paste(Image.open(folder / "one.png"), (i % 16 * 29, i // 16 * 29))
    (folder / "one.png").unlink()
    grid.save(run.pictures / "augmented.png")
    n = int(matrix.sum())
    counts = {
        "train": [114 + i % 5 for i in range(10)],
        "validation": [28 + i % 3 for i in range(10)],
        "test": matrix.sum(axis=1).tolist(),
    }
    run.update_record(
        command=None,
        stages=[
            {"name": name, "seconds": s}
            for name, s in (
                ("data", 0.21),
                ("train", 12.4),
                ("evaluate", 0.62),
                ("analyze", 0.35),
                ("export", 9.8),
                ("benchmark", 8.1),
                ("report", 0.1),
            )
        ],
        data={
            "name": "digits",
            "source": "digits",
            "classes": DIGITS,
            "hash": "9f2c" * 16,
            "counts": counts,
            "sizes": {"train": sum(counts["train"]), "validation": sum(counts["validation"]), "test": n},
            "test_given": False,
            "seed": 0,
            "problems": {"count": 0, "first": []},
            "warnings": {"count": 0, "first": []},
            "duplicates": {"count": 0, "first": []},
            "picture": {"height": 8, "width": 8, "channels": 1, "uniform": True},
            "mean": [0.3053],
            "std": [0.3762],
            "licence": "CC BY 4.0",
            "citation": "E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits. UCI, 1998.",
        },
        train={
            "epochs": 20,
            "steps": 360,
            "seconds": 11.9,
            "pictures_per_second": 2_874.0,
            "best_epoch": 16,
            "best": {"accuracy": 0.9896},
            "resumed": 0,
            "finished": "2026-01-31T09:05:07Z",
        },
        results={
            "validation": {
                "accuracy": _result(0.9896, 288),
                "cross_entropy": {"value": 0.0612, "low": None, "high": None, "n": 288},
            },
            "test": {
                "accuracy": _result(np.trace(matrix) / n, n),
                "cross_entropy": {"value": 0.0744, "low": None, "high": None, "n": n},
            },
        },
        evaluation=_evaluation(DIGITS, matrix, worst),
        analysis={
            "parameters": 61_706,
            "macs": 416_520,
            "weight_bytes": 246_824,
            "activation_bytes": 34_560,
            "peak_activation_bytes": 22_912,
            "seconds": 2.6e-4,
            "threads": 2,
            "repeats": 9,
            "input": [1, 1, 32, 32],
            "layers": [
                dict(zip(("name", "type", "output", "parameters", "macs", "seconds"), layer, strict=True))
                for layer in LAYERS
            ],
        },
        artifacts={
            "fp32": {"file": "model.onnx", "bytes": 253_120, "sha256": "ab12" * 16},
            "int8": {"file": "model.int8.onnx", "bytes": 79_410, "sha256": "cd34" * 16},
        },
        export={"quantisation": {"calibration_pictures": 512, "seconds": 1.9}, "threads": 2},
        parity=_parity(288, n, float(np.trace(matrix)) / n),
        benchmark=_benchmark(),
        environment=_environment(),
    )
    return run


def write_nasty_run(folder: Path) -> RunFolder:
    """Write a run of 120 classes, some with hostile names, problems found, INT8 refused, several sections absent."""
    names = [*HOSTILE, *(f"class {i:03d}" for i in range(120 - len(HOSTILE)))]
    run = RunFolder(folder)
    folder.mkdir(parents=True)
    config = _config("<img src=http://evil.example/x.png>", "my pictures & 我的图片", names, "resnet20", 3)
    config["requested"]["command"] = ["danlu", "run", "my pictures & 我的图片", "--set", "x=</script><script>alert(5)"]
    write_json(run.config_path, config)
    _write_log(run, epochs=3, per_epoch=40, classes=120, seed=2)
    matrix = _confusion(120, 24, seed=5)
    matrix[:, 11] = 0
    write_png(run.pictures / "worst-00.png", "?", 40, seed=9)
    worst = [
        {"id": names[i], "true": names[i], "predicted": names[i + 1], "probability": 0.9, "loss": 3.0, "picture": where}
        for i, where in enumerate(
            ["pictures/worst-00.png", "../../../etc/hostname", "pictures/none.png", "/etc/passwd"]
        )
    ]
    n = int(matrix.sum())
    parity = _parity(700, n, float(np.trace(matrix)) / n)
    parity["int8"] |= {"delivered": False, "reason": "loses <b>2.9</b> points on validation, 0.5 are allowed"}
    parity["int8"]["layers"] = [{"layer": name, "error": 0.5 / (i + 1)} for i, name in enumerate(HOSTILE)]
    parity["fp32"]["stages"] = [
        {"stage": name or "?", "max_abs": 1e-4, "relative": 10.0 ** (i - 8) if i else None}
        for i, name in enumerate(HOSTILE[:6])
    ]
    parity["fp32"]["first_bad_stage"] = HOSTILE[5]
    run.update_record(
        data={
            "name": config["effective"]["data"]["name"],
            "source": "my pictures & 我的图片",
            "classes": names,
            "hash": "77aa" * 16,
            "sizes": {"train": 12_000, "validation": 700, "test": n},
            "test_given": True,
            "counts": {
                "train": [3 + 900 // (i + 1) for i in range(120)],
                "validation": [6] * 120,
                "test": matrix.sum(axis=1).tolist(),
            },
            "problems": {
                "count": 431,
                "first": [{"id": f"{names[i % 18]}/{i}.jpg", "reason": "truncated <jpeg>"} for i in range(200)],
            },
            "warnings": {"count": 1, "first": [{"id": names[0], "reason": "<b>odd</b> name"}]},
            "duplicates": {"count": 64, "first": [[f"train/{names[0]}.png", "test/b.png"]]},
            "picture": {"height": 375, "width": 500, "channels": 3, "uniform": False},
            "mean": [0.48, 0.45, 0.41],
            "std": [0.26, 0.25, 0.27],
            "licence": None,
            "citation": "</script><script>alert(6)</script>",
        },
        results={"test": {"accuracy": _result(float(np.trace(matrix)) / n, n)}},
        evaluation=_evaluation(names, matrix, worst),
        artifacts={
            "fp32": {"file": "model.onnx", "bytes": 1_120_004, "sha256": "ab12" * 16},
            "int8": {"file": None, "bytes": None, "sha256": None},
        },
        parity=parity,
    )
    return run


def write_bare_run(folder: Path) -> RunFolder:
    """Write a run of which nothing but the settings is recorded."""
    run = RunFolder(folder)
    folder.mkdir(parents=True)
    write_json(run.config_path, {"schema": 1, "requested": {}, "effective": {}})
    return run
