"""LeNet-5 against an independent float64 implementation, written from the paper's description in plain numpy loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from danlu.models import create_model
from danlu.proof import randomise

Array = NDArray[np.float64]


def convolve(x: Array, weight: Array, bias: Array) -> Array:
    """Valid cross-correlation: y[o, i, j] = b[o] + Σ w[o, c, u, v] x[c, i + u, j + v]."""
    _, _, height, width = x.shape
    kernel = weight.shape[2]
    out = np.zeros((len(x), len(weight), height - kernel + 1, width - kernel + 1))
    for u in range(kernel):
        for v in range(kernel):
            window = x[:, :, u : u + out.shape[2], v : v + out.shape[3]]
            out += np.einsum("bchw,oc->bohw", window, weight[:, :, u, v])
    return out + bias[:, None, None]


def subsample(x: Array) -> Array:
    return np.maximum.reduce([x[:, :, 0::2, 0::2], x[:, :, 0::2, 1::2], x[:, :, 1::2, 0::2], x[:, :, 1::2, 1::2]])


def reference(x: Array, weights: dict[str, Array]) -> Array:
    """The modern LeNet-5 under the reference's names conv1 conv2 fc1 fc2 fc3."""
    for name in ("conv1", "conv2"):
        x = subsample(np.maximum(convolve(x, weights[f"{name}.weight"], weights[f"{name}.bias"]), 0))
    x = x.reshape(len(x), 400)
    for name in ("fc1", "fc2"):
        x = np.maximum(x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"], 0)
    return x @ weights["fc3.weight"].T + weights["fc3.bias"]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_parity(training: bool, channels: int) -> None:
    from danlu.models.vision.lenet import to_reference

    model = randomise(create_model("lenet5", in_channels=channels, num_classes=7)).train(training)
    x = torch.randn(5, channels, 32, 32, generator=torch.Generator().manual_seed(3))
    weights = {name: value.double().numpy() for name, value in to_reference(model.state_dict()).items()}
    expected = reference(x.double().numpy(), weights)
    with torch.no_grad():
        found = model(x).double().numpy()
    assert expected.shape == (5, 7)
    assert np.abs(expected).min() > 0
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_reference_weights_come_back() -> None:
    """Weights under the reference's names, loaded through the mapping, give the reference's logits."""
    from danlu.models.vision.lenet import from_reference

    names = {
        "conv1": (6, 1, 5, 5),
        "conv2": (16, 6, 5, 5),
        "fc1": (120, 400),
        "fc2": (84, 120),
        "fc3": (10, 84),
    }
    generator = torch.Generator().manual_seed(4)
    theirs = {}
    for name, shape in names.items():
        theirs[f"{name}.weight"] = 0.1 * torch.randn(shape, generator=generator)
        theirs[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)
    model = create_model("lenet5").eval()
    model.load_state_dict(from_reference(theirs))
    x = torch.randn(2, 1, 32, 32, generator=generator)
    expected = reference(x.double().numpy(), {name: value.double().numpy() for name, value in theirs.items()})
    with torch.no_grad():
        assert np.abs(model(x).double().numpy() - expected).max() <= 1e-5 * np.abs(expected).max()
