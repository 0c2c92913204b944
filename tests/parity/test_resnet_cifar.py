"""The CIFAR residual network against an independent float64 implementation, written from the paper in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from danlu.models import create_model
from danlu.models.vision.resnet_cifar import from_reference, to_reference
from danlu.proof import randomise

Array = NDArray[np.float64]


def convolve(x: Array, weight: Array, stride: int) -> Array:
    """3×3 cross-correlation with one zero pixel around: y[o, i, j] = Σ w[o, c, u, v] x[c, s i + u - 1, s j + v - 1]."""
    batch, _, height, width = x.shape
    padded = np.zeros((batch, x.shape[1], height + 2, width + 2))
    padded[:, :, 1:-1, 1:-1] = x
    rows, columns = (height + stride - 1) // stride, (width + stride - 1) // stride
    out = np.zeros((batch, len(weight), rows, columns))
    for u in range(3):
        for v in range(3):
            window = padded[:, :, u : u + stride * rows : stride, v : v + stride * columns : stride]
            out += np.einsum("bchw,oc->bohw", window[:, :, :rows, :columns], weight[:, :, u, v])
    return out


class Reference:
    """The network under the names of the widespread implementation; running statistics are updated in train mode."""

    def __init__(self, weights: dict[str, Array], blocks: int, training: bool) -> None:
        self.weights, self.blocks, self.training = dict(weights), blocks, training

    def normalise(self, x: Array, name: str) -> Array:
        w = self.weights
        if self.training:
            mean, variance = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
            count = x.size / x.shape[1]
            w[f"{name}.running_mean"] = 0.9 * w[f"{name}.running_mean"] + 0.1 * mean
            unbiased = variance * count / (count - 1)
            w[f"{name}.running_var"] = 0.9 * w[f"{name}.running_var"] + 0.1 * unbiased
            w[f"{name}.num_batches_tracked"] = w[f"{name}.num_batches_tracked"] + 1
        else:
            mean, variance = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        scaled = (x - mean[:, None, None]) / np.sqrt(variance[:, None, None] + 1e-5)
        return scaled * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    def block(self, x: Array, name: str, stride: int) -> Array:
        w = self.weights
        out = np.maximum(self.normalise(convolve(x, w[f"{name}.conv1.weight"], stride), f"{name}.bn1"), 0)
        out = self.normalise(convolve(out, w[f"{name}.conv2.weight"], 1), f"{name}.bn2")
        shortcut = x[:, :, ::stride, ::stride]
        missing = out.shape[1] - x.shape[1]
        if missing:
            zeros = np.zeros((len(x), missing // 2, *shortcut.shape[2:]))
            shortcut = np.concatenate([zeros, shortcut, zeros], axis=1)
        return np.maximum(out + shortcut, 0)

    def __call__(self, x: Array) -> Array:
        x = np.maximum(self.normalise(convolve(x, self.weights["conv1.weight"], 1), "bn1"), 0)
        for layer in (1, 2, 3):
            for number in range(self.blocks):
                x = self.block(x, f"layer{layer}.{number}", 2 if layer > 1 and number == 0 else 1)
        return x.mean(axis=(2, 3)) @ self.weights["linear.weight"].T + self.weights["linear.bias"]


def doubles(weights: dict[str, torch.Tensor]) -> dict[str, Array]:
    return {name: value.double().numpy().copy() for name, value in weights.items()}


@pytest.mark.parametrize(
    ("name", "size", "training"),
    [("resnet20", 32, False), ("resnet20", 32, True), ("resnet20", 19, False), ("resnet32", 16, False)],
)
def test_parity(name: str, size: int, training: bool) -> None:
    model = randomise(create_model(name, num_classes=7)).train(training)
    reference = Reference(doubles(to_reference(model.state_dict())), (int(name[6:]) - 2) // 6, training)
    x = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(3))
    expected = reference(x.double().numpy())
    with torch.no_grad():
        found = model(x).double().numpy()
    assert expected.shape == (4, 7)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    # In train mode the running statistics have moved, in ours as in the reference; in eval mode neither has.
    for key, value in doubles(to_reference(model.state_dict())).items():
        assert np.abs(value - reference.weights[key]).max() <= 1e-5 * max(1.0, np.abs(value).max()), key


def test_reference_weights_come_back() -> None:
    """Weights under the reference's names, loaded through the mapping, give the reference's logits."""
    theirs: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(5)

    def norm(name: str, channels: int) -> None:
        theirs[f"{name}.weight"] = 0.5 + torch.rand(channels, generator=generator)
        theirs[f"{name}.bias"] = 0.1 * torch.randn(channels, generator=generator)
        theirs[f"{name}.running_mean"] = 0.1 * torch.randn(channels, generator=generator)
        theirs[f"{name}.running_var"] = 0.5 + torch.rand(channels, generator=generator)
        theirs[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def convolution(name: str, channels: int, inputs: int) -> None:
        theirs[f"{name}.weight"] = torch.randn(channels, inputs, 3, 3, generator=generator) * (2 / (9 * inputs)) ** 0.5

    convolution("conv1", 16, 3)
    norm("bn1", 16)
    inputs = 16
    for layer, channels in ((1, 16), (2, 32), (3, 64)):
        for number in range(3):
            for part, seen in ((1, inputs), (2, channels)):
                convolution(f"layer{layer}.{number}.conv{part}", channels, seen)
                norm(f"layer{layer}.{number}.bn{part}", channels)
            inputs = channels
    theirs["linear.weight"] = 0.1 * torch.randn(10, 64, generator=generator)
    theirs["linear.bias"] = 0.1 * torch.randn(10, generator=generator)

    model = create_model("resnet20").eval()
    model.load_state_dict(from_reference(theirs))
    x = torch.randn(2, 3, 32, 32, generator=generator)
    expected = Reference(doubles(theirs), 3, training=False)(x.double().numpy())
    with torch.no_grad():
        assert np.abs(model(x).double().numpy() - expected).max() <= 1e-5 * np.abs(expected).max()
