"""Pieces of plausible records: settings, results, parity, benchmark, environment."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def result(value: float, n: int) -> dict[str, Any]:
    z, p = 1.96, value
    middle, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return {"value": p, "low": (middle - spread) / (1 + z * z / n), "high": (middle + spread) / (1 + z * z / n), "n": n}


def confusion(classes: int, each: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    matrix = np.zeros((classes, classes), dtype=np.int64)
    for true in range(classes):
        total = int(each * random.uniform(0.8, 1.2))
        wrong = random.poisson(0.018 * total) if classes <= 12 else random.poisson(0.12 * total)
        for predicted in (true + random.zipf(1.6, wrong)) % classes:
            matrix[true, predicted] += 1
        matrix[true, true] += total - matrix[true].sum()
    return matrix


def evaluation(names: list[str], matrix: np.ndarray, worst: list[dict[str, Any]]) -> dict[str, Any]:
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


def config(data: str, source: str, classes: list[str], model: str, channels: int) -> dict[str, Any]:
    return {
        "schema": 1,
        "requested": {
            "command": f"danlu run {source} --seed 0 --set epochs=20",
            "verb": "run",
            "data": source,
            "model": "auto",
            "recipe": None,
            "set": {"epochs": 20},
            "overrides": {"epochs": 20},
            "download": False,
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
                "augment": [{"name": "pad_crop", "padding": 1}],
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


def environment() -> dict[str, Any]:
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


def parity(n_validation: int, n_test: int, test_accuracy: float) -> dict[str, Any]:
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


def benchmark() -> dict[str, Any]:
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
                    "calls": 820,
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
