"""Prune one narrow twin of every class of the zoo by whole channels, and prove what is left.

``python -m proof.pruning [NAME…]``: half of the multiply-adds are removed; then it holds that

- the pruned network equals the dense one whose weights that read removed channels are zero (where a layer takes a mean
  over channels, which no zero can stand for, only channels it does not see are removed for this check);
- every parameter gets a gradient in train mode, auxiliary heads included;
- a network made afresh, edited and loaded with the pruned weights gives the same logits bit for bit;
- stages have the channels they say; ONNX Runtime gives the same logits at another batch size.

Rows whose source has not changed are kept; ``--all`` proves them again; ``--seconds N`` stops before the next row after
that time, so that a second call goes on. ``tests/test_recorded_pruning.py`` says which rows are stale.
"""

from __future__ import annotations

import copy
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danlu.analyze.counting import count, stage_shapes
from danlu.compress.channel_graph import trace_channels
from danlu.compress.choose_channels import choose, edits_of, scores, silence
from danlu.compress.edits import apply_edits
from danlu.compress.latency import onnx_session
from danlu.compress.prune_channels import prune_once
from danlu.core.environment import describe_environment
from danlu.core.errors import CheckFailed, InputError
from danlu.core.files import read_json, sha256_bytes, write_json
from danlu.models import MODELS
from danlu.models.base import Variant, VisionModel
from danlu.proof.checks import randomise, rounding
from danlu.proof.parity import logits_of, near, quiet
from proof.__main__ import ROOT, _closure, _file

__all__ = ["RESULTS", "names", "prove", "recorded", "source_hash"]

RESULTS = Path(__file__).with_name("pruning.json")
TARGET = 0.5
# What the proof depends on, beside a network's own file.
_ENGINE = (
    *("labels", "channel_graph", "channel_rules", "choose_channels"),
    *("edits.keep_channels", "edits.keep_heads"),
)


@cache
def names() -> tuple[str, ...]:
    """Return the variants that are proved: one for each class of networks."""
    found: dict[tuple[str, str], str] = {}
    for name in MODELS.names():
        if MODELS.index[name]["representative"]:
            found.setdefault((MODELS.index[name]["module"], MODELS.get(name).model.__name__), name)
    return tuple(sorted(found.values()))


def source_hash(name: str) -> str:
    """Return the hash of what a row depends on: the network's file with what it imports, and the engine."""
    files = [_file(module) for module in sorted(_closure((MODELS.index[name]["module"], "danlu.models.base")))]
    files += [ROOT / "danlu/compress" / f"{one.replace('.', '/')}.py" for one in _ENGINE]
    return sha256_bytes(b"\0".join(file.read_bytes() for file in files))


def recorded() -> dict[str, Any]:
    """Return the recorded rows by variant."""
    rows: dict[str, Any] = read_json(RESULTS)["rows"] if RESULTS.exists() else {}
    return rows


def prove(name: str, *, onnx: bool = True) -> dict[str, Any]:
    """Prune the narrow twin of a variant and check what is left.

    Raises:
        CheckFailed: something does not hold.
    """
    variant: Variant = MODELS.get(name).twin()
    shape = variant.check_input or variant.input
    model = randomise(variant.build()).eval()
    try:
        edits, graph = prune_once(model, shape, TARGET)
    except InputError as error:
        return {"ok": True, "refused": error.what}
    pruned = copy.deepcopy(model)
    apply_edits(pruned, edits)
    before, after = (count(one, (1, *shape)).macs for one in (model, pruned))
    row: dict[str, Any] = {
        "macs": {"before": before, "after": after},
        "parameters": {"before": _parameters(model), "after": _parameters(pruned)},
        "not_pruned": graph.refusals(),
        **_equal(model, shape),
    }
    if after > TARGET * before:
        raise CheckFailed(f"{after / before:.3f} of the multiply-adds are left, {TARGET} were asked for")
    _stages(pruned, shape)
    _gradients(copy.deepcopy(pruned), shape)
    _rebuilt(variant, edits, pruned, shape)
    if onnx:
        row["onnx"] = _onnx(pruned, shape)
    return {"ok": True, **row}


def _parameters(model: VisionModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _draw(batch: int, shape: tuple[int, int, int], seed: int = 1) -> Tensor:
    return torch.randn((batch, *shape), generator=torch.Generator().manual_seed(seed))


def _equal(model: VisionModel, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return how far the pruned network is from the silenced one, as a share of the largest logit."""
    graph = trace_channels(model, shape)
    removed = choose(graph, scores(model, graph), macs=TARGET, rest=0.0, reach=False) - graph.mixed
    pruned, silenced = copy.deepcopy(model), copy.deepcopy(model)
    apply_edits(pruned, edits_of(model, graph, removed))
    silence(silenced, graph, removed)
    x = _draw(2, shape)
    with torch.no_grad():
        error = near(pruned(x), silenced(x), "the pruned network", rounding(silenced, x))
    return {"error": error, "classes_removed": len(removed), "classes_mixed": len(graph.mixed)}


def _stages(model: VisionModel, shape: tuple[int, int, int]) -> None:
    for name, found in stage_shapes(model, (1, *shape)).items():
        channels = next(stage.channels for stage in model.stages if stage.name == name)
        if channels != (found[1] if len(found) == 4 else found[-1]):
            raise CheckFailed(f"stage {name} has {found}, says {channels} channels")


def _gradients(model: VisionModel, shape: tuple[int, int, int]) -> None:
    outputs = logits_of(quiet(model).train()(_draw(4, shape)))
    generator = torch.Generator().manual_seed(2)
    loss = sum((one * torch.randn(one.shape, generator=generator)).sum() for one in outputs.values())
    assert isinstance(loss, Tensor)
    loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and (parameter.grad is None or not torch.isfinite(parameter.grad).all()):
            raise CheckFailed(f"no finite gradient for {name}")


def _rebuilt(variant: Variant, edits: Any, pruned: VisionModel, shape: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        fresh = variant.build()
        apply_edits(fresh, edits)
    fresh.load_state_dict(pruned.state_dict(), assign=True)
    for name, buffer in fresh.named_buffers():
        if buffer.is_meta:  # not part of the weights: drawn by the constructor
            owner, _, own = name.rpartition(".")
            setattr(fresh.get_submodule(owner), own, pruned.get_buffer(name))
    x = _draw(2, shape)
    with torch.no_grad():
        near(fresh.eval()(x), pruned(x), "the network rebuilt from its edits", 0.0)


def _onnx(pruned: VisionModel, shape: tuple[int, int, int]) -> float:
    session, x = onnx_session(pruned, shape), _draw(3, shape)
    with torch.no_grad():
        found = torch.from_numpy(session.run(None, {"x": x.numpy()})[0])
        return near(found, pruned(x), "ONNX Runtime", rounding(pruned, x))


def main(arguments: list[str]) -> int:
    """Prove the networks named, or all; return how many do not hold."""
    limit = float(arguments.pop(arguments.index("--seconds") + 1)) if "--seconds" in arguments else float("inf")
    asked = [one for one in arguments if not one.startswith("--")] or list(names())
    begin, failed = time.monotonic(), 0
    for name in asked:
        rows = recorded()
        if "--all" not in arguments and rows.get(name, {}).get("source") == source_hash(name) and rows[name]["ok"]:
            continue
        if time.monotonic() - begin > limit:
            sys.stderr.write("more is left: call again\n")
            return failed + 1
        try:
            row = prove(name)
        except (CheckFailed, InputError, RuntimeError, AssertionError) as error:
            row, failed = {"ok": False, "reason": f"{type(error).__name__}: {error}"}, failed + 1
        rows = {**recorded(), name: {"source": source_hash(name), **row}}
        rows = {key: rows[key] for key in sorted(rows) if key in names()}
        write_json(RESULTS, {"schema": 1, "environment": describe_environment(), "target": TARGET, "rows": rows})
        sys.stderr.write(f"{name} { ({key: value for key, value in row.items() if key != 'not_pruned'}) }\n")
    return failed


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(1 if main(sys.argv[1:]) else 0)
