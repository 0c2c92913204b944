"""Surgery: the in-graph resize agrees with the shared one, names are stable, the original is untouched."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.decode import fit
from danlu.deploy.graph import add_fitting, cleaned, fitting
from danlu.deploy.graph_parts import with_outputs
from danlu.deploy.runtimes.onnxruntime import OnnxRuntime

RUNTIMES = {
    (size, channels): OnnxRuntime.load(fitting(size, channels).SerializeToString(), threads=1)
    for size in ((32, 48), (8, 8))
    for channels in (1, 3)
}


def noise(height: int, width: int, channels: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(height * 7 + width).integers(0, 256, (height, width, channels), dtype=np.uint8)


def fitted(picture: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], size: tuple[int, int]) -> object:
    return RUNTIMES[size, picture.shape[2]].predict(picture[None])["fitted"][0]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("batch", [1, 7])
def test_pictures_of_the_right_size_pass_unchanged(channels: int, batch: int) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (batch, 32, 48, channels), dtype=np.uint8)
    found = RUNTIMES[(32, 48), channels].predict(pictures)["fitted"]
    assert found.dtype == np.uint8
    assert np.array_equal(found, pictures)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(32, 48), (8, 8)])
@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 160), width=st.integers(1, 160))
def test_the_graph_resizes_and_crops_as_the_decoder(
    size: tuple[int, int], channels: int, height: int, width: int
) -> None:
    picture = noise(height, width, channels)
    difference = np.abs(np.asarray(fitted(picture, size), dtype=int) - fit(picture, size))
    # Noise is the worst case; a shift by half a pixel or another crop would change it by tens of levels.
    assert difference.max() <= 2


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 10_000), (10_000, 1), (17, 300), (300, 17), (7, 3000), (1200, 1700), (33, 48)]
)
def test_extreme_sizes(height: int, width: int) -> None:
    picture = noise(height, width, 3)
    difference = np.abs(np.asarray(fitted(picture, (32, 48)), dtype=int) - fit(picture, (32, 48)))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.02  # these sizes are rounded in one order


def test_a_batch_is_resized_picture_by_picture() -> None:
    pictures = np.stack([noise(50, 61, 3), noise(50, 61, 3)[::-1]])
    found = RUNTIMES[(32, 48), 3].predict(pictures)["fitted"]
    assert np.array_equal(found[0], fitted(pictures[0], (32, 48)))
    assert np.array_equal(found[1], fitted(pictures[1], (32, 48)))


def network() -> onnx.ModelProto:
    """A graph as an exporter leaves it: traces, documentation, a name the fitting uses as well."""
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 18], doc_string: "of /home/somebody">
        made (uint8[batch, 8, 8, 1] size) => (float[batch, 8, 8, 1] logits)
        <float[1] weight = {2}, float[1] val_7 = {3}, float[1] unused = {3}> {
          cover = Cast <to = 1> (size)
          chosen = Mul (cover, weight)
          middle = Mul (chosen, weight)
          logits = Mul (middle, val_7)
        }"""
    )
    dotted = {"weight": "holder.net.scale.weight", "middle": "stage.middle"}
    for part in (*(n.input for n in model.graph.node), *(n.output for n in model.graph.node)):
        part[:] = [dotted.get(name, name) for name in part]
    model.graph.initializer[0].name = dotted["weight"]
    for node in model.graph.node:
        node.doc_string = "/home/somebody/train.py"
        node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value='File "/home/somebody/train.py"')
    model.graph.input[0].metadata_props.add(key="from", value="/home/somebody")
    model.graph.value_info.add(name="cover")
    return model


def test_cleaned_names_say_what_a_node_is() -> None:
    model = network()
    before = model.SerializeToString()
    clean = cleaned(model, ["stage.middle"], ["holder.net.", "holder."])
    onnx.checker.check_model(clean, full_check=True)
    assert [node.name for node in clean.graph.node] == ["cast.1", "scale", "scale.2", "mul.1"]
    assert [tensor.name for tensor in clean.graph.initializer] == ["scale.weight", "constant.0"]
    assert clean.graph.node[2].output[0] == "stage.middle"
    assert b"somebody" not in clean.SerializeToString()
    assert model.SerializeToString() == before
    pictures = noise(8, 8, 1)[None]
    runs = [OnnxRuntime.load(m.SerializeToString(), threads=1).predict(pictures)["logits"] for m in (model, clean)]
    assert np.array_equal(runs[0], runs[1])


def test_two_parameters_never_get_one_name() -> None:
    model = network()
    model.graph.initializer[1].name = model.graph.node[3].input[1] = "other.scale.weight"
    with pytest.raises(ValueError, match="one name"):
        cleaned(model, [], ["holder.net.", "other."])


def test_fitting_keeps_clear_of_the_networks_names() -> None:
    joined = add_fitting(network(), (8, 8), 1)
    onnx.checker.check_model(joined, full_check=True)
    names = [node.name for node in joined.graph.node if node.name]
    assert len(set(names)) == len(names)
    runtime = OnnxRuntime.load(joined.SerializeToString(), threads=1)
    picture = noise(20, 30, 1)
    expected = fit(picture, (8, 8)).astype(np.float32) * 12
    assert np.abs(runtime.predict(picture[None])["logits"][0] - expected).max() <= 12


def test_with_outputs_shows_tensors_and_leaves_the_model() -> None:
    model = network()
    shown = with_outputs(model, ["stage.middle"])
    assert [value.name for value in model.graph.output] == ["logits"]
    found = OnnxRuntime.load(shown.SerializeToString(), threads=1).predict(noise(8, 8, 1)[None])
    assert list(found) == ["stage.middle"]
