"""NFNet: what keeps the signal alive without normalisation."""

from __future__ import annotations

import pytest
import torch

from danlu.models.vision.nfnet import VARIANTS, NFNet, ScaledStdConv2d, scaled_gelu

TINY = {"depths": (1, 2, 3, 1), "drop_rate": 0.0, "widths": (64, 64, 64, 64), "group_width": 16}


def test_kernels_are_standardised() -> None:
    torch.manual_seed(0)
    conv = ScaledStdConv2d(16, 8, 3, groups=2)
    with torch.no_grad():
        conv.weight.mul_(30).add_(7)
        conv.gain.fill_(1.5)
    kernels = conv.standardised().detach().flatten(1)  # [8, 72]
    torch.testing.assert_close(kernels.mean(dim=1), torch.zeros(8), atol=1e-6, rtol=0)
    torch.testing.assert_close(kernels.square().sum(dim=1), torch.full((8,), 1.5**2), rtol=1e-4, atol=0)


def test_scaled_gelu_keeps_the_variance() -> None:
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    assert float(scaled_gelu(x).var()) == pytest.approx(1, abs=0.01)


def test_every_block_sees_unit_variance() -> None:
    """β undoes the growth by α² a block, which starts anew after the first block of a stage."""
    model = NFNet(**TINY)
    betas = [[block.beta for block in model.get_submodule(f"stage{i}").children()] for i in (1, 2, 3, 4)]
    expected = [[1.0], [1.04, 1.04], [1.08, 1.04, 1.08], [1.12]]
    for found, variances in zip(betas, expected, strict=True):
        assert found == pytest.approx([variance**-0.5 for variance in variances])


def test_blocks_start_as_their_shortcuts() -> None:
    torch.manual_seed(0)
    block = NFNet(**TINY).stage2[1]
    x = torch.randn(2, 64, 5, 5)
    assert torch.equal(block(x), x)


def test_rates_of_stochastic_depth() -> None:
    f0 = VARIANTS[0]
    with torch.device("meta"):
        model = f0.build()
    rates = [module.rate for module in model.modules() if type(module).__name__ == "StochasticDepth"]
    assert rates == pytest.approx([0.25 * i / 12 for i in range(12)])


def test_any_size_leaves_a_pixel() -> None:
    model = NFNet(**TINY, num_classes=4).eval()
    for height, width, left in ((1, 1, [1, 1]), (33, 65, [2, 3]), (64, 32, [2, 1])):
        assert list(model.features(torch.zeros(1, 3, height, width))["final_conv"].shape[2:]) == left
