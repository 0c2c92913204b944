"""The checks of a network: counts, shapes, gradients, independence, names of weights, parity, learning, ONNX.

Each takes a variant and raises :class:`danlu.core.errors.CheckFailed` when it does not hold. What it returns is what
was measured, as plain values, or nothing.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from danlu.analyze.counting import count, stage_shapes
from danlu.core.errors import CheckFailed
from danlu.models import MODELS
from danlu.models.base import Variant, VisionModel
from danlu.proof.learning import learns
from danlu.proof.parity import Uninitialised, logits_of, near, parity, quiet

__all__ = ["CHECKS", "COUNTS", "Check", "agrees", "pictures", "random_model", "randomise", "read_docstring", "rounding"]

M = TypeVar("M", bound=nn.Module)
Measured = dict[str, Any]
Check = Callable[[Variant], Measured | None]

FIELDS = ("Title", "Authors", "Year", "Link", "New", "Table", "Deviations")
# Another batch size or runtime takes other kernels, which sum in another order. What that may come to in the logits,
# and how many times the effect of one rounding of the pictures, for networks whose products amplify it.
ROUNDING, ROUNDINGS = 1e-4, 100
_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9}


def randomise(model: M, seed: int = 0) -> M:
    """Give every parameter and buffer of ``model`` a random value, in place, so that no branch hides behind a zero.

    Gains of normalisations and running variances lie in [0.5, 1.5]; other weights are normal with variance 2 / fan-in,
    biases and running means normal with deviation 0.1.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if not tensor.is_floating_point():
                tensor.copy_(torch.randint(1, 1000, tensor.shape, generator=generator))
            elif tensor.dim() > 1:
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
            elif name.endswith(("weight", "running_var")):
                tensor.uniform_(0.5, 1.5, generator=generator)
            else:
                tensor.normal_(0, 0.1, generator=generator)
    return model


# The last variant and its random network: the checks of one variant follow one another.
_drawn: list[tuple[Variant, VisionModel]] = []


def random_model(variant: Variant) -> VisionModel:
    """Return the variant's network with random values, the same at each call; nothing else shares its tensors."""
    if not _drawn or _drawn[0][0] is not variant:
        with torch.device("meta"):
            model = variant.build()
        _drawn[:] = [(variant, randomise(model.to_empty(device="cpu")))]
    return copy.deepcopy(_drawn[0][1])


def pictures(variant: Variant, batch: int, seed: int = 1) -> Tensor:
    """Return random pictures [batch, C, H, W] of the size the checks use."""
    shape = variant.check_input or variant.input
    return torch.randn((batch, *shape), generator=torch.Generator().manual_seed(seed))


def _expect(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise CheckFailed(f"{what}: {found}, expected {expected}")


def agrees(published: str, exact: int) -> bool:
    """Return whether ``exact`` has the published digits: ``"25,557,032"``, ``"25.6 M"``, ``"4.09 G"``.

    Raises:
        CheckFailed: the published text is no such number.
    """
    found = re.fullmatch(r"([\d,]+)(\.\d+)?(?: ([KMG]))?", published)
    if not found:
        raise CheckFailed(f"published count {published!r} is not like 25,557,032 or 25.6 M")
    whole, fraction, unit = found[1].replace(",", ""), found[2] or "", found[3] or ""
    # Half a unit of the last published digit, and no more: some round, some cut.
    digit: float = _UNITS[unit] / 10.0 ** max(len(fraction) - 1, 0)
    value = float(whole + fraction) * _UNITS[unit]
    if not unit:
        return exact == int(whole)
    return -digit / 2 <= exact - value < digit


def _parameters(variant: Variant) -> None:
    """The number of parameters is exact, also with another number of classes and channels."""
    with torch.device("meta"):
        model = variant.build()
        other = variant.build(num_classes=variant.classes + 3, in_channels=variant.input[0] + 1)
        x = torch.empty(2, variant.input[0] + 1, *variant.input[1:])
        _expect(list(other.eval()(x).shape), [2, variant.classes + 3], "output with other classes and channels")
    _expect(sum(p.numel() for p in model.parameters()), variant.parameters, "parameters")


def _macs(variant: Variant) -> None:
    """The multiply-adds of one picture are exact."""
    with torch.device("meta"):
        model = variant.build()
    _expect(count(model, (1, *variant.input)).macs, variant.macs, "MACs")


def _published(variant: Variant) -> None:
    """The exact counts have the published digits."""
    for what, text, exact in (
        ("parameters", variant.published.parameters, variant.parameters),
        ("MACs", variant.published.macs, variant.macs),
    ):
        if text != "none published" and not agrees(text, exact):
            raise CheckFailed(f"{what}: {exact:,}, published are {text}")
    if not variant.published.source:
        raise CheckFailed("no source of the published values")
    if variant.mapping is None and not variant.oracle:
        raise CheckFailed("neither an independent implementation nor an oracle is named")
    for what in variant.published.unverified:
        if what not in ("parameters", "macs", "accuracy"):
            raise CheckFailed(f"unverified names {what!r}")


def _stages(variant: Variant) -> Measured:
    """The stages are those declared, in order, with their channels and the size their stride leaves."""
    with torch.device("meta"):
        model = variant.build()
    shapes = stage_shapes(model, (1, *variant.input))
    _expect(list(shapes), [stage.name for stage in model.stages], "stages")
    for stage in model.stages:
        shape = shapes[stage.name]
        if len(shape) == 4:
            _expect(shape[1], stage.channels, f"channels of {stage.name}")
            for found, side in ((shape[2], variant.input[1]), (shape[3], variant.input[2])):
                # Convolutions without padding leave less than side / stride; ceiled pooling a pixel more.
                if not 0 < found <= -(-side // stage.stride) + 1 or 2 * found <= side // stage.stride:
                    raise CheckFailed(f"{stage.name}: {found} pixels of {side} at stride {stage.stride}")
        else:  # tokens [1, N, D] or a vector [1, D]
            _expect(shape[-1], stage.channels, f"width of {stage.name}")
        if len(shape) == 3:
            patches = (variant.input[1] // stage.stride) * (variant.input[2] // stage.stride)
            if not patches <= shape[1] <= patches + 2:
                raise CheckFailed(f"{stage.name}: {shape[1]} tokens, {patches} patches")
    return {"stages": [{**vars(stage), "output": shapes[stage.name]} for stage in model.stages]}


def rounding(model: VisionModel, x: Tensor) -> float:
    """Return how far float32 may take the logits of two equal computations apart, of the largest |logit|.

    Measured by what the least change of every pixel does to the logits.
    """
    with torch.no_grad():
        expected = model(x)
        moved = model(torch.nextafter(x, torch.full_like(x, math.inf)))
        return max(ROUNDING, ROUNDINGS * float((moved - expected).abs().max() / expected.abs().max()))


def _output(variant: Variant) -> None:
    """Logits are [B, K] and finite, for one picture and for several."""
    model = random_model(variant).eval()
    with torch.no_grad():
        for batch in (1, 3):
            logits = model(pictures(variant, batch))
            _expect(list(logits.shape), [batch, variant.classes], "output shape")
            if not torch.isfinite(logits).all():
                raise CheckFailed("logits that are not finite")


def _composition(variant: Variant) -> None:
    """The forward is the head of the last stage, and :meth:`reset_head` changes the head alone."""
    model = random_model(variant).eval()
    x = pictures(variant, 2)
    last = model.stages[-1].name
    with torch.no_grad():
        features = model.features(x)[last]
        near(model.head(features), model(x), "head(features[last])", tolerance=0.0)
        model.reset_head(variant.classes + 2)
        _expect(list(model(x).shape), [2, variant.classes + 2], "output after reset_head")
        _expect(model.num_classes, variant.classes + 2, "num_classes after reset_head")
        near(model.features(x)[last], features, "features after reset_head", 0.0)


def _gradients(variant: Variant) -> None:
    """Every parameter that requires a gradient gets one that is not zero."""
    model = quiet(random_model(variant)).train()  # a branch that is dropped for all pictures has no gradient
    outputs = logits_of(model(pictures(variant, 4)))
    generator = torch.Generator().manual_seed(2)
    loss = sum((one * torch.randn(one.shape, generator=generator)).sum() for one in outputs.values())
    assert isinstance(loss, Tensor)
    loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.grad is None or not parameter.grad.abs().max() > 0:
            raise CheckFailed(f"no gradient for {name}")
        if not torch.isfinite(parameter.grad).all():
            raise CheckFailed(f"a gradient that is not finite for {name}")


def _batch_independence(variant: Variant) -> None:
    """In eval mode, what a picture gives does not depend on its neighbours."""
    model = random_model(variant).eval()
    x = pictures(variant, 3)
    with torch.no_grad():
        allowed = rounding(model, x)
        together, alone = model(x), torch.cat([model(x[i : i + 1]) for i in range(3)])
        x[1:] = 100 * x[1:]
        near(model(x)[:1], alone[:1], "a picture beside others", allowed)
    near(together, alone, "a batch and its pictures one by one", allowed)


def _state_dict(variant: Variant) -> None:
    """Weights saved and loaded into a fresh model give the same logits."""
    model = random_model(variant).eval()
    with Uninitialised():
        fresh = variant.build().eval()
    fresh.load_state_dict(copy.deepcopy(model.state_dict()))
    x = pictures(variant, 2)
    with torch.no_grad():
        near(fresh(x), model(x), "a state dict loaded again", tolerance=0.0)


def _mapping(variant: Variant) -> None:
    """The names of the reference implementation map onto ours and back, one to one."""
    if variant.mapping is None:
        return
    with torch.device("meta"):
        own = variant.build().state_dict()
    theirs = variant.mapping.to_reference(own)
    _expect(len(theirs), len(own), "names after the mapping")
    back = variant.mapping.from_reference(theirs, own)
    _expect(list(back), list(own), "names mapped there and back")
    for name, tensor in own.items():
        _expect(back[name] is tensor, True, f"{name} mapped there and back is the same")


def _input(variant: Variant) -> None:
    """Pictures of another depth, or of a size that is not accepted, are refused with a reason."""
    model = random_model(variant).eval()
    channels, height, width = variant.check_input or variant.input
    wrong = [(1, channels + 1, height, width), (channels, height, width)]
    with torch.no_grad():
        if variant.fixed_input:
            height, width = variant.input[1:]
            wrong += [(1, channels, height + 4, width + 4), (1, channels, height - 4, width - 4)]
        else:
            model(torch.randn(1, channels, height + 5, width + 2))
            model(torch.randn(1, channels, variant.smallest, variant.smallest))
            model.train()(torch.randn(2, channels, variant.smallest, variant.smallest))
            if variant.smallest > 1:
                wrong.append((1, channels, variant.smallest - 1, width))
    for shape in wrong:
        try:
            model(torch.randn(shape))
        except ValueError as error:
            if "allowed" not in str(error) and "mend" not in str(error):
                raise CheckFailed(f"input {shape} is refused without a way to mend it: {error}") from error
        else:
            raise CheckFailed(f"input {shape} is not refused")


def read_docstring(text: str) -> dict[str, str]:
    """Return the fields of a model's docstring: title, authors, year, link, what was new, table, deviations.

    Raises:
        CheckFailed: a field is missing or empty.
    """
    fields: dict[str, str] = {}
    current = None
    for line in inspect.cleandoc(text).splitlines():
        found = re.match(rf"({'|'.join(FIELDS)}):\s*(.*)", line)
        if found:
            current = found[1]
            fields[current] = found[2]
        elif not line.strip() and current != "Deviations":
            current = None
        elif current:
            separator = "\n" if line.startswith("- ") else " "
            fields[current] = f"{fields[current]}{separator}{line.strip()}".strip()
    missing = [name for name in FIELDS if not fields.get(name)]
    if missing:
        raise CheckFailed(f"the docstring does not say: {', '.join(missing)}")
    return fields


def _docstring(variant: Variant) -> None:
    """The module's docstring names the paper as the variant does, and lists deviations."""
    module = importlib.import_module(MODELS.index[variant.name]["module"])
    card = read_docstring(inspect.getdoc(module) or "")
    _expect(card["Title"], variant.paper.title, "title in the docstring")
    _expect(card["Year"][:4], str(variant.paper.year), "year in the docstring")
    _expect(card["Link"], variant.paper.link, "link in the docstring")


def _onnx(variant: Variant) -> Measured:
    """ONNX Runtime gives the same logits at two batch sizes beyond the exported one."""
    import onnxruntime

    model = random_model(variant).eval()
    program = torch.onnx.export(
        model,
        (pictures(variant, 2),),
        dynamo=True,
        verbose=False,
        input_names=["x"],
        output_names=["logits"],
        dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
        opset_version=18,
    )
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    error, allowed = 0.0, rounding(model, pictures(variant, 2))
    for batch in (3, 7):
        x = pictures(variant, batch)
        with torch.no_grad():
            expected = model(x)
        found = torch.from_numpy(session.run(["logits"], {"x": x.numpy()})[0])
        _expect(list(found.shape), list(expected.shape), f"ONNX output shape at batch {batch}")
        error = max(error, near(found, expected, f"ONNX at batch {batch}", allowed))
    return {"error": error, "batches": [3, 7]}


# What needs no values, so that it is affordable for every variant, and what computes.
COUNTS: dict[str, Check] = {
    "parameters": _parameters,
    "macs": _macs,
    "published": _published,
    "stages": _stages,
    "mapping": _mapping,
    "docstring": _docstring,
}
CHECKS: dict[str, Check] = {
    **COUNTS,
    "output": _output,
    "composition": _composition,
    "gradients": _gradients,
    "batch_independence": _batch_independence,
    "state_dict": _state_dict,
    "input": _input,
    "parity": lambda variant: parity(variant, random_model, pictures),
    "learns": learns,
    "onnx": _onnx,
}
