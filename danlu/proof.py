"""Proof that a model is what its paper says: counts, shapes, gradients, independence, names of weights, ONNX.

``danlu models check`` runs :func:`check_models`, ``danlu models show`` prints :func:`model_card`; the contract test
over every registered model runs the same checks one by one.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from danlu.analyze.counting import count, stage_shapes
from danlu.core.errors import CheckFailed
from danlu.core.files import sha256_file
from danlu.core.log import progress
from danlu.models import MODELS, list_models
from danlu.models.base import Variant, VisionModel

__all__ = ["CHECKS", "check_models", "model_card", "randomise", "read_docstring"]

M = TypeVar("M", bound=nn.Module)

# Of the largest |logit|: what float32 sums in another order may differ by.
TOLERANCE = 1e-5
FIELDS = ("Title", "Authors", "Year", "Link", "New", "Table", "Deviations")


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
                fan_in = tensor[0].numel()
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / fan_in) ** 0.5)
            elif name.endswith(("weight", "running_var")):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            else:
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    return model


def _pictures(variant: Variant, batch: int, seed: int = 1) -> Tensor:
    return torch.randn((batch, *variant.input), generator=torch.Generator().manual_seed(seed))


def _expect(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise CheckFailed(f"{what}: {found}, expected {expected}")


def _near(found: Tensor, expected: Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    if not (torch.isfinite(found).all() and torch.isfinite(expected).all()):
        raise CheckFailed(f"{what}: values that are not finite")
    error = float(((found - expected).abs().max() / expected.abs().max()).detach())
    if error > tolerance:
        raise CheckFailed(f"{what}: differs by {error:.1e} of the largest value, {tolerance:.0e} is allowed")


def _parameters(variant: Variant) -> None:
    """The number of parameters is the published one, also with another number of classes and channels."""
    model = variant.build()
    _expect(sum(p.numel() for p in model.parameters()), variant.parameters, "parameters")
    other = variant.build(num_classes=variant.classes + 3, in_channels=variant.input[0] + 1)
    x = torch.randn(2, variant.input[0] + 1, *variant.input[1:])
    _expect(list(other.eval()(x).shape), [2, variant.classes + 3], "output with other classes and channels")


def _macs(variant: Variant) -> None:
    """The multiply-adds of one picture are the published ones."""
    _expect(count(variant.build(), (1, *variant.input)).macs, variant.macs, "MACs")


def _output(variant: Variant) -> None:
    """Logits are [B, K] and finite, for one picture and for several."""
    model = randomise(variant.build()).eval()
    for batch in (1, 3):
        logits = model(_pictures(variant, batch))
        _expect(list(logits.shape), [batch, variant.classes], "output shape")
        if not torch.isfinite(logits).all():
            raise CheckFailed("logits that are not finite")


def _stages(variant: Variant) -> None:
    """The stages are those declared, in order, with their channels and the size their stride leaves."""
    model = variant.build()
    shapes = stage_shapes(model, (1, *variant.input))
    _expect(list(shapes), [stage.name for stage in model.stages], "stages")
    for stage in model.stages:
        _, channels, height, width = shapes[stage.name]
        _expect(channels, stage.channels, f"channels of {stage.name}")
        for found, side in ((height, variant.input[1]), (width, variant.input[2])):
            # Convolutions without padding leave less than side / stride, never more.
            if not 0 < found <= -(-side // stage.stride) or 2 * found <= side // stage.stride:
                raise CheckFailed(f"{stage.name}: {found} pixels of {side} at stride {stage.stride}")


def _composition(variant: Variant) -> None:
    """The forward is the head of the last stage, and :meth:`reset_head` changes the head alone."""
    model = randomise(variant.build()).eval()
    x = _pictures(variant, 2)
    features = model.features(x)
    _near(model.head(features[model.stages[-1].name]), model(x), "head(features[last])", tolerance=0.0)
    model.reset_head(variant.classes + 2)
    _expect(list(model(x).shape), [2, variant.classes + 2], "output after reset_head")
    _near(model.features(x)[model.stages[-1].name], features[model.stages[-1].name], "features after reset_head", 0.0)


def _gradients(variant: Variant) -> None:
    """Every parameter that requires a gradient gets one that is not zero."""
    model = randomise(variant.build()).train()
    logits = model(_pictures(variant, 4))
    (logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.grad is None or not parameter.grad.abs().max() > 0:
            raise CheckFailed(f"no gradient for {name}")
        if not torch.isfinite(parameter.grad).all():
            raise CheckFailed(f"a gradient that is not finite for {name}")


def _batch_independence(variant: Variant) -> None:
    """In eval mode, what a picture gives does not depend on its neighbours."""
    model = randomise(variant.build()).eval()
    x = _pictures(variant, 3)
    with torch.no_grad():
        together, alone = model(x), torch.cat([model(x[i : i + 1]) for i in range(3)])
        x[1:] = 100 * x[1:]
        _near(model(x)[:1], alone[:1], "a picture beside others")
    _near(together, alone, "a batch and its pictures one by one")


def _state_dict(variant: Variant) -> None:
    """Weights saved and loaded into a fresh model give the same logits."""
    model = randomise(variant.build()).eval()
    fresh = variant.build().eval()
    fresh.load_state_dict(model.state_dict())
    x = _pictures(variant, 2)
    _near(fresh(x), model(x), "a state dict loaded again", tolerance=0.0)


def _mapping(variant: Variant) -> None:
    """The weights of the reference implementation map onto ours and back, name by name, one to one."""
    own = randomise(variant.build()).state_dict()
    theirs = variant.mapping.to_reference(own)
    _expect(len(theirs), len(own), "names after the mapping")
    back = variant.mapping.from_reference(theirs)
    _expect(list(back), list(own), "names mapped there and back")
    for name, tensor in own.items():
        _expect(torch.equal(back[name], tensor), True, f"{name} mapped there and back is equal")


def _input(variant: Variant) -> None:
    """Pictures of another depth, or of a size that is not accepted, are refused with a reason."""
    model = variant.build().eval()
    channels, height, width = variant.input
    wrong = [(1, channels + 1, height, width), (channels, height, width)]
    if variant.fixed_input:
        wrong += [(1, channels, height + 4, width + 4), (1, channels, height - 4, width - 4)]
    else:
        model(torch.randn(1, channels, height + 5, width + 2))
        model.train()(torch.randn(1, channels, variant.smallest, variant.smallest))
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


def _docstring(variant: Variant) -> None:
    """The module's docstring names the paper as the variant does, and lists deviations."""
    card = read_docstring(inspect.getdoc(_module(variant)) or "")
    _expect(card["Title"], variant.paper.title, "title in the docstring")
    _expect(card["Year"][:4], str(variant.paper.year), "year in the docstring")
    _expect(card["Link"], variant.paper.link, "link in the docstring")


def _onnx(variant: Variant) -> None:
    """ONNX Runtime gives the same logits at two batch sizes beyond the exported one."""
    import onnxruntime

    model = randomise(variant.build()).eval()
    program = torch.onnx.export(
        model,
        (_pictures(variant, 2),),
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
    for batch in (3, 7):
        x = _pictures(variant, batch)
        with torch.no_grad():
            expected = model(x)
        found = torch.from_numpy(session.run(["logits"], {"x": x.numpy()})[0])
        _expect(list(found.shape), list(expected.shape), f"ONNX output shape at batch {batch}")
        _near(found, expected, f"ONNX at batch {batch}")


CHECKS: dict[str, Callable[[Variant], None]] = {
    "parameters": _parameters,
    "macs": _macs,
    "output": _output,
    "stages": _stages,
    "composition": _composition,
    "gradients": _gradients,
    "batch_independence": _batch_independence,
    "state_dict": _state_dict,
    "mapping": _mapping,
    "input": _input,
    "docstring": _docstring,
    "onnx": _onnx,
}


def check_models(names: Iterable[str] | None = None, *, onnx: bool = True) -> list[dict[str, Any]]:
    """Run every check on models and return one row each.

    Args:
        names: which ones; all when none is given.
        onnx: whether to export each one, which takes some seconds.

    Returns:
        rows ``{"model", "ok", "why", "parameters", "macs", "stages", "checks": {name: "ok" | why}, "source_hash"}``;
        ``why`` joins what failed and is empty when nothing did; a check that was left out is not listed.

    Raises:
        InputError: an unknown name.
    """
    chosen = [MODELS.check(name) for name in names or ()] or list_models()
    rows = []
    with progress("check models", len(chosen), "models") as advance:
        for done, name in enumerate(chosen):
            advance(done, name)
            rows.append(_check(MODELS.get(name), onnx))
        advance(len(chosen), "")
    return rows


def _check(variant: Variant, onnx: bool) -> dict[str, Any]:
    checks = {}
    with torch.random.fork_rng(devices=[]):  # building networks draws; the caller's generator stays as it is
        for name, check in CHECKS.items():
            if name == "onnx" and not onnx:
                continue
            torch.manual_seed(0)
            try:
                check(variant)
                checks[name] = "ok"
            except Exception as error:  # a model that crashes a check has failed it; the row says how
                checks[name] = str(error) if isinstance(error, CheckFailed) else f"{type(error).__name__}: {error}"
        stages = _stage_rows(variant)
    failed = {name: why for name, why in checks.items() if why != "ok"}
    return {
        "model": variant.name,
        "ok": not failed,
        "why": "; ".join(f"{name}: {why}" for name, why in failed.items()),
        "parameters": variant.parameters,
        "macs": variant.macs,
        "stages": stages,
        "checks": checks,
        "source_hash": sha256_file(Path(str(_module(variant).__file__))),
    }


def _module(variant: Variant) -> Any:
    return importlib.import_module(MODELS.index[variant.name]["module"])


def _stage_rows(variant: Variant) -> list[dict[str, Any]]:
    model: VisionModel = variant.build()
    try:
        shapes = stage_shapes(model, (1, *variant.input))
    except Exception:  # the row of a broken model is still shown; the check `stages` says what is wrong
        shapes = {}
    return [{**vars(stage), "output": shapes.get(stage.name, [])} for stage in model.stages]


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


def model_card(name: str) -> dict[str, Any]:
    """Return what is to know of a model before it is used, as plain values.

    Returns:
        ``name title authors year link new table deviations`` (a list) from the docstring; ``task input fixed_input
        smallest classes parameters macs accuracy source reference`` from the variant; ``summary`` the docstring's first
        line; ``stages`` with ``name channels stride output``.

    Raises:
        InputError: an unknown name.
    """
    variant = MODELS.get(name)
    text = inspect.getdoc(_module(variant)) or ""
    fields = read_docstring(text)
    return {
        "name": name,
        "summary": text.splitlines()[0],
        "title": fields["Title"],
        "authors": fields["Authors"],
        "year": variant.paper.year,
        "link": fields["Link"],
        "new": fields["New"],
        "table": fields["Table"],
        "deviations": [line.removeprefix("- ") for line in fields["Deviations"].splitlines()],
        "task": variant.task,
        "input": list(variant.input),
        "fixed_input": variant.fixed_input,
        "smallest": variant.smallest,
        "classes": variant.classes,
        "parameters": variant.parameters,
        "macs": variant.macs,
        "accuracy": dict(variant.accuracy),
        "source": variant.source,
        "reference": variant.mapping.reference,
        "stages": _stage_rows(variant),
    }
