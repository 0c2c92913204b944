"""Write the page of all measured speed in both languages from the records here: ``python -m benchmarks.speed_page``.

Each row names what was asked of it, what was found and whether that is enough. A test says when a page is stale.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.peers.fashion90 import GOAL
from danlu.papers.depends import changes
from danlu.papers.rows import find_paper, find_row, read_results

__all__ = ["LANGUAGES", "main", "page"]

ROOT = Path(__file__).parent.parent
LANGUAGES = ("en", "zh")
# Row of train.json -> what it is, and the least lower bound of the ratio to the usual script.
TRAINING = {
    "resnet18": ("ResNet-18", 3.3),
    "resnet20": ("ResNet-20", 2.4),
    "lenet5": ("LeNet-5", 2.9),
    "resnet20_fp32": ("ResNet-20, float32", 1.2),
    "lenet5_fp32": ("LeNet-5, float32", 1.2),
}

TEXT: dict[str, dict[str, str]] = {
    "en": {
        "title": "# Measured speed",
        "intro": (
            "Written by `python -m benchmarks.speed_page` from the records in `benchmarks/`; each section names\n"
            "the command that measured it. Two cores of a virtual machine whose neighbours come and go: ratios\n"
            "of what ran in turn hold, milliseconds do not. What fell short stays here. Ratios between\n"
            "precisions depend on how much of its matrix units the machine was given at that moment, which is\n"
            "recorded beside them where it was measured (`python -m benchmarks.ceilings`)."
        ),
        "head": "| what | asked | found | |",
        "met": "met",
        "missed": "missed",
        "so far": "not measured",
        "training": "## Training: `python -m benchmarks.train`",
        "usual": "{name}, batch {batch}, pictures/s of ours to the usual script",
        "timm": "{name}, batch {batch}, pictures/s of ours to what timm's training script does",
        "lightning": "{name}, batch {batch}, pictures/s of ours to Lightning's Trainer",
        "lower": "lower bound ≥ {asked:g}×",
        "ratio": "{median:.2f}×, lower bound {low:.2f}×",
        "overhead": "our loop over a bare one, a step at batch 1",
        "microseconds": "{median:.0f} µs ({low:.0f} to {high:.0f})",
        "fashion90": "LeNet-5 to 90 % on Fashion-MNIST, wall time to the usual script",
        "airbench": "CIFAR-10 to 94 %, wall time of training: `danlu reproduce run airbench --row airbench94`",
        "airbench_asked": "≥ 93.5 % in ≤ 10 min",
        "airbench_found": (
            "{views:.2f} % with views, {plain:.2f} % without, {seconds:.0f} s; {seeds} seeds, {asked} asked for"
        ),
        "reached": (
            "{sign}{median:.1f}×, least {least:.1f}× of {compared}; "
            "{reached} of {seeds} seeds of ours reached it, {seconds:.0f} s"
        ),
        "augmentation": "## Augmentation, one thread: `python -m benchmarks.augment`",
        "per picture": "{name}, 32 px, batches to torchvision picture by picture",
        "least": "{median:.2f}× ({low:.2f} to {high:.2f})",
        "best": "## The best artifact, ResNet-50 at 224², batch 32: `python -m benchmarks.best`",
        "eager": "to eager PyTorch in float32, same allocator settings",
        "system": "to eager PyTorch in float32, the system's allocator settings",
        "hand": "to the quickest runtime used by hand ({name})",
        "chosen": "chosen: {runtime}, {precision}, {threads} threads",
        "ceilings": "the machine then, GFLOP/s: fp32 {fp32_gflops:.0f}, bf16 {bf16_gflops:.0f}, int8 {int8_gflops:.0f}",
        "bench": "## Benchmarks beside MLCommons' own: `python -m benchmarks.loadgen`",
        "agrees": "{scenario}, ours to LoadGen on the same system",
        "within": "within {percent:.0f} %",
        "serve": "## Serving: `python -m benchmarks.serve`",
        "http": "ResNet-50, batch 32, raw pictures: over HTTP to without",
        "client": "{median:.1f} % ({low:.1f} to {high:.1f}), the client took {client:.1f} % of a core",
        "overload": "three times capacity: p99 of the accepted to the unloaded p99",
        "answers": "three times capacity: answers that are neither 200 nor 503",
        "start": "## Start: `python -m benchmarks.start`, `python -m benchmarks.start_serve`",
        "whole": "`{name}`, whole process",
        "held": "`danlu predict`, ResNet-18's size, the most memory it held",
        "first": "`danlu serve`, ResNet-18's size, from its start to the first answer",
        "alone": "the libraries alone, imported: {seconds:.2f} s",
        "memory": "`danlu serve`, resident memory then",
        "codec": "## Coded files on synthetic tensors of full size, one core: `python -m benchmarks.codec`",
        "speed": "{name}, {kind}: encode / decode, MB/s of float32",
        "peak": "{name}: peak memory to the network's",
    },
    "zh": {
        "title": "# 实测速度",
        "intro": (
            "本页由 `python -m benchmarks.speed_page` 根据 `benchmarks/` 中的记录生成；每一节写明测量它的命令。\n"
            "测量环境是一台虚拟机的两个核，邻居时来时去：轮流运行所得的比值可信，毫秒数不可信。没有达到的也留在这里。\n"
            "不同精度之间的比值取决于那一刻机器分到多少矩阵单元，测过的（`python -m benchmarks.ceilings`）就记录在旁。"
        ),
        "head": "| 项目 | 要求 | 结果 | |",
        "met": "达到",
        "missed": "未达到",
        "so far": "未测量",
        "training": "## 训练：`python -m benchmarks.train`",
        "usual": "{name}，批量 {batch}，每秒图片数，与常见脚本之比",
        "timm": "{name}，批量 {batch}，每秒图片数，与 timm 训练脚本的做法之比",
        "lightning": "{name}，批量 {batch}，每秒图片数，与 Lightning Trainer 之比",
        "lower": "下界 ≥ {asked:g} 倍",
        "ratio": "{median:.2f} 倍，下界 {low:.2f} 倍",
        "overhead": "我们的循环比裸循环每步多用的时间，批量 1",
        "microseconds": "{median:.0f} µs（{low:.0f} 至 {high:.0f}）",
        "fashion90": "LeNet-5 在 Fashion-MNIST 上达到 90 % 的时间，与常见脚本之比",
        "airbench": "CIFAR-10 达到 94 % 的训练时间：`danlu reproduce run airbench --row airbench94`",
        "airbench_asked": "≥ 93.5 %，≤ 10 分钟",
        "airbench_found": (
            "带视图 {views:.2f} %，不带 {plain:.2f} %，{seconds:.0f} 秒；{seeds} 个种子（要求 {asked} 个）"
        ),
        "reached": (
            "{sign}{median:.1f} 倍，{compared} 个种子中最小 {least:.1f} 倍；"
            "我们 {seeds} 个种子中 {reached} 个达到，{seconds:.0f} 秒"
        ),
        "augmentation": "## 数据增强，单线程：`python -m benchmarks.augment`",
        "per picture": "{name}，32 像素，成批处理与 torchvision 逐张处理之比",
        "least": "{median:.2f} 倍（{low:.2f} 至 {high:.2f}）",
        "best": "## 最快的产物，ResNet-50，224²，批量 32：`python -m benchmarks.best`",
        "eager": "与 float32 的 eager PyTorch 之比，相同的内存分配设置",
        "system": "与 float32 的 eager PyTorch 之比，系统默认的内存分配设置",
        "hand": "与手工使用的最快运行时（{name}）之比",
        "chosen": "选中：{runtime}，{precision}，{threads} 个线程",
        "ceilings": "当时的机器，GFLOP/s：fp32 {fp32_gflops:.0f}，bf16 {bf16_gflops:.0f}，int8 {int8_gflops:.0f}",
        "bench": "## 与 MLCommons 自己的基准对照：`python -m benchmarks.loadgen`",
        "agrees": "{scenario}，同一系统上我们与 LoadGen 之比",
        "within": "相差不超过 {percent:.0f} %",
        "serve": "## 服务：`python -m benchmarks.serve`",
        "http": "ResNet-50，批量 32，原始图片：经 HTTP 与不经 HTTP 之比",
        "client": "{median:.1f} %（{low:.1f} 至 {high:.1f}），客户端占一个核的 {client:.1f} %",
        "overload": "三倍于容量：被接受请求的 p99 与无负载时 p99 之比",
        "answers": "三倍于容量：既非 200 也非 503 的回答数",
        "start": "## 启动：`python -m benchmarks.start`、`python -m benchmarks.start_serve`",
        "whole": "`{name}`，整个进程",
        "held": "`danlu predict`，ResNet-18 大小，占用内存的峰值",
        "first": "`danlu serve`，ResNet-18 大小，从启动到第一个回答",
        "alone": "仅导入这些库：{seconds:.2f} 秒",
        "memory": "`danlu serve`，此时的常驻内存",
        "codec": "## 编码文件，足尺寸的合成张量，单核：`python -m benchmarks.codec`",
        "speed": "{name}，{kind}：编码 / 解码，每秒 float32 的 MB 数",
        "peak": "{name}：峰值内存与网络大小之比",
    },
}


def page(language: str) -> str:
    """Return the page in one language."""
    text = TEXT[language]
    sections = [_training, _augmentation, _best, _loadgen, _serve, _start, _codec]
    lines = [text["title"], "", text["intro"]]
    for section in sections:
        heading, rows = section(text)
        lines += ["", heading, "", text["head"], "|---|---|---|---|"]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((ROOT / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))
    return document


def _row(text: dict[str, str], what: str, asked: str, found: str, is_met: bool | None) -> tuple[str, ...]:
    return what, asked, found, "" if is_met is None else text["met"] if is_met else text["missed"]


def _training(text: dict[str, str]) -> tuple[str, list[tuple[str, ...]]]:
    recorded, rows = _read("train")["rows"], []
    for key, (name, asked) in TRAINING.items():
        for peer, ratio in recorded[key]["ratios"].items():
            low = ratio["lower_95"]
            what = text[peer].format(name=name, batch=recorded[key]["task"]["batch"])
            found = text["ratio"].format(median=ratio["median"], low=low)
            is_asked = peer == "usual"
            wanted = text["lower"].format(asked=asked) if is_asked else "–"
            rows.append(_row(text, what, wanted, found, low >= asked if is_asked else None))
        machine = text["ceilings"].format(**recorded[key]["ceilings"])
        rows.append((f"{name}: {recorded[key]['environment']['processor']}, {machine}", "–", "–", ""))
    extra = recorded["overhead"]["extra"]
    found = text["microseconds"].format(**extra)
    rows.append(_row(text, text["overhead"], "≤ 50 µs", found, extra["median"] <= 50))
    if "fashion90" in recorded:
        ratio, ways = recorded["fashion90"]["ratio"], recorded["fashion90"]["ways"]
        reached = {way: [run["accuracy"] >= GOAL for run in runs] for way, runs in ways.items()}
        facts = {
            # A script that was ended before it got there would have taken longer.
            "sign": "" if all(reached["usual"]) else "≥ ",
            "compared": len(ways["usual"]),
            "reached": sum(reached["ours"]),
            "seeds": len(ways["ours"]),
            "seconds": statistics.median(run["seconds"] for run in ways["ours"]),
        }
        is_met = ratio["least"] >= 5 and all(reached["ours"])
        rows.append(_row(text, text["fashion90"], "≥ 5×", text["reached"].format(**ratio, **facts), is_met))
    else:
        rows.append(_row(text, text["fashion90"], "≥ 5×", text["so far"], None))
    rows.append(_airbench(text))
    return text["training"], rows


def _airbench(text: dict[str, str]) -> tuple[str, ...]:
    """Return the row of what the ledger holds."""
    paper = find_paper("airbench")
    row = find_row(paper, "airbench94")
    document = read_results(ROOT / "danlu/papers/airbench")
    recorded = document["rows"].get(row.id)
    if recorded is None or changes(recorded["dependencies"], paper, row):
        return _row(text, text["airbench"], text["airbench_asked"], text["so far"], None)
    runs = [run for run in recorded["runs"] if document["environments"][run["environment"]]["device"] == "cpu"]
    if not runs:
        return _row(text, text["airbench"], text["airbench_asked"], text["so far"], None)
    views = statistics.mean(run["value"] for run in runs)
    plain = statistics.mean(run["facts"]["without_views"] for run in runs)
    seconds = statistics.mean(run["facts"]["training_seconds"] for run in runs)
    found = text["airbench_found"].format(views=views, plain=plain, seconds=seconds, seeds=len(runs), asked=row.seeds)
    is_met = views >= 93.5 and seconds <= 600
    # One seed may show a miss; to be met takes all of them.
    verdict = None if is_met and len(runs) < row.seeds else is_met
    return _row(text, text["airbench"], text["airbench_asked"], found, verdict)


def _augmentation(text: dict[str, str]) -> tuple[str, list[tuple[str, ...]]]:
    document, rows = _read("augment"), []
    for name, row in document["rows"].items():
        asked = document["must"].get(name)
        found = text["least"].format(median=row["ratio"], low=row["ratio_min"], high=row["ratio_max"])
        is_met = None if asked is None else row["ratio"] >= asked
        rows.append(_row(text, text["per picture"].format(name=name), f"≥ {asked:g}×" if asked else "–", found, is_met))
    return text["augmentation"], rows


def _best(text: dict[str, str]) -> tuple[str, list[tuple[str, ...]]]:
    row = _read("best")["rows"]["resnet50-224-batch32"]
    ratios, rows = row["times_as_fast_as"], []
    for way, bar in row["bars"].items():
        found = text["least"].format(**ratios[way])
        rows.append(_row(text, text[way], f"≥ {bar['asked']:g}×", found, bar["met"]))
    hand = row["quickest_by_hand"]
    what = text["hand"].format(name=hand.removeprefix("hand-"))
    # The two are the same thing where the same runtime is chosen: only an interval below one is a loss.
    rows.append(_row(text, what, "≥ 1×", text["least"].format(**ratios[hand]), ratios[hand]["high"] >= 1))
    rows.append(_row(text, text["chosen"].format(**row["chosen"]), "–", "–", None))
    if "ceilings" in row:
        rows.append(_row(text, text["ceilings"].format(**row["ceilings"]), "–", "–", None))
    return text["best"], rows


def _loadgen(text: dict[str, str]) -> tuple[str, list[tuple[str, ...]]]:
    document, rows = _read("loadgen"), []
    for system in document["systems"].values():
        for scenario, row in system["rows"].items():
            wanted = text["within"].format(percent=100 * document["allowed"])
            found = text["least"].format(median=row["median"], low=row["low"], high=row["high"])
            rows.append(_row(text, text["agrees"].format(scenario=scenario), wanted, found, row["agrees"]))
    return text["bench"], rows


def _serve(text: dict[str, str]) -> tuple[str, list[tuple[str, ...]]]:
    document = _read("serve")
    throughput, overload = document["throughput"], document["overload"]
    percent = {key: 100 * value for key, value in throughput["ratio"].items()}
    found = text["client"].format(**percent, client=100 * throughput["client_share_of_one_core"])
    odd = sum(count for status, count in overload["statuses"].items() if status not in ("200", "503"))
    return text["serve"], [
        _row(text, text["http"], "≥ 85 %", found, percent["median"] >= 85),
        _row(text, text["overload"], "≤ 3×", f"{overload['ratio']:.2f}×", overload["ratio"] <= 3),
        _row(text, text["answers"], "0", f"{odd}", odd == 0),
    ]


def _start(text: dict[str, str]) -> tuple[str, list[tuple[str, ...]]]:
    rows = _read("start")["rows"]
    serve = rows["danlu serve"]
    told = []
    for name in ("danlu --help", "danlu predict", "danlu predict, ResNet-18"):
        seconds, is_bound = rows[name]["median_s"], name.startswith("danlu predict")
        what, asked = text["whole"].format(name=name), "≤ 1.0 s" if is_bound else "–"
        told.append(_row(text, what, asked, f"{seconds:.2f} s", seconds <= 1 if is_bound else None))
    held = rows["danlu predict, ResNet-18"]["memory_mb"]
    told.append(_row(text, text["held"], "≤ 250 MB", f"{held:.0f} MB", held <= 250))
    found = f"{serve['median_s']:.2f} s ({serve['min_s']:.2f}–{serve['max_s']:.2f})"
    if "libraries_alone_s" in serve:
        found += "; " + text["alone"].format(seconds=serve["libraries_alone_s"])
    told.append(_row(text, text["first"], "≤ 1.0 s", found, serve["median_s"] <= 1))
    told.append(_row(text, text["memory"], "≤ 250 MB", f"{serve['resident_mb']:.0f} MB", serve["resident_mb"] <= 250))
    return text["start"], told


def _codec(text: dict[str, str]) -> tuple[str, list[tuple[str, ...]]]:
    rows = []
    for name, row in _read("codec")["rows"].items():
        for kind in ("sparse", "dense"):
            if kind not in row:
                continue
            speeds = row[kind]["encode_mb_s"], row[kind]["decode_mb_s"]
            what = text["speed"].format(name=name, kind=kind)
            rows.append(_row(text, what, "≥ 50", f"{speeds[0]:.0f} / {speeds[1]:.0f}", min(speeds) >= 50))
        ratio = row["memory"]["networks"]
        rows.append(_row(text, text["peak"].format(name=name), "≤ 2×", f"{ratio:.2f}×", ratio <= 2))
    return text["codec"], rows


def main() -> None:
    """Write the page in both languages."""
    for language in LANGUAGES:
        (ROOT / f"docs/{language}/measured.md").write_text(page(language), encoding="utf-8")


if __name__ == "__main__":
    main()
