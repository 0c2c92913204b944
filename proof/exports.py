"""Prove the export of one variant a family to every runtime: ``python -m proof.exports``, or with names for some.

Each network is given random weights, exported, opened in the runtime and asked for the same pictures as PyTorch;
float32 has to agree. Rows whose source has not changed are kept (``--all`` proves them again); ``--seconds N`` stops
after N. Rows go into ``proof/exports.json``, the pages into ``docs/*/exports.md``; tests say when either is stale.

Every network is proved in a process of its own, with a limit of time and memory: ncnn may crash on what it does not
know.
"""

from __future__ import annotations

import ast
import copy
import json
import os
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

from danlu.core.environment import describe_environment
from danlu.core.files import read_json, sha256_bytes, write_json
from danlu.models import MODELS
from proof.__main__ import ROOT, _closure, _file

RESULTS = Path(__file__).with_name("exports.json")
RUNTIMES = ("onnx", "openvino", "ncnn", "web")
EXPORTING = (
    "danlu.deploy.capture",
    "danlu.deploy.convert",
    "danlu.deploy.graph",
    "danlu.deploy.runtimes.ncnn",
    "danlu.deploy.runtimes.onnxruntime",
    "danlu.deploy.runtimes.openvino",
)
TOLERANCE = 1e-4
SECONDS = 170.0
BYTES = 24 * 2**30
PICTURES = 2


@cache
def families() -> dict[str, str]:
    """Return family -> its variant of fewest multiply-adds."""
    found: dict[str, str] = {}
    for name in MODELS.names():
        family = MODELS.index[name]["module"].rpartition(".")[2]
        if family not in found or MODELS.get(name).macs < MODELS.get(found[family]).macs:
            found[family] = name
    return dict(sorted(found.items()))


def source_hash(name: str) -> str:
    """Return the hash of what a row depends on: the network's file, what it imports, and the export."""
    modules = _closure((MODELS.index[name]["module"], "danlu.models.base", *EXPORTING))
    # Layout and comments say nothing about what runs.
    trees = (ast.dump(ast.parse(_file(module).read_bytes())) for module in sorted(modules))
    return sha256_bytes("\0".join(trees).encode())


def recorded() -> dict[str, Any]:
    """Return the recorded rows by family."""
    rows: dict[str, Any] = read_json(RESULTS)["rows"] if RESULTS.exists() else {}
    return rows


def is_proven(family: str) -> bool:
    """Return whether a row holds for today's source."""
    row, name = recorded().get(family), families()[family]
    return row is not None and row["variant"] == name and row["source_hash"] == source_hash(name)


def _network(name: str) -> tuple[Any, Any]:
    """Return a variant with random weights as an open network, and pictures uint8 [B, H, W, C] for it."""
    import numpy as np

    from danlu.core.records import RunFolder
    from danlu.proof.checks import randomise
    from danlu.tasks.classification import Classification
    from danlu.tasks.preprocess import Preprocess, PreprocessSettings
    from danlu.tasks.trained import Trained

    variant = MODELS.get(name)
    channels, height, width = variant.check_input or variant.input
    settings = PreprocessSettings(
        picture_size=(height, width),
        input_size=(height, width),
        fit="none",
        channels=1 if channels == 1 else 3,
        mean=(0.45,) * channels,
        std=(0.25,) * channels,
    )
    model = randomise(variant.build()).eval()
    classes = tuple(str(index) for index in range(variant.classes))
    trained = Trained(
        model, Preprocess(settings).eval(), Classification(classes), classes, {}, RunFolder(Path()), "", name, "best"
    )
    return trained, np.random.default_rng(0).integers(0, 256, (PICTURES, height, width, channels), dtype=np.uint8)


def _info(trained: Any, graph: Any) -> Any:
    from danlu.deploy.artifact import ArtifactInfo

    tensors = [one for node in graph.graph.node for one in node.output if one.startswith("stage.")]
    return ArtifactInfo(
        task="classification",
        model=trained.model_name,
        precision="fp32",
        classes=trained.classes,
        picture_size=trained.preprocess.settings.picture_size,
        channels=trained.preprocess.settings.channels,
        outputs=({"name": "logits"}, {"name": "probabilities"}),
        stages={tensor.removeprefix("stage."): tensor for tensor in tensors},
        hashes={},
    )


def prove(name: str) -> dict[str, Any]:
    """Export a network to every runtime and compare; return runtime -> its cell."""
    import tempfile

    import numpy as np
    import torch

    from danlu.core.errors import DanluError
    from danlu.core.silence import silence
    from danlu.deploy.artifact import sealed
    from danlu.deploy.convert import to_ncnn, to_openvino
    from danlu.deploy.export import network_graph
    from danlu.deploy.folder import write_folder
    from danlu.deploy.graph import describe
    from danlu.deploy.runtimes.ncnn import Ncnn
    from danlu.deploy.runtimes.onnxruntime import OnnxRuntime
    from danlu.deploy.runtimes.openvino import OpenVINO

    silence()
    torch.set_num_threads(1)
    trained, pictures = _network(name)
    with torch.inference_mode():
        wanted = trained.picture_model(torch.from_numpy(pictures)).numpy()
        exact = copy.deepcopy(trained.model).double()(trained.preprocess(torch.from_numpy(pictures)).double())
    # Some networks with random weights enlarge every rounding: two float32 forms are then as far from one another as
    # each is from float64, and no closer agreement can be asked of them.
    rounding = float(np.abs(wanted - exact.numpy()).max() / np.abs(wanted).max())
    graph = network_graph(trained)
    info = _info(trained, graph)
    data = sealed(describe(graph, info))

    def cell(runtime: Any) -> dict[str, Any]:
        found = runtime.predict(pictures, ["logits"])["logits"]
        error = float(np.abs(found - wanted).max() / np.abs(wanted).max())
        said = runtime.describe()["precision"]
        if not error <= max(TOLERANCE, 2 * rounding) or said not in ("fp32", "no layers"):
            return {"refused": f"differs by {error:.1e} of the largest logit, computed in {said}"}
        told = {"error": float(f"{error:.2g}")}
        return told if error <= TOLERANCE else {**told, "rounding": float(f"{rounding:.2g}")}

    cells: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="danlu-exports-") as folder:
        for kind in RUNTIMES[:3]:
            try:
                if kind == "onnx":
                    cells[kind] = cell(OnnxRuntime.load(data, threads=1))
                else:
                    converted = (to_openvino if kind == "openvino" else to_ncnn)(graph, info)
                    path = Path(folder) / kind
                    path.mkdir()
                    write_folder(path, kind, converted.contents, info, tensors=converted.tensors)
                    cells[kind] = cell((OpenVINO if kind == "openvino" else Ncnn).load(path, threads=1))
            except DanluError as error:
                why = str(error).partition("\n")[0].replace(f"{folder}/{kind}: ", "")
                cells[kind] = {"refused": why[:200]}
            print(json.dumps({kind: cells[kind]}), flush=True)  # noqa: T201 - the parent reads it
    return cells


def _limit() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))


def in_child(name: str) -> dict[str, Any]:
    """Prove one network in a process of its own; what it did not get to is refused with how it ended."""
    command = [sys.executable, "-m", "proof.exports", "--one", name]
    cells: dict[str, Any] = {}
    try:
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            cwd=ROOT,
            check=False,
            preexec_fn=_limit if os.name == "posix" else None,
        )
        lines, how = ended.stdout, f"ended with code {ended.returncode}"
        telling = [line for line in ended.stderr.strip().splitlines() if "Error" in line]
        how += f" ({telling[-1][:160]})" if telling else ""
    except subprocess.TimeoutExpired as error:
        lines = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        how = f"not done in {SECONDS:.0f} s"
    for line in lines.splitlines():
        if line.startswith("{"):
            cells.update(json.loads(line))
    for kind in RUNTIMES[:3]:
        cells.setdefault(kind, {"refused": how})
    # The folder for the browser holds the ONNX file as it is, and runs it in the same runtime compiled to WebAssembly.
    return {**cells, "web": {"as": "onnx"} if "error" in cells["onnx"] else dict(cells["onnx"])}


def save(new: dict[str, Any]) -> None:
    """Add rows to the record."""
    rows = {**recorded(), **new}
    rows = {family: rows[family] for family in families() if family in rows}
    write_json(RESULTS, {"schema": 1, "environment": describe_environment(), "rows": rows})


def main(words: list[str]) -> None:
    """Prove what is stale, or the families that are named."""
    from danlu.core.log import progress
    from proof import exports_page

    if "--one" in words:
        prove(words[words.index("--one") + 1])
        return
    seconds = float(words[words.index("--seconds") + 1]) if "--seconds" in words else float("inf")
    known = families()
    named = [word for word in words if word in known]
    stale = [one for one in named or known if "--all" in words or named or not is_proven(one)]
    stale.sort(key=lambda family: MODELS.get(known[family]).macs)
    begin = time.monotonic()
    with progress("export", len(stale), "families") as advance:
        for done, family in enumerate(stale):
            advance(done, family)
            if time.monotonic() - begin > seconds:
                break
            name = known[family]
            before = source_hash(name)
            save({family: {"variant": name, "cells": in_child(name), "source_hash": before}})
    exports_page.main()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(sys.argv[1:])
