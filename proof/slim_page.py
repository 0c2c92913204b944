"""Write the measured tables of ``docs/*/slim.md``: ``python -m proof.slim_page``; a test says when they are stale."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from danlu.core.files import read_json, write_whole

__all__ = ["PAGES", "with_tables"]

ROOT = Path(__file__).parent.parent
PAGES = {language: ROOT / f"docs/{language}/slim.md" for language in ("en", "zh")}
_HEADS = {
    "en": {
        "speed": ("ResNet-56, batch 1, one core, ONNX Runtime", "multiply-adds", "fewer", "faster (processor time)"),
        "routes": ("route", "test accuracy", "file, bytes", "multiply-adds", "a picture, processor ms", "faster"),
        "pending": "Not measured yet: `{}`.",
    },
    "zh": {
        "speed": ("ResNet-56，批量 1，单核，ONNX Runtime", "乘加次数", "减少到几分之一", "加速（处理器时间）"),
        "routes": ("路线", "测试准确率", "文件字节数", "乘加次数", "每张处理器毫秒", "加速"),
        "pending": "尚未测量：`{}`。",
    },
}
_NAMES = {
    "dense": ("dense", "稠密"),
    "blocks": ("14 of 27 blocks left out", "27 个残差块去掉 14 个"),
    "channels": ("channels, in multiples of 8", "剪通道，取 8 的倍数"),
    "none": ("none: PyTorch", "无：PyTorch"),
    "light design": ("light design", "轻量设计"),
    "pruning": ("pruning", "剪枝"),
    "search": ("search", "搜索"),
    "low bit": ("low bit", "低比特"),
    "distillation": ("distillation", "蒸馏"),
    "efficient kernels": ("efficient kernels", "高效算子"),
}
_COMMANDS = {
    "speed": ("resnet56.json", "python -m proof.resnet56 --speed"),
    "routes": ("routes.json", "python -m proof.routes --work FOLDER"),
}


def _name(key: str, language: str) -> str:
    return _NAMES[key][0 if language == "en" else 1]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _speed(document: dict[str, Any], language: str) -> list[list[str]]:
    return [
        [
            _name(name, language),
            f"{row['macs']:,}",
            f"{row['fewer']:.2f}×",
            f"{row.get('processor_ratio', row['ratio']):.2f}×",
        ]
        for name, row in document["speed"].items()
        if name != "environment"
    ]


def _routes(document: dict[str, Any], language: str) -> list[list[str]]:
    rows = []
    for row in document["rows"]:
        if "refused" in row:
            rows.append([_name(row["route"], language), "–", "–", "–", "–", "–"])
            continue
        one = row["accuracy"]
        rows.append(
            [
                _name(row["route"], language),
                f"{100 * one['value']:.2f} % ({100 * one['low']:.2f}–{100 * one['high']:.2f})",
                f"{row['bytes']:,}",
                f"{row['macs']:,}",
                f"{row['ms']:.3f}",
                f"{row['times_faster']:.1f}×",
            ]
        )
    return rows


_ROWS = {"speed": _speed, "routes": _routes}


def with_tables(language: str) -> str:
    """Return the page with the tables that the records give."""
    text = PAGES[language].read_text(encoding="utf-8")
    for key, (file, command) in _COMMANDS.items():
        path = Path(__file__).with_name(file)
        document = read_json(path) if path.exists() else {}
        made = _HEADS[language]["pending"].format(command)  # type: ignore[attr-defined]
        if document and (key != "speed" or "speed" in document):
            made = _table(_HEADS[language][key], _ROWS[key](document, language))
        pattern = rf"<!-- {key} -->\n.*?<!-- /{key} -->"
        text = re.sub(pattern, lambda _: f"<!-- {key} -->\n{made}\n<!-- /{key} -->", text, flags=re.DOTALL)  # noqa: B023
    return text


if __name__ == "__main__":
    for one, page in PAGES.items():
        write_whole(page, with_tables(one).encode())
    sys.exit(0)
