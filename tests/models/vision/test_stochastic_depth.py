"""The rates are those of the paper and of the table, and a dropped block is its shortcut."""

from __future__ import annotations

import pytest
import torch

from danlu.models.layers import StochasticDepth
from danlu.models.vision.stochastic_depth import VARIANTS, LinearBottleneck, StochasticBlock


def _rates(name: str) -> list[float]:
    model = next(variant for variant in VARIANTS if variant.name == name).build()
    return [module.rate for module in model.modules() if isinstance(module, StochasticDepth)]


def test_rates_rise_linearly() -> None:
    paper, table = _rates("stochastic_depth_resnet110"), _rates("stochastic_depth18_cifar")
    assert paper == pytest.approx([0.5 * (block + 1) / 54 for block in range(54)])  # p_l = 1 - l / L (1 - p_L)
    assert table == pytest.approx([0.5 * block / 7 for block in range(8)])


@pytest.mark.parametrize("block", [StochasticBlock(16, 32, 2, 0.5), LinearBottleneck(16, 8, 2, 0.5)])
def test_a_dropped_block_is_its_shortcut(block) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 16, 8, 8)
    block.train()
    with torch.no_grad():
        shortcut = block.shortcut(x)
        if isinstance(block, StochasticBlock):
            shortcut = shortcut.relu()
        same = (block(x) - shortcut).abs().flatten(1).amax(dim=1) < 1e-6
        assert 16 <= int(same.sum()) <= 48  # each picture for itself
        assert not (block.eval()(x) - shortcut).abs().flatten(1).amax(dim=1).lt(1e-6).any()
