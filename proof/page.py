"""Write the page of all networks in both languages from the recorded proofs: ``python -m proof.page``.

A test says when a page is stale.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from danlu.models import MODELS
from danlu.models.base import Variant
from proof.__main__ import recorded

ROOT = Path(__file__).parent.parent
LANGUAGES = ("en", "zh")

LEGEND_EN = """\
- **Parameters, MACs**: exact counts of ours for the picture size and number of classes named. MACs are multiply-adds of
  convolutions, linear layers and matrix products; FLOPs are twice as many. Behind them stands the published figure,
  with which ours agrees in every digit given; *exact* means that all digits are published.
- **Published accuracy**: top-1 in per cent, of the source that `danlu models show` names. It is not ours.
- **†**: from memory, not yet read in its source.
- **Parity**: the independent implementation that is given the same random weights, and the largest difference of any
  logit in eval and in train mode, relative to the largest absolute one. Weights go both ways.
- **Learns**: of 512 real pictures (CIFAR-10 or MNIST), how many are classified rightly after how many steps from a
  fresh start. *small* marks that a narrower or shallower twin of the same class was trained.
- **ONNX**: the largest relative difference in ONNX Runtime at batch sizes 3 and 7, exported at 2. *small* and a
  name mark that the narrow twin of that variant was exported, which has the same class and code path."""

LEGEND_ZH = """\
- **参数量、MACs**：按所注图片尺寸与类别数得到的精确值。MACs 是卷积、线性层与矩阵乘法的乘加次数，FLOPs 为其两倍。
  其后是已发表的数字，我们的值与它给出的每一位都一致；*精确* 表示所有位都已发表。
- **已发表的准确率**：top-1，百分数，出处见 `danlu models show`。这不是我们测得的值。
- **†**：凭记忆写下，尚未在出处中核对。
- **一致性**：被赋予同一组随机权重的独立实现，以及评估与训练两种模式下任一 logit 的最大差值，
  相对于绝对值最大的 logit。权重可双向转换。
- **能学习**：512 张真实图片（CIFAR-10 或 MNIST），从全新初始化训练若干步后分对的比例。
  *小* 表示训练的是同一个类的更窄或更浅的形式。
- **ONNX**：以批大小 2 导出，在批大小 3 与 7 时 ONNX Runtime 的最大相对差值。
  *小* 与括号中的名字表示导出的是那个网络的窄的形式，它与本网络是同一个类、同一条代码路径。"""

TEXT = {
    "en": {
        "title": "# The networks, and their proof",
        "intro": [
            "This page is written by `make proof` from `proof/models.json`; a test says when it is stale.",
            "`danlu models show NAME` prints a network's card, `danlu models check NAME` repeats its proof.",
        ],
        "legend_title": "## How to read it",
        "legend": LEGEND_EN,
        "head": [
            "network",
            "picture, classes",
            "parameters",
            "MACs",
            "published accuracy",
            "parity",
            "learns",
            "ONNX",
        ],
        "none": "none published",
        "exact": "exact",
        "count": "{variants} variants of {papers} papers.",
        "learns": "{accuracy:.1f} % in {steps} steps",
        "small": ", small",
        "classes": "{picture}, {classes}",
        "unproven": "proof still to run",
    },
    "zh": {
        "title": "# 全部网络及其证明",
        "intro": [
            "本页由 `make proof` 根据 `proof/models.json` 生成；过期时有测试会指出。",
            "`danlu models show NAME` 打印一个网络的卡片，`danlu models check NAME` 重做它的证明。",
        ],
        "legend_title": "## 怎样读这张表",
        "legend": LEGEND_ZH,
        "head": ["网络", "图片、类别数", "参数量", "MACs", "已发表的准确率", "一致性", "能学习", "ONNX"],
        "none": "未发表",
        "exact": "精确",
        "count": "{papers} 篇论文，{variants} 个网络。",
        "learns": "{accuracy:.1f} %，{steps} 步",
        "small": "，小",
        "classes": "{picture}，{classes}",
        "unproven": "证明尚未运行",
    },
}


def page(language: str) -> str:
    """Return the page in one language."""
    text: dict[str, Any] = TEXT[language]
    rows = recorded()
    by_paper: dict[tuple[int, str], list[str]] = {}
    for name in MODELS.names():
        paper = MODELS.get(name).paper
        by_paper.setdefault((paper.year, paper.title), []).append(name)
    count = text["count"].format(variants=len(MODELS.names()), papers=len(by_paper))
    lines = [text["title"], "", *text["intro"], count, "", text["legend_title"], ""]
    lines.append(text["legend"])
    for (year, title), names in sorted(by_paper.items()):
        paper = MODELS.get(names[0]).paper
        lines += ["", f"## {title}", "", f"[{paper.authors} {year}]({paper.link})", ""]
        lines += ["| " + " | ".join(text["head"]) + " |", "|---|---|---:|---:|---|---|---|---|"]
        ordered = sorted(names, key=lambda name: (MODELS.get(name).parameters, name))
        lines += ["| " + " | ".join(_cells(MODELS.get(name), rows.get(name), text)) + " |" for name in ordered]
    return "\n".join(lines) + "\n"


def _cells(variant: Variant, row: dict[str, Any] | None, text: dict[str, Any]) -> list[str]:
    published = variant.published
    dagger = {what: " †" if what in published.unverified else "" for what in ("parameters", "macs", "accuracy")}
    accuracy = "<br>".join(f"{data} {value:g}" for data, value in published.accuracy.items())
    picture = "×".join(map(str, variant.input))
    return [
        f"`{variant.name}`",
        text["classes"].format(picture=picture, classes=variant.classes),
        _count(variant.parameters, published.parameters, text) + dagger["parameters"],
        _count(variant.macs, published.macs, text) + dagger["macs"],
        (accuracy + dagger["accuracy"]) if accuracy else text["none"],
        *_proven(variant, row, text),
    ]


def _count(exact: int, published: str, text: dict[str, Any]) -> str:
    said = {"none published": text["none"], f"{exact:,}": text["exact"]}.get(published, published)
    return f"{exact:,}<br>({said})"


def _proven(variant: Variant, row: dict[str, Any] | None, text: dict[str, Any]) -> list[str]:
    if row is None or not row["ok"]:
        return [text["unproven"]] * 3
    measured = row["measured"]
    parity = measured.get("parity")
    against = variant.oracle
    if parity is not None:
        errors = " / ".join("0" if parity[mode] == 0 else f"{parity[mode]:.0e}" for mode in ("eval", "train"))
        against = f"{parity['reference']}: {errors}"
    learnt = measured["learns"]
    small = text["small"] if learnt["arguments"] else ""
    return [
        against,
        text["learns"].format(accuracy=100 * learnt["accuracy"], steps=learnt["steps"]) + small,
        f"{measured['onnx']['error']:.0e}"
        + (f"{text['small']} (`{measured['onnx']['as']}`)" if "as" in measured["onnx"] else ""),
    ]


def main() -> None:
    """Write both pages."""
    for language in LANGUAGES:
        (ROOT / f"docs/{language}/zoo.md").write_text(page(language), encoding="utf-8")


if __name__ == "__main__":
    main()
