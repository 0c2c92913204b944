"""Run folders with plausible records, written by hand: what the report's tests read."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from danlu.core.files import write_json
from danlu.core.records import RunFolder
from tests.report.records import LAYERS, benchmark, config, confusion, environment, evaluation, parity, result

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


def write_full_run(folder: Path) -> RunFolder:
    """Write the run of a good day: LeNet-5 on the ten digits, every section there."""
    run = RunFolder(folder)
    folder.mkdir(parents=True)
    write_json(run.config_path, config("digits", "digits", DIGITS, "lenet5", 1))
    _write_log(run, epochs=20, per_epoch=18, classes=10, seed=1)
    matrix = confusion(10, 36, seed=3)
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
                "accuracy": result(0.9896, 288),
                "cross_entropy": {"value": 0.0612, "low": None, "high": None, "n": 288},
            },
            "test": {
                "accuracy": result(np.trace(matrix) / n, n),
                "cross_entropy": {"value": 0.0744, "low": None, "high": None, "n": n},
            },
        },
        evaluation=evaluation(DIGITS, matrix, worst),
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
        export={"tolerance": 1e-4, "quantisation": {"calibration_pictures": 512, "seconds": 1.9}, "threads": 2},
        parity=parity(288, n, float(np.trace(matrix)) / n),
        benchmark=benchmark(),
        environment=environment(),
    )
    return run


def write_nasty_run(folder: Path) -> RunFolder:
    """Write a run of 120 classes, some with hostile names, problems found, INT8 refused, several sections absent."""
    names = [*HOSTILE, *(f"class {i:03d}" for i in range(120 - len(HOSTILE)))]
    run = RunFolder(folder)
    folder.mkdir(parents=True)
    settings = config("<img src=http://evil.example/x.png>", "my pictures & 我的图片", names, "resnet20", 3)
    settings["requested"]["command"] = [
        "danlu",
        "run",
        "my pictures & 我的图片",
        "--set",
        "x=</script><script>alert(5)",
    ]
    write_json(run.config_path, settings)
    _write_log(run, epochs=3, per_epoch=40, classes=120, seed=2)
    matrix = confusion(120, 24, seed=5)
    matrix[:, 11] = 0
    write_png(run.pictures / "worst-00.png", "?", 40, seed=9)
    worst = [
        {"id": names[i], "true": names[i], "predicted": names[i + 1], "probability": 0.9, "loss": 3.0, "picture": where}
        for i, where in enumerate(
            ["pictures/worst-00.png", "../../../etc/hostname", "pictures/none.png", "/etc/passwd"]
        )
    ]
    n = int(matrix.sum())
    proof = parity(700, n, float(np.trace(matrix)) / n)
    proof["int8"] |= {"delivered": False, "reason": "loses <b>2.9</b> points on validation, 0.5 are allowed"}
    proof["int8"]["layers"] = [{"layer": name, "error": 0.5 / (i + 1)} for i, name in enumerate(HOSTILE)]
    proof["fp32"]["stages"] = [
        {"stage": name or "?", "max_abs": 1e-4, "relative": 10.0 ** (i - 8) if i else None}
        for i, name in enumerate(HOSTILE[:6])
    ]
    proof["fp32"]["first_bad_stage"] = HOSTILE[5]
    run.update_record(
        data={
            "name": settings["effective"]["data"]["name"],
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
        results={"test": {"accuracy": result(float(np.trace(matrix)) / n, n)}},
        evaluation=evaluation(names, matrix, worst),
        artifacts={
            "fp32": {"file": "model.onnx", "bytes": 1_120_004, "sha256": "ab12" * 16},
            "int8": {"file": None, "bytes": None, "sha256": None},
        },
        parity=proof,
    )
    return run


def write_bare_run(folder: Path) -> RunFolder:
    """Write a run of which nothing but the settings is recorded."""
    run = RunFolder(folder)
    folder.mkdir(parents=True)
    write_json(run.config_path, {"schema": 1, "requested": {}, "effective": {}})
    return run
