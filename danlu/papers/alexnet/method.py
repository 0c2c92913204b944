"""What section 3 of the paper shows on CIFAR-10 with four layers: ReLU against tanh, and response normalisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from danlu.augment.chain import make_chain
from danlu.core.seeds import derive_seed
from danlu.papers.kinds import Attempt, Measured
from danlu.papers.small import Augmented, Fit, device_of, fit, fit_and_test, pictures_of

__all__ = ["ResponseNorm", "build_four_layers", "normalisation", "relu_against_tanh"]


class ResponseNorm(nn.Module):
    """The paper's normalisation across five channels: x / (2 + 10⁻⁴ Σ x²)^¾. Takes and returns [B, C, H, W].

    Sums over neighbouring channels are one product with a band of ones, in float32: the library's own takes longer
    than all the rest of the network on a processor.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        place = torch.arange(channels)
        band = (place[:, None] - place[None, :]).abs() <= 2
        self.register_buffer("band", band.float())
        self.band: Tensor

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            last = x.permute(0, 2, 3, 1).to(self.band.dtype)
            root = (2.0 + 1e-4 * (last.square() @ self.band)).rsqrt()
            return (last * (root * root.sqrt())).to(x.dtype).permute(0, 3, 1, 2)


def build_four_layers(channels: int, classes: int, unit: str = "relu", normalise: bool = False) -> nn.Module:
    """Return three 5×5 convolutions of 32, 32 and 64 channels with pooling, and one linear layer.

    Takes [B, C, 32, 32], returns logits [B, K]. With ``normalise``, the first two are followed by the paper's
    normalisation across five channels (k = 2, α = 10⁻⁴, β = 0.75).
    """
    layers: list[nn.Module] = []
    for index, width in enumerate((32, 32, 64)):
        rise: nn.Module = nn.ReLU() if unit == "relu" else nn.Tanh()
        layers.append(nn.Conv2d(channels, width, 5, padding=2))
        # The largest of what a rising function gives is what it gives for the largest: a quarter of the work.
        pooled = [nn.MaxPool2d(3, 2, ceil_mode=True), rise]
        layers += pooled if index == 0 else [rise, nn.AvgPool2d(3, 2, ceil_mode=True)]
        if normalise and index < 2:
            layers.append(ResponseNorm(width))
        channels = width
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 4 * 4, classes))
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu" if unit == "relu" else "linear")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # all of them have one
    # Channels last takes half the time on a processor with bfloat16.
    return network.to(memory_format=torch.channels_last)


def normalisation(attempt: Attempt, normalise: bool, epochs: int = 30) -> Measured:
    """Return the test error with or without local response normalisation."""
    crop = ({"name": "pad_crop", "padding": 4}, {"name": "flip"})

    def build(channels: int, classes: int) -> nn.Module:
        return build_four_layers(channels, classes, normalise=normalise)

    return fit_and_test(attempt, build, Fit(epochs=epochs, lr=0.02, weight_decay=1e-3), augment=crop)


def relu_against_tanh(attempt: Attempt, target: float = 0.75, most: int = 150) -> Measured:
    """Return how many times the epochs tanh takes that ReLU takes to 25 % training error, without augmentation.

    Each takes the best of three constant learning rates, as the paper chose them independently.
    """
    device, pictures = device_of(attempt), pictures_of(attempt)
    batches = Augmented(pictures.train, pictures.train_labels, make_chain(()), attempt.seed, device)
    needed: dict[str, float] = {}
    for unit in ("relu", "tanh"):
        reached: list[float] = []
        for lr in (0.003, 0.01, 0.03):
            torch.manual_seed(derive_seed("papers/initialise", attempt.seed))
            network = build_four_layers(3, 10, unit).to(device)
            accuracies = [0.0]

            def watch(epoch: int, accuracy: float, seen: list[float] = accuracies) -> bool:
                seen.append(accuracy)
                return accuracy >= target

            limit = int(min([float(most), *reached]))
            fit(network, batches, len(pictures.train), Fit(limit, lr=lr, schedule="constant"), attempt, watch)
            if accuracies[-1] >= target:
                before = accuracies[-2]
                # Between the last two epochs on a straight line, so that the ratio is no ratio of small integers.
                reached.append(len(accuracies) - 2 + (target - before) / (accuracies[-1] - before))
        needed[unit] = min(reached, default=float(most))
    ratio = needed["tanh"] / needed["relu"]
    return Measured(round(ratio, 3), pictures.hash, {unit: round(value, 2) for unit, value in needed.items()})
