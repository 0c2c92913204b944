"""The proof has teeth: a stride that is swapped or an activation that is dropped in a network's file fails a check."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

import danlu.models.vision
from danlu.core.errors import CheckFailed
from danlu.models import MODELS
from danlu.models.base import Variant
from danlu.proof.checks import CHECKS

FOLDER = Path(danlu.models.vision.__path__[0])
# file, variant, what stands there, what is put in its place, the checks of which one has to fail.
MUTATIONS = [
    # The ResNet that is spread with its stride in the first convolution of a bottleneck: no parameter changes.
    (
        "resnet",
        "resnet50",
        "self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)",
        "self.conv1 = nn.Conv2d(in_channels, width, 1, stride, bias=False); stride = 1",
        ("parameters", "macs"),
    ),
    (
        "resnet",
        "resnet18",
        "x = F.relu(self.norm1(self.conv1(x)), inplace=True)\n        out",
        "x = self.norm1(self.conv1(x))\n        out",
        ("parameters", "macs", "parity"),
    ),
    ("convnext", "convnext_tiny", "F.gelu(self.expand(x))", "self.expand(x)", ("parameters", "macs", "parity")),
    (
        "densenet",
        "densenet121",
        "self.conv2(F.relu(self.norm2(new), inplace=True))",
        "self.conv2(self.norm2(new))",
        ("parameters", "macs", "parity"),
    ),
    ("mobilenet_v2", "mobilenet_v2", "3, stride, padding=1, groups=wide", "3, 1, padding=1, groups=wide", ("macs",)),
]


def _load(path: Path, source: str, variant: str) -> Variant:
    """Return a variant of a network whose file reads ``source``, written to ``path``; the registry stays as it is."""
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"mutated_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = MODELS._things, MODELS._facts
    MODELS._things, MODELS._facts = {}, {}
    sys.modules[module.__name__] = module
    try:
        spec.loader.exec_module(module)
        return MODELS._things[variant]
    finally:
        MODELS._things, MODELS._facts = before
        del sys.modules[module.__name__]


def _failed(variant: Variant, checks: tuple[str, ...]) -> list[str]:
    failed = []
    for name in checks:
        try:
            CHECKS[name](variant)
        except (CheckFailed, RuntimeError):  # an output whose shape does not fit is a failure too
            failed.append(name)
    return failed


@pytest.mark.parametrize(("file", "name", "before", "after", "checks"), MUTATIONS, ids=lambda value: str(value)[:24])
def test_a_mutation_fails(
    tmp_path: Path, file: str, name: str, before: str, after: str, checks: tuple[str, ...]
) -> None:
    source = (FOLDER / f"{file}.py").read_text(encoding="utf-8")
    assert before in source
    assert _failed(_load(tmp_path / f"{file}.py", source.replace(before, after, 1), name), checks), "no check saw it"
    assert not _failed(_load(tmp_path / f"{file}_as_it_is.py", source, name), checks[:2])
