"""Compress the LeNets on real MNIST from nothing, and write down what came of it.

    python -m proof.compression lenet300 [--seeds 5] [--first-seed 0] [--out FOLDER]
    python -m proof.compression lenet5

For each seed: 60,000 training pictures are split into 55,000 and 5,000; the dense network is trained on the first,
compressed by ``entropy`` with everything chosen on the second; the one file is then opened by the test set once. The
results of all seeds go to ``proof/compression.json``, each row with a hash of the source it proves.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from danlu.core import log, seeds
from danlu.core.errors import InputError
from danlu.core.files import read_json, write_json
from danlu.data.load import Data, load_data
from danlu.data.sample import ArrayDataset

__all__ = [
    "ROWS",
    "WAITING",
    "Row",
    "check_kept",
    "main",
    "rebuild",
    "selection",
    "source_hash",
    "summary",
    "table",
    "with_table",
    "write_pages",
]

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).with_name("compression.json")
VALIDATION = 5_000
SEEDS = 5
# What the numbers depend on, beside the training itself and the row: the method, its coders and the file.
SOURCES = (
    "danlu/compress/base.py",
    "danlu/compress/container.py",
    "danlu/compress/dlz.py",
    "danlu/compress/entropy.py",
    "danlu/compress/retrain.py",
    "danlu/compress/codings",
)
_AFFINE = {"name": "affine", "degrees": 10, "translate": [0.08, 0.08], "scale": [0.92, 1.08], "shear": [5, 0]}


@dataclass(frozen=True)
class Row:
    """One network: how it is trained and compressed, and what it must reach.

    Attributes:
        model: its registered name.
        train: settings of the dense training.
        method: the compression method.
        settings: of the method.
        must: (least ratio, largest test error in per cent).
        reach: (largest bytes, largest test error in per cent), the first goal first.
        paper: what is published: ratio, bytes, test error in per cent, source.
    """

    model: str
    train: Mapping[str, Any]
    method: str
    settings: Mapping[str, Any]
    must: tuple[float, float]
    reach: tuple[tuple[int, float], ...]
    paper: Mapping[str, Any]


_DENSE = {
    "batch_size": 256,
    "optimizer.name": "adam",
    "optimizer.lr": 3e-3,
    "schedule.name": "cosine",
    "schedule.warmup": 0.05,
    "precision": "fp32",
    "kernels": "library",
    "label_smoothing": 0.0,
    "augment": [_AFFINE],
}
_SMALL = {**_DENSE, "epochs": 10, "batch_size": 128, "optimizer.lr": 2e-3, "precision": "auto"}
_HAN = "Han, Mao, Dally 2016, table 1"
_COMMON = {"step": 0.7, "soft": 0.9, "optimizer.lr": 3e-3}
# The first row of a network is quick and must hold; the second one is trained for longer towards the least bytes.
ROWS = {
    "lenet300": Row(
        model="lenet_300_100",
        train={**_DENSE, "epochs": 10},
        method="entropy",
        settings={**_COMMON, "epochs": 5, "rate": 3.0},
        must=(40.0, 1.64),
        reach=(),
        paper={"ratio": 40, "bytes": 27_000, "error": 1.58, "source": _HAN},
    ),
    "lenet300-least": Row(
        model="lenet_300_100",
        train={**_DENSE, "epochs": 10},
        method="entropy",
        settings={**_COMMON, "epochs": 24, "rate": 8.0},
        must=(40.0, 1.64),
        reach=((8_600, 1.90), (6_000, 1.64)),
        paper={"ratio": 40, "bytes": 27_000, "error": 1.58, "source": _HAN},
    ),
    "lenet5": Row(
        model="lenet5_caffe",
        train=_SMALL,
        method="entropy",
        settings={**_COMMON, "epochs": 8, "rate": 0.5},
        must=(39.0, 0.80),
        reach=(),
        paper={"ratio": 39, "bytes": 44_000, "error": 0.74, "source": _HAN},
    ),
    "lenet5-least": Row(
        model="lenet5_caffe",
        train=_SMALL,
        method="entropy",
        settings={**_COMMON, "epochs": 10, "rate": 12.0},
        must=(39.0, 0.80),
        reach=((10_644, 0.80), (3_107, 0.80)),
        paper={"ratio": 39, "bytes": 44_000, "error": 0.74, "source": _HAN},
    ),
}

# What this machine's data and time do not suffice for: row, paper, what is asked, why it waits, what runs it.
WAITING = (
    ("VGG-16, CIFAR-10", "49× on ImageNet", "≥ 49×", "budget", "danlu compress entropy RUN"),
    ("ResNet-56, CIFAR-10", "2.1–2.6×", "≥ 2.1×, 1.6×", "budget", "python -m proof.resnet56"),
    ("ResNet-18, CIFAR-10, INT8", "–", "≥ 1.0×", "budget", "python -m benchmarks.int8 RUN"),
    ("AlexNet", "35×, 6.9 MB", "–", "imagenet", "danlu compress deep RUN"),
    ("VGG-16", "49×, 11.3 MB", "–", "imagenet", "danlu compress deep RUN"),
)


def selection(seed: int) -> Data:
    """Return MNIST with its 60,000 training pictures split by ``seed`` into 55,000 and 5,000."""
    data = load_data("mnist", seed=seed)
    # The two parts as they were drawn for all users, put together again and drawn anew at other sizes.
    pictures = np.concatenate([_pictures(part) for part in (data.train, data.validation)])
    labels = np.concatenate([data.train.labels, data.validation.labels])
    ids = [*data.train.ids, *data.validation.ids]
    whole = ArrayDataset(pictures, labels, ids, data.classes)
    order = seeds.permutation(len(whole), "proof/compression", seed)
    return replace(
        data,
        train=whole.take(np.sort(order[VALIDATION:])),
        validation=whole.take(np.sort(order[:VALIDATION])),
        # Another split than the one everybody draws: a validation on that one is refused as partly trained on.
        seed=2**40 + seed,
    )


def _pictures(part: Any) -> Any:
    return np.stack([np.asarray(part[index].picture) for index in range(len(part))])


def rebuild(row: Row, seed: int, folder: Path, threads: int = 1) -> dict[str, Any]:
    """Train, compress and measure once.

    Args:
        row: which network.
        seed: of split, initialisation and every draw.
        folder: where the run goes; a dense network that is finished there is taken as it is.
        threads: processor threads.

    Returns:
        ``seed``, ``bytes``, ``ratio``, ``test_error`` in per cent and ``dense_error`` (of the dense network),
        ``validation``, ``sha256`` of the file, ``seconds``; ``dense_seconds`` are those of the dense training.
    """
    from danlu.compress import compress
    from danlu.core.records import RunFolder
    from danlu.evaluate import evaluate
    from danlu.train import train

    begin, data, run = time.perf_counter(), selection(seed), RunFolder(folder / "dense")
    if "train" not in run.read_record():
        run = train(data, model=row.model, overrides=row.train, out=run.path, seed=seed, device="cpu", threads=threads)
    found = compress(run.path, row.method, overrides=row.settings, data=data, device="cpu", threads=threads)
    seconds = time.perf_counter() - begin
    errors = [
        100 * (1 - evaluate(path, data, "test", write=False)["results"]["test"]["accuracy"]["value"])
        for path in (run.path, found["path"])
    ]
    return {
        "seed": seed,
        "bytes": found["bytes"],
        "ratio": round(found["ratio"], 2),
        "test_error": round(errors[1], 4),
        "dense_error": round(errors[0], 4),
        "validation": found["validation"],
        "split": found["split"],
        "kept": sum(layer["kept"] for layer in found["layers"]),
        "sha256": found["sha256"],
        "dense_seconds": round(run.read_record()["train"]["seconds"], 1),
        "seconds": round(seconds, 1),
    }


def source_hash(name: str, root: Path = ROOT) -> str:
    """Return SHA-256 over what the results of a row depend on: files, how it is rebuilt, and its settings."""
    digest = hashlib.sha256()
    for source in SOURCES:
        path = root / source
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    for function in (selection, rebuild):
        digest.update(inspect.getsource(function).encode())
    row = ROWS[name]
    digest.update(repr((row.model, dict(row.train), row.method, dict(row.settings))).encode())
    return digest.hexdigest()


def summary(row: Row, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over seeds, and whether they reach what is asked for."""
    error = statistics.mean(result["test_error"] for result in results)
    size = statistics.mean(result["bytes"] for result in results)
    ratio = statistics.mean(result["ratio"] for result in results)
    return {
        "seeds": len(results),
        "error": round(error, 4),
        "error_std": round(statistics.stdev(r["test_error"] for r in results), 4) if len(results) > 1 else None,
        "bytes": round(size, 1),
        "largest_bytes": max(result["bytes"] for result in results),
        "ratio": round(ratio, 2),
        "must": {
            "ratio": row.must[0],
            "error": row.must[1],
            "met": _verdict(ratio >= row.must[0] and error <= row.must[1], len(results)),
        },
        "reach": [
            {"bytes": b, "error": e, "met": _verdict(size <= b and error <= e, len(results))} for b, e in row.reach
        ],
        "paper": dict(row.paper),
    }


def _verdict(held: bool, count: int) -> str:
    """Return ``met`` only for a mean of five seeds; fewer that hold are ``so far``."""
    return "not met" if not held else "met" if count >= SEEDS else "so far"


def main(arguments: list[str] | None = None) -> int:
    """Rebuild the rows that are named and write what came of them."""
    parser = argparse.ArgumentParser(prog="python -m proof.compression", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep the runs here")
    parser.add_argument("--page", action="store_true", help="only write the table of the record into the docs")
    asked = parser.parse_args(arguments)
    log.configure()
    if asked.page:
        write_pages()
        return 0
    for name in asked.rows or ROWS:
        if name not in ROWS:
            raise InputError(f"unknown row {name!r}", where="proof.compression", allowed=ROWS)
        for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
            with tempfile.TemporaryDirectory(prefix="danlu-proof-") as temporary:
                folder = (asked.out or Path(temporary)) / f"{name}-{seed}"
                folder.mkdir(parents=True, exist_ok=True)
                check_kept(folder / "dense", ROWS[name])
                source = source_hash(name)  # before: an hour later the file may be another one than what was run
                _record(name, rebuild(ROWS[name], seed, folder), source)
    write_pages()
    return 0


def check_kept(dense: Path, row: Row) -> None:
    """Refuse a dense network that an earlier call left with other settings than the row's."""
    from danlu.core.records import RunFolder

    run = RunFolder(dense)
    if not run.config_path.exists():
        return
    asked = run.read_config()["requested"]
    wanted = json.loads(json.dumps(dict(row.train)))
    if (asked.get("model"), asked.get("set")) != (row.model, wanted):
        raise InputError("was trained with other settings than the row's", where=str(dense), mend="give another --out")


def _record(name: str, result: dict[str, Any], source: str) -> None:
    """Add one seed's result to the file; results of the row by another source are dropped."""
    document = read_json(RESULTS) if RESULTS.exists() else {"schema": 1, "rows": {}}
    row = document["rows"].get(name)
    if row is None or row["source"] != source:
        row = document["rows"][name] = {"source": source, "results": []}
    kept = [old for old in row["results"] if old["seed"] != result["seed"]]
    row["results"] = sorted([*kept, result], key=lambda one: int(one["seed"]))
    row["summary"] = summary(ROWS[name], row["results"])
    row["settings"] = {"train": dict(ROWS[name].train), "compress": dict(ROWS[name].settings)}
    document["machine"] = {"python": platform.python_version(), "processor": platform.machine(), "threads": 1}
    write_json(RESULTS, document)
    log.logger.info("%s, seed %d: %s", name, result["seed"], {k: result[k] for k in ("bytes", "ratio", "test_error")})


BEGIN, END = "<!-- compression:begin (python -m proof.compression --page) -->", "<!-- compression:end -->"
_TEXT = {
    "en": (
        "| row | paper | ours, mean of seeds | seeds | must | reach for |",
        "{bytes:,.0f} bytes, {ratio:.0f}×, {error:.3f} % test error",
        {"met": "met", "not met": "not met", "so far": "met so far, by fewer than five seeds"},
        "≥ {ratio:.0f}× at ≤ {error:.2f} %: {verdict}",
        "≤ {bytes:,} bytes at ≤ {error:.2f} %: {verdict}",
        "not recorded yet",
        {"budget": "not run at full budget: `{by}` on a GPU", "imagenet": "not run (ImageNet): `{by}`"},
    ),
    "zh": (
        "| 行 | 论文 | 我们的结果，各种子的均值 | 种子数 | 必须 | 力求 |",
        "{bytes:,.0f} 字节，{ratio:.0f} 倍，测试错误率 {error:.3f} %",
        {"met": "达到", "not met": "未达到", "so far": "目前达到，不足五个种子"},
        "≥ {ratio:.0f} 倍且 ≤ {error:.2f} %：{verdict}",
        "≤ {bytes:,} 字节且 ≤ {error:.2f} %：{verdict}",
        "尚无记录",
        {"budget": "未以完整预算运行：在 GPU 上 `{by}`", "imagenet": "未运行（ImageNet）：`{by}`"},
    ),
}


def table(language: str) -> str:
    """Return the recorded results as a table in one language."""
    head, ours, verdicts, must, reach, nothing, reasons = _TEXT[language]
    rows = read_json(RESULTS)["rows"] if RESULTS.exists() else {}
    lines = [head, "|---|---|---|---:|---|---|"]
    for name, row in ROWS.items():
        paper = f"{row.paper['ratio']}×, {row.paper['bytes'] // 1000} kB, {row.paper['error']} %"
        found = rows.get(name, {}).get("summary")
        if found is None:
            lines.append(f"| `{name}` | {paper} | {nothing} | 0 | – | – |")
            continue
        musts = must.format(**found["must"], verdict=verdicts[found["must"]["met"]])
        goals = "; ".join(reach.format(**goal, verdict=verdicts[goal["met"]]) for goal in found["reach"]) or "–"
        lines.append(f"| `{name}` | {paper} | {ours.format(**found)} | {found['seeds']} | {musts} | {goals} |")
    for name, published, asked, reason, by in WAITING:
        lines.append(f"| {name} | {published} | {reasons[reason].format(by=by)} | 0 | {asked} | – |")
    return "\n".join(lines)


def with_table(language: str) -> str:
    """Return the docs page with the table made anew."""
    text = (ROOT / f"docs/{language}/compress.md").read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table(language)}\n{END}{rest.split(END)[1]}"


def write_pages() -> None:
    """Write the table into both pages."""
    for language in _TEXT:
        (ROOT / f"docs/{language}/compress.md").write_text(with_table(language), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
