"""Write the page of all exports in both languages from ``proof/exports.json``: ``python -m proof.exports_page``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from proof.exports import RUNTIMES, families, recorded

ROOT = Path(__file__).parent.parent
LANGUAGES = ("en", "zh")
TEXT: dict[str, dict[str, Any]] = {
    "en": {
        "title": "# What exports where",
        "intro": (
            "One variant a family, its smallest, with random weights: the largest difference of a logit to PyTorch,\n"
            "as a share of the largest, in float32. Written by `python -m proof.exports` from `proof/exports.json`;\n"
            "a test says when it is stale. *untrained*: INT8 is judged by accuracy, and no network of this family\n"
            "has been trained here for it. *web* holds the ONNX file as it is. Where a network enlarges every\n"
            "rounding, how far PyTorch's own float32 is from float64 stands beside: each form may be off by that."
        ),
        "head": ("family", "variant", "ONNX Runtime", "OpenVINO", "ncnn", "web", "INT8"),
        "untrained": "untrained",
        "refused": "refused: {why}",
        "same": "as ONNX",
        "rounding": " (float32 and float64: {own})",
        "pending": "proof still to run",
    },
    "zh": {
        "title": "# 哪些网络能导出到哪里",
        "intro": (
            "每个系列取其最小的一个网络，权重随机：float32 下与 PyTorch 相比 logit 的最大差值，相对于最大的 logit。\n"
            "本页由 `python -m proof.exports` 根据 `proof/exports.json` 生成；过期时有测试会指出。\n"
            "*未训练*：INT8 以准确率衡量，而该系列尚无为此训练过的网络。*web* 中就是同一个 ONNX 文件。\n"
            "若网络会放大每次舍入，则同时列出 PyTorch 自身 float32 与 float64 之差：两种形式各允许偏差这么多。"
        ),
        "head": ("系列", "网络", "ONNX Runtime", "OpenVINO", "ncnn", "web", "INT8"),
        "untrained": "未训练",
        "refused": "拒绝：{why}",
        "same": "同 ONNX",
        "rounding": "（float32 与 float64 之差：{own}）",
        "pending": "证明尚未运行",
    },
}


def page(language: str) -> str:
    """Return the page in one language."""
    text, rows = TEXT[language], recorded()
    head = ["| " + " | ".join(text["head"]) + " |", "|---" * len(text["head"]) + "|"]
    lines = [text["title"], "", text["intro"], "", *head]
    for family, name in families().items():
        row = rows.get(family)
        cells = [_cell(row["cells"][kind], text) if row else text["pending"] for kind in RUNTIMES]
        int8 = _cell(row["cells"]["int8"], text) if row and "int8" in row["cells"] else text["untrained"]
        lines.append("| " + " | ".join([f"`{family}`", f"`{name}`", *cells, int8]) + " |")
    return "\n".join(lines) + "\n"


def _cell(cell: dict[str, Any], text: dict[str, Any]) -> str:
    if "refused" in cell:
        why = " ".join(str(cell["refused"]).replace("|", "/").replace("<", "").replace(">", "").split())
        return str(text["refused"]).format(why=why)
    if "as" in cell:
        return str(text["same"])
    own = str(text["rounding"]).format(own=f"{cell['rounding']:.0e}") if "rounding" in cell else ""
    return f"{cell['error']:.0e}{own}"


def main() -> None:
    """Write both pages."""
    for language in LANGUAGES:
        (ROOT / f"docs/{language}/exports.md").write_text(page(language), encoding="utf-8")


if __name__ == "__main__":
    main()
