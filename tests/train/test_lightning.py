"""The page for Lightning users: its code runs, and every loss is that of our own loop."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from tests.train.helpers import curve, digits, run_tiny

lightning = pytest.importorskip("lightning", reason="lightning is not installed")

# It looks at the batch with a name of torch that is on its way out, and advises on workers, intervals and checkpoints.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined"),
]

ROOT = Path(__file__).parent.parent.parent


def blocks(language: str) -> list[str]:
    page = (ROOT / f"docs/{language}/lightning.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def test_both_pages_hold_the_same_code() -> None:
    def bare(code: str) -> str:
        return re.sub(r'#.*|"""[^\n]*"""', "", code)

    assert len(blocks("en")) == 3
    assert [bare(code) for code in blocks("en")] == [bare(code) for code in blocks("zh")]


def test_the_losses_are_those_of_our_own_loop(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    definitions, fitting, saving = blocks("en")
    space: dict[str, Any] = {}
    exec(compile(definitions, "lightning.md", "exec"), space)  # noqa: S102 - our own page
    step, losses = space["Furnace"].training_step, []

    def training_step(self: Any, batch: Any, number: int) -> Any:
        loss = step(self, batch, number)
        losses.append(loss.detach())
        return loss

    space["Furnace"].training_step = training_step
    exec(compile(fitting + saving, "lightning.md", "exec"), space)  # noqa: S102
    assert "accuracy" in capsys.readouterr().out
    run = run_tiny(
        in_tmp / "run",
        recipe="default",
        overrides={
            "batch_size": 32,
            "augment": [{"name": "pad_crop", "padding": 1}],
            "optimizer.lr": 0.03,
            "optimizer.weight_decay": 0.0,
            "schedule.name": "constant",
            "label_smoothing": 0.0,
            "kernels": "library",
        },
    )
    ours = [entry["loss"] for entry in curve(run) if entry["kind"] == "step"]
    assert len(losses) == len(ours) == 2 * (len(digits().train) // 32)
    theirs, epoch = [loss.item() for loss in losses], len(ours) // 2
    assert theirs[:epoch] == pytest.approx(ours[:epoch], rel=1e-3)
    # Rounding grows in the second epoch, on some processors to half a loss of one step.
    assert sum(theirs[epoch:]) == pytest.approx(sum(ours[epoch:]), rel=0.1)
    assert ours[-1] < 0.7 * ours[0]
    warm = run_tiny(in_tmp / "warm", weights=in_tmp / "lenet5.safetensors", overrides={"epochs": 1})
    first = next(entry for entry in curve(warm) if entry["kind"] == "step")
    assert first["loss"] < 0.7 * ours[0]
