"""The five orders agree with their interpreter in float64, where no rounding grows, and differ from each other."""

from __future__ import annotations

import pytest
import torch

from danlu.models.vision.preact_resnet import VARIANTS
from danlu.proof.checks import randomise
from danlu.proof.parity import build_reference

ORDERS = [variant for variant in VARIANTS if "order" in (variant.mapping.arguments if variant.mapping else {})]


@pytest.mark.parametrize("variant", ORDERS, ids=lambda variant: variant.name)
def test_orders_agree_in_float64(variant) -> None:
    assert variant.mapping is not None
    ours, theirs = randomise(variant.build()), build_reference(variant.mapping)
    theirs.load_state_dict(variant.mapping.to_reference(ours.state_dict()))
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs.train()(x)
        found = ours.double().train()(x.double())
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()  # the interpreter gives float32


def test_orders_differ() -> None:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = [randomise(variant.build()).eval()(x) for variant in ORDERS]
    for i, one in enumerate(logits):
        for other in logits[:i]:
            assert (one - other).abs().max() > 0.05 * one.abs().max()
