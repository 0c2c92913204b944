"""Vision transformer: the mapping to torchvision at a size that costs nothing, the start, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from danlu.models import create_model
from danlu.models.vision.vit import VARIANTS, VisionTransformer
from danlu.proof import randomise

ARGUMENTS = {"image_size": 24, "patch_size": 8, "depth": 3, "width": 48, "heads": 4, "hidden": 96}


def test_parity_with_torchvision_at_a_tiny_size() -> None:
    """The generic check compares S/16 with timm; the mapping of B and L is another, and the same at every size."""
    torchvision = pytest.importorskip("torchvision.models.vision_transformer")
    ours = randomise(VisionTransformer(**ARGUMENTS, num_classes=7))
    theirs = torchvision.VisionTransformer(24, 8, 3, 4, 48, 96, num_classes=7)
    mapping = next(one for one in VARIANTS if one.name == "vit_b_32").mapping
    assert mapping is not None
    theirs.load_state_dict(mapping.to_reference(ours.state_dict()))
    x = torch.randn(2, 3, 24, 24)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-5)


def test_it_starts_as_the_authors_program_does() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(**ARGUMENTS)
    assert not model(torch.randn(2, 3, 24, 24)).any()  # a classifier of zeros
    layer = model.layers[1]
    q, k, v = layer.attention.qkv.weight.detach().chunk(3)  # type: ignore[union-attr,operator]
    for matrix in (q, k, v, layer.attention.project.weight.detach()):  # type: ignore[union-attr,operator]
        assert float(matrix.abs().max()) == pytest.approx((6 / 96) ** 0.5, rel=0.02)  # of each matrix alone
    hidden = layer.mlp[0].weight.detach()  # type: ignore[index,union-attr,operator]
    assert float(hidden.abs().max()) == pytest.approx((6 / 144) ** 0.5, rel=0.02)
    assert float(model.patches.weight.detach().std()) == pytest.approx(192**-0.5, rel=0.05)
    assert float(model.positions.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_patches_without_positions_are_a_set() -> None:
    """Only the position embeddings tell one place from another."""
    torch.manual_seed(0)
    model = randomise(VisionTransformer(**ARGUMENTS, num_classes=5)).eval()
    x = torch.randn(1, 3, 24, 24)
    turned = x.unflatten(3, (3, 8))[:, :, :, [1, 2, 0]].flatten(3)  # columns of patches in another order
    assert not torch.allclose(model(turned), model(x), atol=1e-3)
    with torch.no_grad():
        model.positions[:, 1:] = 0
    torch.testing.assert_close(model(turned), model(x), rtol=1e-5, atol=1e-5)


def test_another_size_is_refused_with_the_reason() -> None:
    with torch.device("meta"):
        model = create_model("vit_b_16")
        with pytest.raises(ValueError, match=r"(?s)256×256.*224×224 only: it has learnt one position .*resize"):
            model(torch.empty(1, 3, 256, 256))
