"""Every shared layer against the identity that proves it, or against its paper's formula as a loop."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models.layers import (
    ASPP,
    SPP,
    ChannelGate,
    ConvNormReLU,
    DeformableConv2d,
    HybridDilation,
    LocalResponseNorm,
    SameAvgPool2d,
    SameConv2d,
    SameMaxPool2d,
    SpatialGate,
    SqueezeExcite,
    StochasticDepth,
    hard_sigmoid,
    hard_swish,
    linear_rates,
    make_divisible,
    maxout,
    mish,
    same_padding,
    scaled_tanh,
    unseen_pixels,
)

near = torch.testing.assert_close


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- convolutions ---


def test_a_convolution_is_a_matrix_product() -> None:
    """im2col: the windows as columns, times the kernels as rows."""
    conv = nn.Conv2d(3, 5, 3, stride=2, padding=1).double()
    x = maps(2, 3, 7, 6)
    columns = F.unfold(x, 3, stride=2, padding=1)  # [2, 27, 4 · 3]
    assert conv.bias is not None
    near((conv.weight.flatten(1) @ columns + conv.bias[:, None]).view(2, 5, 4, 3), conv(x))


def test_a_1x1_convolution_is_a_linear_layer() -> None:
    conv = nn.Conv2d(4, 6, 1).double()
    x = maps(2, 4, 3, 5)
    near(conv(x), F.linear(x.permute(0, 2, 3, 1), conv.weight[:, :, 0, 0], conv.bias).permute(0, 3, 1, 2))


def test_depthwise_and_pointwise_make_a_convolution_of_rank_one() -> None:
    depthwise, pointwise = nn.Conv2d(4, 4, 3, groups=4, bias=False).double(), nn.Conv2d(4, 6, 1, bias=False).double()
    x = maps(2, 4, 6, 6)
    kernel = pointwise.weight * depthwise.weight[:, 0]  # [6, 4, 1, 1] · [4, 3, 3]
    near(pointwise(depthwise(x)), F.conv2d(x, kernel))


@given(st.integers(1, 4))
@settings(max_examples=4, deadline=None)
def test_a_dilated_convolution_has_a_kernel_stuffed_with_zeros(dilation: int) -> None:
    layer = ConvNormReLU(2, 3, 3, dilation=dilation).double()
    x, weight = maps(1, 2, 12, 11), layer.conv.weight
    stuffed = torch.zeros(3, 2, 2 * dilation + 1, 2 * dilation + 1, dtype=torch.float64)
    stuffed[:, :, ::dilation, ::dilation] = weight
    expected = F.conv2d(x, stuffed, padding=dilation)
    near(layer.conv(x), expected)
    near(layer.eval()(x), F.relu(expected / math.sqrt(1 + 1e-5)))


def test_conv_norm_relu_takes_rectangles_and_groups() -> None:
    layer = ConvNormReLU(4, 8, (1, 7), groups=2)
    assert layer(torch.randn(2, 4, 5, 9)).shape == (2, 8, 5, 9)
    assert layer.conv.weight.shape == (8, 2, 1, 7)
    assert layer.conv.bias is None
    assert ConvNormReLU(4, 8, 3, 2, 0)(torch.randn(2, 4, 9, 9)).shape == (2, 8, 4, 4)


def test_a_transposed_convolution_is_the_gradient_of_a_convolution() -> None:
    weight, x = maps(5, 3, 3, 3), maps(2, 3, 7, 7, seed=1).requires_grad_()
    out = F.conv2d(x, weight, stride=2, padding=1)
    g = maps(*out.shape, seed=2)
    (gradient,) = torch.autograd.grad(out, x, g)
    near(F.conv_transpose2d(g, weight, stride=2, padding=1), gradient)


# --- padding as TensorFlow computes it ---


def tensorflow_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """The rule of TensorFlow's guide, which asks whether the stride divides the size."""
    total = max(kernel - stride, 0) if size % stride == 0 else max(kernel - size % stride, 0)
    return total // 2, total - total // 2


@given(st.integers(1, 300), st.integers(1, 11), st.integers(1, 5), st.integers(1, 3))
def test_same_padding_is_tensorflows(size: int, kernel: int, stride: int, dilation: int) -> None:
    before, after = same_padding(size, kernel, stride, dilation)
    span = dilation * (kernel - 1) + 1
    assert (before, after) == tensorflow_padding(size, span, stride)
    assert (size + before + after - span) // stride + 1 == math.ceil(size / stride)
    assert 0 <= after - before <= 1


@pytest.mark.parametrize(
    ("size", "kernel", "expected"),
    [(224, 3, (0, 1)), (225, 3, (1, 1)), (224, 5, (1, 2)), (7, 5, (2, 2)), (6, 2, (0, 0)), (7, 2, (0, 1))],
)
def test_same_padding_by_hand(size: int, kernel: int, expected: tuple[int, int]) -> None:
    """Stride 2: on even sizes the kernel starts on the first pixel, which symmetric padding never does."""
    assert same_padding(size, kernel, 2) == expected


def test_the_guides_own_example() -> None:
    """13 pixels, kernel 6, stride 5: one zero before, two after."""
    assert same_padding(13, 6, 5) == (1, 2)


@pytest.mark.parametrize(
    ("size", "kernel", "expected"),
    [
        (4, 3, [1 + 2 + 3, 3 + 4]),  # [1 2 3] 4 | [3 4 0]
        (5, 3, [1 + 2, 2 + 3 + 4, 4 + 5]),  # [0 1 2] | [2 3 4] | [4 5 0]
        (4, 5, [1 + 2 + 3 + 4, 2 + 3 + 4]),  # [0 1 2 3 4] | [2 3 4 0 0]
        (5, 5, [1 + 2 + 3, 1 + 2 + 3 + 4 + 5, 3 + 4 + 5]),
    ],
)
def test_same_layers_by_hand(size: int, kernel: int, expected: list[int]) -> None:
    row = torch.arange(1.0, size + 1)
    x = row.expand(1, 1, size, size)  # each row counts from one
    conv = SameConv2d(1, 1, (1, kernel), stride=(1, 2), bias=False)
    nn.init.ones_(conv.weight)
    out = conv(x)
    assert out.shape == (1, 1, size, len(expected))
    assert out[0, 0, 0].tolist() == expected
    windows = [[c for c in range(1, size + 1) if start <= c < start + kernel] for start in _starts(size, kernel)]
    assert [sum(window) for window in windows] == expected
    assert SameMaxPool2d(kernel, 2)(x)[0, 0, 0].tolist() == [max(window) for window in windows]
    assert SameMaxPool2d(kernel, 2)(x - 100)[0, 0, 0].tolist() == [max(window) - 100 for window in windows]
    means = torch.tensor([sum(window) / len(window) for window in windows])
    near(SameAvgPool2d(kernel, 2)(x)[0, 0, 0], means)


def _starts(size: int, kernel: int) -> list[int]:
    first = 1 - tensorflow_padding(size, kernel, 2)[0]
    return [first + 2 * i for i in range(math.ceil(size / 2))]


def test_same_pooling_without_padding_is_the_ordinary_one() -> None:
    x = maps(2, 3, 6, 8)
    near(SameMaxPool2d(2, 2)(x), F.max_pool2d(x, 2))
    near(SameAvgPool2d(2, 2)(x), F.avg_pool2d(x, 2))
    odd = maps(2, 3, 7, 5)
    near(SameAvgPool2d(2, 2)(odd), F.avg_pool2d(odd, 2, 2, ceil_mode=True, count_include_pad=False))


def test_same_conv_keeps_groups_dilation_and_bias() -> None:
    conv = SameConv2d(4, 6, 3, stride=1, dilation=2, groups=2).double()
    x = maps(2, 4, 9, 7)
    near(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=2, dilation=2, groups=2))


# --- gates ---


def test_squeeze_excite_without_weights_halves() -> None:
    gate, x = SqueezeExcite(8, 2).double(), maps(2, 8, 5, 4)
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.zero_()
    near(gate(x), x / 2)


def test_squeeze_excite_by_its_equations() -> None:
    gate, x = SqueezeExcite(6, 3).double(), maps(2, 6, 5, 4)
    assert gate.fc1.bias is not None
    assert gate.fc2.bias is not None
    z = torch.stack([x[:, c].flatten(1).sum(dim=1) / 20 for c in range(6)], dim=1)  # equation 2
    s = torch.sigmoid(
        F.relu(z @ gate.fc1.weight.flatten(1).T + gate.fc1.bias) @ gate.fc2.weight.flatten(1).T + gate.fc2.bias
    )
    for b, c in itertools.product(range(2), range(6)):
        near(gate(x)[b, c], x[b, c] * s[b, c])
    hard = SqueezeExcite(6, 3, activation=F.silu, gate=hard_sigmoid, bias=False).double()
    assert hard.fc1.bias is None
    assert not torch.equal(hard(x), gate(x))


def test_channel_gate_sees_mean_and_maximum() -> None:
    gate = ChannelGate(6, 3).double()
    flat = maps(2, 6, 1, 1).expand(2, 6, 4, 4)  # mean = maximum, so both terms are the same
    once = gate.fc2(F.relu(gate.fc1(flat[:, :, 0, 0])))
    near(gate(flat), flat * torch.sigmoid(2 * once)[:, :, None, None])
    x = maps(2, 6, 4, 4)
    swapped = x.flatten(2)[:, :, torch.randperm(16)].view_as(x)  # neither depends on where a pixel stands
    near(gate(swapped) / swapped, gate(x) / x)
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.zero_()
    near(gate(x), x / 2)


def test_spatial_gate_by_its_equation() -> None:
    gate, x = SpatialGate(norm=False).double(), maps(2, 5, 6, 6)
    pooled = torch.stack([x.max(dim=1).values, x.sum(dim=1) / 5], dim=1)
    near(gate(x), x * torch.sigmoid(F.conv2d(pooled, gate.conv.weight, gate.conv.bias, padding=3)))
    shuffled = x[:, torch.randperm(5)]
    near(gate(shuffled).sum(dim=1), gate(x).sum(dim=1))
    normed = SpatialGate(3).double().eval()
    with torch.no_grad():
        normed.conv.weight.zero_()
    near(normed(x), x / 2)


# --- norms and pooling ---


@pytest.mark.parametrize("size", [3, 5])
def test_response_norm_by_the_papers_formula(size: int) -> None:
    alpha, beta, k = 0.3, 0.75, 2.0  # α large enough to be seen
    x, channels = maps(1, 7, 2, 2), 7
    expected = torch.empty_like(x)
    for i in range(channels):
        near_ones = range(max(0, i - size // 2), min(channels - 1, i + size // 2) + 1)
        total = sum(x[:, j] ** 2 for j in near_ones)
        expected[:, i] = x[:, i] / (k + alpha * total) ** beta
    near(LocalResponseNorm(size, alpha, beta, k)(x), expected)


def test_response_norm_without_strength_changes_nothing() -> None:
    x = maps(2, 8, 3, 3)
    near(LocalResponseNorm(alpha=0.0, k=1.0)(x), x)
    near(LocalResponseNorm(alpha=0.0)(x), x / 2**0.75)  # the paper's k = 2 and β = 0.75


def test_group_norms_at_both_ends() -> None:
    x = maps(2, 6, 4, 5)
    near(F.group_norm(x, 6), F.instance_norm(x))
    near(F.group_norm(x, 1), F.layer_norm(x, [6, 4, 5]))


def test_global_average_pooling_is_a_fully_connected_layer() -> None:
    x = maps(2, 3, 4, 5)
    near(x.mean(dim=(2, 3)), F.linear(x.flatten(2), torch.full((1, 20), 1 / 20, dtype=torch.float64))[..., 0])


@given(st.integers(6, 20), st.integers(6, 20))
@settings(max_examples=10, deadline=None)
def test_pyramid_pooling_by_the_papers_bins(height: int, width: int) -> None:
    """Bin (i, j) of n×n spans rows ⌊i h / n⌋ to ⌈(i + 1) h / n⌉; the vector is as long whatever the size."""
    x = maps(2, 3, height, width)
    out = SPP()(x)
    assert out.shape == (2, 3 * (1 + 4 + 9 + 36))
    near(out[:, :3], x.amax(dim=(2, 3)))
    for i, j in itertools.product(range(3), range(3)):
        rows = slice(i * height // 3, -(-(i + 1) * height // 3))
        columns = slice(j * width // 3, -(-(j + 1) * width // 3))
        level = out[:, 3 * 5 : 3 * 14].view(2, 3, 3, 3)
        near(level[:, :, i, j], x[:, :, rows, columns].amax(dim=(2, 3)))


# --- dilation ---


def test_aspp_keeps_the_size_and_sees_everything() -> None:
    layer = ASPP(4, 8, rates=(2, 4, 6)).eval()
    x = torch.randn(2, 4, 17, 13, requires_grad=True)
    out = layer(x)
    assert out.shape == (2, 8, 17, 13)
    assert [branch.conv.dilation for branch in layer.dilated] == [(2, 2), (4, 4), (6, 6)]  # type: ignore[union-attr]
    assert layer.project.conv.weight.shape == (8, 5 * 8, 1, 1)
    (gradient,) = torch.autograd.grad(out[0, :, 8, 6].sum(), x)
    assert (gradient[0] != 0).any(dim=0).all()  # through the global mean
    assert not gradient[1].any()


def seen_by_gradient(rates: tuple[int, ...]) -> Tensor:
    """Which pixels of a row the middle of the output depends on."""
    side = 2 * sum(rates) + 1
    x = torch.zeros(1, 1, side, side, requires_grad=True)
    y = x
    for rate in rates:
        y = F.conv2d(y, torch.ones(1, 1, 3, 3), padding=rate, dilation=rate)
    (gradient,) = torch.autograd.grad(y[0, 0, side // 2, side // 2], x)
    return gradient[0, 0] != 0


def test_hybrid_dilation_leaves_no_pixel_unseen() -> None:
    assert seen_by_gradient((1, 2, 5)).all()
    assert int(seen_by_gradient((2, 2, 2)).sum()) == 49  # of 169: a grid of every second pixel
    layer = HybridDilation(3, 6)
    assert layer(torch.randn(2, 3, 20, 19)).shape == (2, 6, 20, 19)
    with pytest.raises(ValueError, match=r"rates = \(2, 2, 2\): 6 pixels in a row of 13 remain unseen"):
        HybridDilation(3, 6, (2, 2, 2))


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_unseen_pixels_are_those_without_gradient(rates: list[int]) -> None:
    """Also the published condition: M₁ ≤ 1 with Mₙ = rₙ and Mᵢ = max(Mᵢ₊₁ - 2rᵢ, 2rᵢ - Mᵢ₊₁, rᵢ) is enough."""
    seen = seen_by_gradient(tuple(rates))
    assert unseen_pixels(rates) == int((~seen[len(seen) // 2]).sum())
    largest = rates[-1]
    for rate in reversed(rates[:-1]):
        largest = max(largest - 2 * rate, 2 * rate - largest, rate)
    if largest <= 1:
        assert unseen_pixels(rates) == 0


# --- deformable convolution ---


def test_zero_offsets_make_an_ordinary_convolution() -> None:
    layer = DeformableConv2d(3, 5, stride=2).double()
    x = maps(2, 3, 8, 7)
    near(layer(x), F.conv2d(x, layer.weight, layer.bias, stride=2, padding=1))


@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, 1), (2, -1)])
def test_an_integer_offset_shifts(down: int, right: int) -> None:
    layer = DeformableConv2d(3, 5).double()
    assert layer.offset.bias is not None
    with torch.no_grad():
        layer.offset.bias[0:18:2], layer.offset.bias[1:18:2] = float(down), float(right)
    x = maps(2, 3, 12, 12)
    x[:, :, :4], x[:, :, -4:], x[:, :, :, :4], x[:, :, :, -4:] = 0, 0, 0, 0  # so that nothing is shifted out
    near(layer(x), F.conv2d(x.roll((-down, -right), (2, 3)), layer.weight, layer.bias, padding=1))


def test_a_closed_mask_leaves_the_bias() -> None:
    layer = DeformableConv2d(3, 5).double()
    assert layer.offset.bias is not None
    with torch.no_grad():
        layer.bias.copy_(torch.arange(5.0))
        layer.offset.bias[18:] = -100.0
    near(layer(maps(1, 3, 6, 6)), torch.arange(5.0).double()[:, None, None].expand(1, 5, 6, 6))


def test_half_an_offset_interpolates_and_everything_gets_a_gradient() -> None:
    layer = DeformableConv2d(1, 1, kernel=1, padding=0).double()
    assert layer.offset.bias is not None
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.offset.bias[1] = 0.5
    x = maps(1, 1, 4, 6)
    near(layer(x)[..., :-1], (x[..., :-1] + x[..., 1:]) / 2)
    layer(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in layer.parameters())


# --- stochastic depth ---


def test_stochastic_depth_in_eval_mode_changes_nothing() -> None:
    x = maps(4, 3, 2, 2)
    assert StochasticDepth(0.5).eval()(x) is x
    assert StochasticDepth(0.0)(x) is x


@given(st.floats(0.05, 0.9))
@settings(max_examples=10, deadline=None)
def test_stochastic_depth_drops_whole_samples(rate: float) -> None:
    torch.manual_seed(0)
    out = StochasticDepth(rate)(torch.ones(4000, 2, 3))
    kept = out[:, 0, 0] != 0
    near(out, (kept.float() / (1 - rate))[:, None, None].expand_as(out))
    deviation = math.sqrt(rate * (1 - rate) / 4000)
    assert abs(float(kept.float().mean()) - (1 - rate)) < 5 * deviation
    assert float(out.mean()) == pytest.approx(1, abs=5 * deviation / (1 - rate))  # the expectation is preserved


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2.0])
def test_stochastic_depth_refuses_other_rates(rate: float) -> None:
    with pytest.raises(ValueError, match=rf"rate = {rate}: must be in \[0, 1\)"):
        StochasticDepth(rate)


def test_linear_rates() -> None:
    assert linear_rates(0.5, 5, from_zero=False) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert linear_rates(0.4, 5, from_zero=True) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert linear_rates(0.4, 1, from_zero=True) == [0.0]
    assert repr(StochasticDepth(0.25)) == "StochasticDepth(rate=0.25)"


# --- widths and activations ---


@pytest.mark.parametrize(
    ("value", "expected"),
    [(32 * 0.75, 24), (16 * 0.35, 8), (24 * 0.35, 8), (32 * 1.4, 48), (960 * 0.75, 720), (9, 16), (3, 8)],
)
def test_make_divisible_by_hand(value: float, expected: int) -> None:
    """Widths of MobileNet v2 at other multipliers; 32 · 1.4 = 44.8 lies beyond the middle of 40 and 48."""
    assert make_divisible(value) == expected


@given(st.floats(1, 5000), st.sampled_from([1, 4, 8, 16]))
def test_make_divisible_bounds(value: float, divisor: int) -> None:
    width = make_divisible(value, divisor)
    assert width % divisor == 0
    assert width >= max(divisor, 0.9 * value)
    assert width <= max(divisor, value + divisor)


@pytest.mark.parametrize(
    ("function", "formula"),
    [
        (hard_sigmoid, lambda x: min(max(x + 3, 0), 6) / 6),
        (hard_swish, lambda x: x * min(max(x + 3, 0), 6) / 6),
        (mish, lambda x: x * math.tanh(math.log1p(math.exp(x)))),
        (scaled_tanh, lambda x: 1.7159 * math.tanh(2 / 3 * x)),
        # Torch's own, whose default constants are those of the papers.
        (F.relu6, lambda x: min(max(x, 0), 6)),
        (F.leaky_relu, lambda x: max(x, 0.01 * x)),
        (nn.PReLU().double(), lambda x: max(x, 0) + 0.25 * min(x, 0)),
        (F.elu, lambda x: x if x > 0 else math.exp(x) - 1),
        (F.selu, lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * (math.exp(x) - 1))),
        (F.gelu, lambda x: x * 0.5 * math.erfc(-x / math.sqrt(2))),
        (F.silu, lambda x: x / (1 + math.exp(-x))),
    ],
)
def test_activations_by_formula(function: Callable[[Tensor], Tensor], formula: Callable[[float], float]) -> None:
    points = [-8.0, -3.0, -1.0, -0.3, 0.0, 0.3, 1.0, 3.0, 8.0]
    expected = torch.tensor([formula(point) for point in points], dtype=torch.float64)
    near(function(torch.tensor(points, dtype=torch.float64)), expected, rtol=1e-9, atol=1e-12)


def test_scaled_tanh_keeps_one() -> None:
    assert scaled_tanh(torch.tensor([-1.0, 1.0]).double()).tolist() == pytest.approx([-1, 1], abs=1e-4)


def test_maxout_by_hand() -> None:
    x = torch.tensor([[3.0, -1.0, 2.0, 7.0, 0.0, 5.0]])
    assert maxout(x, 2).tolist() == [[3.0, 7.0, 5.0]]
    assert maxout(x, 3).tolist() == [[3.0, 7.0]]
    assert maxout(maps(2, 6, 4, 5), 3).shape == (2, 2, 4, 5)
    near(maxout(torch.cat([x.T, -x.T], dim=1), 2), x.T.abs())  # |x| = max(x, -x)
    with pytest.raises(ValueError, match="6 channels cannot be taken 4 at a time"):
        maxout(x, 4)
