"""ConvNeXt: layer scale and stochastic depth, which logits in eval mode do not show."""

from __future__ import annotations

import pytest
import torch

from danlu.models.vision.convnext import VARIANTS, ConvNeXt, LayerNorm2d


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: str(variant.name))
def test_stochastic_depth_rises_to_the_papers_rate(variant: object) -> None:
    rates = {"convnext_tiny": 0.1, "convnext_small": 0.4, "convnext_base": 0.5, "convnext_large": 0.5}
    with torch.device("meta"):
        model = variant.build()  # type: ignore[attr-defined]
    found = [module.rate for module in model.modules() if type(module).__name__ == "StochasticDepth"]
    last = rates[variant.name]  # type: ignore[attr-defined]
    assert found == pytest.approx([last * i / (len(found) - 1) for i in range(len(found))])


def test_blocks_start_almost_as_the_identity() -> None:
    torch.manual_seed(0)
    model = ConvNeXt((1, 1, 1, 1), (8, 16, 24, 32), 0.0)
    x = torch.randn(2, 8, 6, 6)
    found = model.stage1(x)
    assert 0 < float((found - x).detach().abs().max()) < 1e-5
    assert float(model.stage1[0].layer_scale.detach().max()) == pytest.approx(1e-6)


def test_layer_norm_is_of_each_pixel() -> None:
    x = torch.randn(2, 8, 3, 4) * 5 + 3
    y = LayerNorm2d(8)(x)
    torch.testing.assert_close(y.mean(dim=1), torch.zeros(2, 3, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var(dim=1, correction=0), torch.ones(2, 3, 4), atol=1e-3, rtol=0)
