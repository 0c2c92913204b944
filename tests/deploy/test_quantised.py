"""Export of networks trained to be rounded: the graph rounds where the network does, in the integers it learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from danlu.compress.dlz import open_dlz, write_dlz
from danlu.compress.qat import Qat, QatSettings
from danlu.core.errors import CheckFailed
from danlu.data.load import load_data
from danlu.deploy.capture import capture
from danlu.deploy.export import export
from danlu.deploy.graph_parts import with_outputs
from danlu.deploy.quantised import roundings, with_roundings, without_rounding
from danlu.deploy.runtimes.onnxruntime import OnnxRuntime
from tests.compress.subjects import subject


def coded(name: str, bits: Any, path: Path, **settings: Any) -> Path:
    network = subject(name)
    with network.settled():
        done = Qat().apply(network, QatSettings(bits=bits, epochs=0, **settings))
    write_dlz(path, network, done, "qat", {})
    return path


@pytest.mark.parametrize(
    ("name", "bits", "ranges"),
    [("lenet5", 8, "lsq"), ("resnet20", 4, "pact"), ("mobilenet_v2_cifar", 8, "minmax"), ("vit_s_16", 8, "lsq")],
)
def test_the_graph_holds_the_integers_and_answers_alike(name: str, bits: int, ranges: str, tmp_path: Path) -> None:
    trained = open_dlz(coded(name, bits, tmp_path / "a.dlz", ranges=ranges))
    layers = roundings(trained.model)
    model = with_roundings(capture(without_rounding(trained)), layers)
    onnx.checker.check_model(model, full_check=True)
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) == len(layers)
    stored = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1]
    assert len(stored) == len(layers)
    if bits == 4:
        inner = [np.abs(numpy_helper.to_array(tensor)).max() for tensor in stored[1:-1]]
        assert max(inner) <= 8
    pictures = np.stack([np.asarray(load_data("digits").test[i].picture) for i in range(32)])
    # Compared where each of the first layers reads: later on, single values that fall to the other side of an edge
    # have spread.
    names = list(layers)[:3]
    wanted = {}
    for layer in names:
        module: Any = trained.model.get_submodule(layer)
        module.register_forward_pre_hook(lambda m, a, n=layer: wanted.update({n: m.rounded(a[0]).numpy()}))
    with torch.inference_mode():
        trained.picture_model(torch.from_numpy(pictures))
    shown = with_outputs(model, [f"{layer}.rounded" for layer in names])
    runtime = OnnxRuntime.load(shown.SerializeToString(), threads=1)
    found = runtime._session.run(None, {"fitted": pictures})
    for layer, value in zip(names, found, strict=True):
        same = np.isclose(value, wanted[layer], atol=1e-5 * np.abs(wanted[layer]).max())
        assert same.mean() > 0.97, layer
        assert len(np.unique(value)) <= 2 ** layers[layer].input_bits


def test_a_coded_file_is_exported_and_the_record_says_what_runs(tmp_path: Path) -> None:
    path = coded("lenet5", 8, tmp_path / "网 a.dlz")
    found = export(open_dlz(path), load_data("digits"), threads=1)
    assert found["artifacts"]["fp32"]["file"] is None
    assert found["parity"]["int8"]["delivered"]
    assert (tmp_path / "网 a.int8.onnx").is_file()
    told = found["export"]["quantisation"]
    assert set(map(tuple, told["bits"].values())) == {(8, 8)}
    assert "int8" in told["executed"]


def test_a_weight_that_is_not_in_the_graph_is_named(tmp_path: Path) -> None:
    trained = open_dlz(coded("lenet5", 8, tmp_path / "a.dlz"))
    layers = roundings(trained.model)
    name, first = next(iter(layers.items()))
    graph = capture(without_rounding(trained))
    with pytest.raises(CheckFailed, match=f"weight of {name}"):
        with_roundings(graph, {**layers, name: replace(first, weight=first.weight + 1)})
