"""Write the measured figures into both READMEs, between their ``figures`` marks. A test says when they are stale.

python -m benchmarks.tables
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- figures:begin (python -m benchmarks.tables) -->", "<!-- figures:end -->"

TEXT = {
    "README.md": {
        "title": "## Measured",
        "intro": "`python -m benchmarks.main_job`, {cores} cores ({processor}), {precision}; one cold process a run:",
        "head": "| command | network | epochs | test accuracy (95 % interval) | training | whole job | FP32 / INT8 |",
        "start": "`danlu --help` takes {help:.2f} s, `danlu predict` {predict:.2f} s (whole processes, medians).",
        "none": "not delivered",
        "seeds": "standard deviation, {n} seeds",
    },
    "README.zh-CN.md": {
        "title": "## 测得的数字",
        "intro": "`python -m benchmarks.main_job`，{cores} 核（{processor}），{precision}；每次运行一个冷启动的进程：",
        "head": "| 命令 | 网络 | 轮数 | 测试准确率（95 % 区间） | 训练 | 全程 | FP32 / INT8 |",
        "start": "`danlu --help` 用时 {help:.2f} 秒，`danlu predict` 用时 {predict:.2f} 秒（整个进程，中位数）。",
        "none": "未交付",
        "seeds": "标准差，{n} 个种子的均值",
    },
}


def figures(readme: str) -> str:
    """Return the block of figures for one README, from ``main_job.json`` and ``start.json``."""
    text = TEXT[readme]
    job: dict[str, Any] = json.loads((ROOT / "benchmarks/main_job.json").read_text(encoding="utf-8"))
    start = json.loads((ROOT / "benchmarks/start.json").read_text(encoding="utf-8"))["rows"]
    first = next(iter(job["rows"].values()))
    precisions = sorted({run["precision"] for row in job["rows"].values() for run in row["runs"]})
    machine = {"cores": first["environment"]["cores"], "processor": first["environment"]["processor"]}
    lines = [text["title"], "", text["intro"].format(**machine, precision=", ".join(precisions)), "", text["head"]]
    lines.append("|---|---|---:|---|---:|---:|---|")
    for row in job["rows"].values():
        lines.append(_row(row, text))
    waits = {"help": start["danlu --help"]["median_s"], "predict": start["danlu predict"]["median_s"]}
    return "\n".join([*lines, "", text["start"].format(**waits)])


def _row(row: dict[str, Any], text: dict[str, str]) -> str:
    runs = row["runs"]
    accuracy = 100 * statistics.mean(run["test_accuracy"] for run in runs)
    if len(runs) == 1:
        low, high = runs[0]["test_interval"]
        spread = f"{100 * low:.2f}–{100 * high:.2f}"
    else:
        deviation = 100 * statistics.stdev(run["test_accuracy"] for run in runs)
        spread = f"± {deviation:.2f}, {text['seeds'].format(n=len(runs))}"
    sizes = runs[0]["bytes"]
    int8 = f"{sizes['int8'] / 1e3:,.0f} kB" if "int8" in sizes else text["none"]
    training = statistics.median(run["training_seconds"] for run in runs)
    whole = statistics.median(run["seconds"] for run in runs)
    return (
        f"| `{row['command']}` | {runs[0]['model']} | {runs[0]['epochs']} | {accuracy:.2f} % ({spread}) "
        f"| {training:.0f} s | {whole:.0f} s | {sizes['fp32'] / 1e3:,.0f} kB / {int8} |"
    )


def with_figures(readme: str) -> str:
    """Return the README's text with its block of figures made anew."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{figures(readme)}\n{END}{after}"


def main() -> None:
    """Rewrite both READMEs."""
    for readme in TEXT:
        (ROOT / readme).write_text(with_figures(readme), encoding="utf-8")


if __name__ == "__main__":
    main()
