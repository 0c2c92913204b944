"""What three files or more share: gates, norms, pooling pyramids, padding, and the activations of the literature.

Each has an identity that proves it (``tests/models/test_layers.py``): zero offsets make a deformable convolution an
ordinary one, a response normalisation without strength changes nothing, and so on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "ASPP",
    "SPP",
    "ChannelGate",
    "ConvNormReLU",
    "DeformableConv2d",
    "HybridDilation",
    "LocalResponseNorm",
    "SameAvgPool2d",
    "SameConv2d",
    "SameMaxPool2d",
    "SpatialGate",
    "SqueezeExcite",
    "StochasticDepth",
    "hard_sigmoid",
    "hard_swish",
    "linear_rates",
    "make_divisible",
    "maxout",
    "mish",
    "pad_same",
    "same_padding",
    "scaled_tanh",
    "unseen_pixels",
]


class ConvNormReLU(nn.Sequential):
    """Convolution without bias, batch norm, ReLU: [B, in_channels, H, W] -> [B, channels, H', W'].

    Args:
        in_channels: channels in.
        channels: channels out.
        kernel: height and width of the kernel.
        stride: of the convolution.
        padding: zeros around; by default what keeps H and W at stride 1 for odd kernels.
        groups: of the convolution.
        eps: of the batch norm.
        dilation: pixels from one tap of the kernel to the next.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] | None = None,
        groups: int = 1,
        eps: float = 1e-5,
        dilation: int = 1,
    ) -> None:
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        around = (sides[0] // 2 * dilation, sides[1] // 2 * dilation) if padding is None else padding
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, sides, stride, around, dilation, groups, bias=False)
        self.norm = nn.BatchNorm2d(channels, eps=eps)
        self.relu = nn.ReLU(inplace=True)


class SqueezeExcite(nn.Module):
    """Channel gate of squeeze-and-excitation: x · gate(W2 act(W1 mean(x))). Source: Hu et al. 2018, equations 2-4.

    Args:
        channels: C of the maps [B, C, H, W].
        squeezed: width of the bottleneck, C / r in the paper.
        activation: between the two 1×1 convolutions; ReLU in the paper.
        gate: what maps the result into [0, 1]; the sigmoid in the paper.
        bias: whether the two 1×1 convolutions have biases.
    """

    def __init__(
        self,
        channels: int,
        squeezed: int,
        activation: Callable[[Tensor], Tensor] = F.relu,
        gate: Callable[[Tensor], Tensor] = torch.sigmoid,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.activation, self.gate = activation, gate
        self.fc1 = nn.Conv2d(channels, squeezed, 1, bias=bias)
        self.fc2 = nn.Conv2d(squeezed, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps [B, C, H, W], each scaled by its gate [B, C, 1, 1]."""
        squeezed = x.mean(dim=(2, 3), keepdim=True)
        return x * self.gate(self.fc2(self.activation(self.fc1(squeezed))))


class ChannelGate(nn.Module):
    """Gate of every channel from its mean and its maximum. Source: Woo et al. 2018 (CBAM), equation 2.

    One perceptron serves both: x · sigmoid(W2 relu(W1 mean(x)) + W2 relu(W1 max(x))), biases left out here.

    Args:
        channels: C of the maps [B, C, H, W].
        squeezed: width of the bottleneck, C / r in the paper.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, squeezed)
        self.fc2 = nn.Linear(squeezed, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps [B, C, H, W], each scaled by its gate [B, C, 1, 1]."""
        mean, maximum = (self.fc2(F.relu(self.fc1(pooled))) for pooled in (x.mean(dim=(2, 3)), x.amax(dim=(2, 3))))
        return x * torch.sigmoid(mean + maximum)[:, :, None, None]


class SpatialGate(nn.Module):
    """Gate of every pixel from the maximum and mean over its channels. Source: Woo et al. 2018 (CBAM), equation 3.

    The maximum comes first, as in the authors' program; the paper writes the mean first.

    Args:
        kernel: side of the convolution; 7 in the paper.
        norm: whether a batch norm follows the convolution, as in the authors' program; the paper has none.
    """

    def __init__(self, kernel: int = 7, norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=not norm)
        self.norm = nn.BatchNorm2d(1) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps [B, C, H, W], each pixel scaled by its gate [B, 1, H, W]."""
        pooled = torch.cat([x.amax(dim=1, keepdim=True), x.mean(dim=1, keepdim=True)], dim=1)  # [B, 2, H, W]
        return x * torch.sigmoid(self.norm(self.conv(pooled)))


class StochasticDepth(nn.Module):
    """Drops a residual branch per sample with probability ``rate`` in train mode. Source: Huang et al. 2016.

    The kept ones are divided by 1 - rate, so that eval mode changes nothing; the paper scales in eval mode instead,
    which is the same in expectation.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"rate = {rate}: must be in [0, 1)")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, …] with some of the B samples zero; the same in eval mode or at rate 0."""
        if not self.training or self.rate == 0:
            return x
        keep = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1))
        return x * keep.bernoulli_(1 - self.rate) / (1 - self.rate)

    def extra_repr(self) -> str:
        """Return the rate, for ``print(model)``."""
        return f"rate={self.rate}"


def linear_rates(last: float, blocks: int, *, from_zero: bool) -> list[float]:
    """Return the drop rate of each of ``blocks`` blocks, rising linearly to ``last``.

    ``from_zero``: the first block has rate 0; otherwise ``last / blocks``, as Huang et al. 2016 have it.
    """
    if from_zero:
        return [last * block / max(blocks - 1, 1) for block in range(blocks)]
    return [last * (block + 1) / blocks for block in range(blocks)]


class LocalResponseNorm(nn.Module):
    """x / (k + α Σ x²)^β over ``size`` neighbouring channels. Source: Krizhevsky et al. 2012, section 3.3.

    The paper multiplies the sum by α; torch's own layer multiplies the mean, which is α / size.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised maps [B, C, H, W]."""
        return F.local_response_norm(x, self.size, self.alpha * self.size, self.beta, self.k)


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Return the zeros before and after that TensorFlow's ``SAME`` takes, so that ceil(size / stride) pixels come out.

    The odd one stands after.
    """
    outputs = -(-size // stride)
    needed = max((outputs - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return needed // 2, needed - needed // 2


def pad_same(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int] = (1, 1), value: float = 0.0
) -> Tensor:
    """Return maps [B, C, H, W] with ``value`` around them as :func:`same_padding` says, height first."""
    top, bottom = same_padding(x.shape[2], kernel[0], stride[0], dilation[0])
    left, right = same_padding(x.shape[3], kernel[1], stride[1], dilation[1])
    return F.pad(x, (left, right, top, bottom), value=value) if top + bottom + left + right else x


class SameConv2d(nn.Conv2d):
    """Convolution padded as TensorFlow's ``SAME``: [B, C, H, W] -> [B, C', ceil(H / stride), ceil(W / stride)]."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of the padded maps."""
        x = pad_same(x, self.kernel_size, self.stride, self.dilation)
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class SameMaxPool2d(nn.Module):
    """Maximum pooling padded as TensorFlow's ``SAME``; padding never wins the maximum."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C, ceil(H / stride), ceil(W / stride)]."""
        pair, step = (self.kernel, self.kernel), (self.stride, self.stride)
        return F.max_pool2d(pad_same(x, pair, step, value=-math.inf), self.kernel, self.stride)


class SameAvgPool2d(nn.Module):
    """Average pooling padded as TensorFlow's ``SAME``; the average is over the pixels of the picture alone."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C, ceil(H / stride), ceil(W / stride)]."""
        pair, step = (self.kernel, self.kernel), (self.stride, self.stride)
        inside = pad_same(torch.ones_like(x[:1, :1]), pair, step)
        means = F.avg_pool2d(pad_same(x, pair, step), self.kernel, self.stride)
        return means / F.avg_pool2d(inside, self.kernel, self.stride)


class SPP(nn.Module):
    """Spatial pyramid pooling: maxima over n×n bins for each n of ``bins``, as one vector. Source: He et al. 2014.

    [B, C, H, W] of any size -> [B, C · Σ n²].
    """

    def __init__(self, bins: Sequence[int] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.bins = tuple(bins)

    def forward(self, x: Tensor) -> Tensor:
        """Return the vectors of all bins, coarsest first as given."""
        return torch.cat([F.adaptive_max_pool2d(x, n).flatten(1) for n in self.bins], dim=1)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1×1, dilated 3×3 convolutions and the global mean. Source: Chen et al. 2017.

    Train mode needs two pictures or more: the batch norm of the global mean sees one pixel of each.

    Args:
        in_channels: C of the maps [B, C, H, W].
        channels: of every branch and of the result [B, channels, H, W].
        rates: dilations of the 3×3 branches; (6, 12, 18) at output stride 16 in the paper.
        dropout: probability after the projection; 0.5 in the widespread implementation.
    """

    def __init__(
        self, in_channels: int, channels: int = 256, rates: Sequence[int] = (6, 12, 18), dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.one = ConvNormReLU(in_channels, channels, 1)
        self.dilated = nn.ModuleList(ConvNormReLU(in_channels, channels, 3, dilation=rate) for rate in rates)
        self.pooled = ConvNormReLU(in_channels, channels, 1)
        self.project = ConvNormReLU((2 + len(rates)) * channels, channels, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, channels, H, W]."""
        pooled = self.pooled(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        branches = [self.one(x), *(branch(x) for branch in self.dilated), pooled]
        projected: Tensor = self.dropout(self.project(torch.cat(branches, dim=1)))
        return projected


class HybridDilation(nn.Sequential):
    """Dilated 3×3 convolutions in a row whose rates leave no pixel unseen. Source: Wang et al. 2018, section 3.2.

    [B, in_channels, H, W] -> [B, channels, H, W], each output seeing the whole square of 2 Σ rates + 1 pixels.

    Args:
        in_channels: channels in.
        channels: of every layer.
        rates: dilation of each layer; a common factor such as in (2, 2, 2) makes a grid of holes.

    Raises:
        ValueError: the rates leave pixels unseen.
    """

    def __init__(self, in_channels: int, channels: int, rates: Sequence[int] = (1, 2, 5)) -> None:
        holes = unseen_pixels(rates)
        if holes:
            raise ValueError(f"rates = {tuple(rates)}: {holes} pixels in a row of {2 * sum(rates) + 1} remain unseen")
        seen = [in_channels] + [channels] * (len(rates) - 1)
        super().__init__(*(ConvNormReLU(c, channels, 3, dilation=rate) for c, rate in zip(seen, rates, strict=True)))


def unseen_pixels(rates: Sequence[int], kernel: int = 3) -> int:
    """Return how many pixels of its span one output of dilated convolutions in a row never sees, along one axis."""
    seen, reach = {0}, kernel // 2
    for rate in rates:
        seen = {pixel + rate * tap for pixel in seen for tap in range(-reach, reach + 1)}
    return max(seen) - min(seen) + 1 - len(seen)


class DeformableConv2d(nn.Module):
    """Deformable convolution v2: every tap is moved by an offset and scaled by a mask. Source: Zhu et al. 2019.

    A convolution over the same pixels gives, for each of the k² taps in turn, its offset (down, right) in pixels, then
    the k² masks. It starts at zero, and the mask is twice the sigmoid, so that the layer starts as an ordinary
    convolution; the paper's mask is the sigmoid and starts at one half. Computed by torchvision's operator.
    [B, in_channels, H, W] -> [B, channels, H', W'].
    """

    def __init__(self, in_channels: int, channels: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.weight = nn.Parameter(torch.empty(channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.offset = nn.Conv2d(in_channels, 3 * kernel * kernel, kernel, stride, padding)
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        nn.init.zeros_(self.offset.weight)
        assert self.offset.bias is not None
        nn.init.zeros_(self.offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of the moved taps."""
        from torchvision.ops import deform_conv2d

        moved = self.offset(x)
        taps = self.kernel * self.kernel
        mask = 2 * torch.sigmoid(moved[:, 2 * taps :])
        out: Tensor = deform_conv2d(
            x, moved[:, : 2 * taps], self.weight, self.bias, self.stride, self.padding, mask=mask
        )
        return out


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round ``value`` to a multiple of ``divisor``, never by more than a tenth down. Source: Sandler et al. 2018."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def hard_sigmoid(x: Tensor) -> Tensor:
    """Return relu6(x + 3) / 6. Source: Howard et al. 2019."""
    return F.hardsigmoid(x)


def hard_swish(x: Tensor) -> Tensor:
    """Return x · relu6(x + 3) / 6. Source: Howard et al. 2019."""
    return F.hardswish(x)


def mish(x: Tensor) -> Tensor:
    """Return x · tanh(softplus(x)). Source: Misra 2019."""
    return F.mish(x)


def scaled_tanh(x: Tensor) -> Tensor:
    """Return 1.7159 tanh(2x / 3), which maps ±1 to ±1. Source: LeCun et al. 1998, appendix A."""
    return 1.7159 * torch.tanh(x * (2 / 3))


def maxout(x: Tensor, pieces: int) -> Tensor:
    """Return the maximum of each ``pieces`` neighbouring channels: [B, C, …] -> [B, C / pieces, …].

    Source: Goodfellow et al. 2013.

    Raises:
        ValueError: C is no multiple of ``pieces``.
    """
    if x.shape[1] % pieces:
        raise ValueError(f"{x.shape[1]} channels cannot be taken {pieces} at a time")
    return x.reshape(x.shape[0], -1, pieces, *x.shape[2:]).amax(dim=2)
