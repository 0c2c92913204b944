"""The weight gradient of convolutions on a processor, by the algorithm that is fastest for each shape.

The library's kernel for it runs at a fraction of what its forward pass reaches where maps are small or strides are 2,
while one matrix product for each place of the kernel (``places``), or a single one over all patches (``patches``), does
the same sums several times faster there and several times slower elsewhere. So each shape is measured once on a
machine, and what was chosen is kept: in the cache (:mod:`danlu.train.measured`), so that the same command gives the
same bits again, and in the run's ``config.json``, so that resume depends on nothing else.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.train.measured import Measured

__all__ = ["ALGORITHMS", "choose_kernels", "use_kernels", "weight_gradient"]

# Its share of the library's time that an algorithm may take at most to be chosen.
_WORTH = 0.85


def _by_places(x: Tensor, gradient: Tensor, kernel: int, stride: int) -> Tensor:
    """Return the weight gradient [kernel, kernel, K, C]: a product for each place of the kernel."""
    height, width, count = gradient.shape[1], gradient.shape[2], gradient.shape[3]
    left = gradient.reshape(-1, count).t()
    out = x.new_empty(kernel, kernel, count, x.shape[3])
    for i in range(kernel):
        for j in range(kernel):
            seen = x[:, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
            torch.mm(left, seen.reshape(-1, x.shape[3]), out=out[i, j])
    return out.permute(2, 3, 0, 1)


def _by_patches(x: Tensor, gradient: Tensor, kernel: int, stride: int) -> Tensor:
    """Return the weight gradient [kernel, kernel, K, C]: one product over all patches."""
    count, channels = gradient.shape[3], x.shape[3]
    height, width = gradient.shape[1], gradient.shape[2]
    seen = x.unfold(1, kernel, stride).unfold(2, kernel, stride)[:, :height, :width]  # [B, H', W', C, kernel, kernel]
    patches = seen.permute(0, 1, 2, 4, 5, 3).reshape(-1, kernel * kernel * channels)
    product = gradient.reshape(-1, count).t() @ patches
    return product.view(count, kernel, kernel, channels).permute(0, 3, 1, 2)


ALGORITHMS: dict[str, Callable[[Tensor, Tensor, int, int], Tensor]] = {"places": _by_places, "patches": _by_patches}


def weight_gradient(x: Tensor, gradient: Tensor, kernel: int, stride: int, padding: int, algorithm: str) -> Tensor:
    """Return the gradient [K, C, kernel, kernel] of a convolution's weight.

    Args:
        x: what went in, [B, C, H, W].
        gradient: of what came out, [B, K, H', W'].
        kernel: side of the square kernel.
        stride: in both directions.
        padding: zeros on each side.
        algorithm: one of :data:`ALGORITHMS`.
    """
    padded = x.permute(0, 2, 3, 1)
    if padding:
        padded = F.pad(padded, (0, 0, padding, padding, padding, padding))
    return ALGORITHMS[algorithm](padded, gradient.permute(0, 2, 3, 1), kernel, stride)


class _Convolution(torch.autograd.Function):
    """The library's convolution, its weight gradient by one of the algorithms above."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int, algorithm: str) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding, ctx.algorithm = stride, padding, algorithm
        return F.conv2d(x, weight, None, stride, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        before = _library(gradient, x, weight, ctx.stride, ctx.padding, (ctx.needs_input_grad[0], False))[0]
        found = None
        if ctx.needs_input_grad[1]:
            found = weight_gradient(x, gradient, weight.shape[2], ctx.stride, ctx.padding, ctx.algorithm)
        return before, found, None, None, None


def _library(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    found = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, [*wanted, False]
    )
    return found[0], found[1]


def _is_plain(module: nn.Module) -> bool:
    """Return whether this file knows how to do the convolution ``module``; a subclass may do something else."""
    if type(module) is not nn.Conv2d or module.bias is not None or module.groups != 1:
        return False
    square = all(len(set(pair)) == 1 for pair in (module.kernel_size, module.stride, module.dilation))
    padded = not isinstance(module.padding, str) and len(set(module.padding)) == 1
    return square and padded and module.dilation[0] == 1 and module.padding_mode == "zeros"


def use_kernels(network: nn.Module, chosen: Mapping[str, str]) -> None:
    """Let the convolutions of ``network`` named in ``chosen``, and no others, take that algorithm's weight gradient."""
    for module in network.modules():
        if module.__dict__.pop("weight_gradient", None):
            del module.__dict__["forward"]
    for name, algorithm in chosen.items():
        module = network.get_submodule(name)
        # A bound method, unlike a closure, goes along when the network is copied.
        module.weight_gradient = algorithm  # type: ignore[assignment]
        module.forward = types.MethodType(_forward, module)


def _forward(module: nn.Conv2d, x: Tensor) -> Tensor:
    weight = module.weight
    if not (torch.is_grad_enabled() and weight.requires_grad):
        return nn.Conv2d.forward(module, x)
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    padding = module.padding[0]
    assert isinstance(padding, int)
    out: Tensor = _Convolution.apply(x, weight, module.stride[0], padding, module.weight_gradient)
    return out


def choose_kernels(network: nn.Module, forward: Callable[[], object]) -> dict[str, str]:
    """Measure the backward pass of each convolution of ``network``; return by name where another one is faster.

    Args:
        network: runs in ``forward``; what ``use_kernels`` changed is measured as the library has it.
        forward: one pass over a batch as training does it, in its precision.
    """
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    names = {module: name for name, module in network.named_modules() if _is_plain(module)}
    if not names:
        return {}

    def note(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        seen[names[module]] = (given[0].detach().to(output.dtype), output.detach())

    hooks = [module.register_forward_hook(note) for module in names]
    forward()
    for hook in hooks:
        hook.remove()
    measured = Measured("convolution")
    chosen = {}
    for name, (x, output) in seen.items():
        module = network.get_submodule(name)
        assert isinstance(module, nn.Conv2d)
        fastest = measured.fastest(_describe(module, x), _ways(module, x, output), _WORTH)
        if fastest != "library":
            chosen[name] = fastest
    measured.keep()
    return chosen


def _describe(module: nn.Conv2d, x: Tensor) -> str:
    """Return what the time of a convolution depends on, as one line."""
    order = "channels last" if x.is_contiguous(memory_format=torch.channels_last) else "contiguous"
    shapes = "x".join(map(str, x.shape)), "x".join(map(str, module.weight.shape))
    threads = f"{torch.get_num_threads()} threads"
    return f"{shapes[0]} * {shapes[1]} / {module.stride[0]} + {module.padding[0]} {x.dtype} {order} {threads}"


def _ways(module: nn.Conv2d, x: Tensor, output: Tensor) -> dict[str, Callable[[], None]]:
    """Return the backward pass of a convolution by the library, and by each algorithm."""
    weight = module.weight.detach().to(x.dtype)
    kernel, stride, padding = module.kernel_size[0], module.stride[0], int(module.padding[0])
    gradient = torch.randn_like(output)
    # Pictures themselves need no gradient: what stands before a first layer is not computed.
    inner = x.shape[1] > 3

    def library() -> None:
        _library(gradient, x, weight, stride, padding, (inner, True))

    def apart(algorithm: str) -> Callable[[], None]:
        def both() -> None:
            if inner:
                _library(gradient, x, weight, stride, padding, (True, False))
            weight_gradient(x, gradient, kernel, stride, padding, algorithm)

        return both

    return {"library": library, **{name: apart(name) for name in ALGORITHMS}}
