"""Sixty faults, planted one by one into what parity compares, with the step it must be found at and what must be said.

They are those of the field's own complaints: decoding, colour, resize, normalisation, one wrong layer, labels,
precision. Where a fault is planted:

- ``program``: one step of a deployment's own program (:class:`danlu.deploy.program.Program`)
- ``graph``: the ONNX artifact that was exported
- ``foreign``: an ONNX file without metadata, its batch normalisation not folded
- ``runtime``: what runs the artifact
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.core.records import RunFolder
from danlu.data.load import Data, load_data
from danlu.deploy.artifact import ArtifactInfo, sealed
from danlu.deploy.export import network_graph
from danlu.deploy.foreign import ForeignSubject
from danlu.deploy.graph import OPSET, describe
from danlu.deploy.program import Program
from danlu.deploy.subjects import ArtifactSubject, EagerSubject
from danlu.models.base import Stage, VisionModel
from danlu.tasks.classification import Classification
from danlu.tasks.preprocess import Preprocess, PreprocessSettings
from danlu.tasks.trained import Trained
from tests.deploy.trained_runs import described, digits, fit_network

SIDE = 16


class SmallNet(VisionModel):
    """Three convolutions, two with batch normalisation, a pool and two linear layers, for pictures of 16×16."""

    stages = (Stage("stem", 8, 1), Stage("body", 12, 2), Stage("tail", 16, 4))

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.conv1 = nn.Conv2d(in_channels, 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(12, 16, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(16)
        self.hidden = nn.Linear(16 * 16, 32)
        self.classifier = nn.Linear(32, num_classes)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        out = {}
        x = out["stem"] = F.relu(self.norm1(self.conv1(x)))
        x = out["body"] = F.relu(self.conv2(x))
        out["tail"] = F.max_pool2d(F.relu(self.norm3(self.conv3(x))), 2)
        return out

    def head(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(F.relu(self.hidden(x.flatten(1))))
        return logits

    def reset_head(self, num_classes: int) -> None:
        self.classifier = nn.Linear(32, num_classes)


def coloured(pixels: Any, tint: int) -> Any:
    """Return a grey digit [8, 8, 1] as a colour picture of another size, its three channels all different."""
    grey = np.asarray(pixels)[..., 0]
    size = (16 + 2 * (tint % 5), 16 + 3 * (tint % 4))
    large = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC)).astype(np.float64)
    ramp = np.linspace(0, 90, large.shape[1])[None, :] + np.linspace(0, 40, large.shape[0])[:, None]
    picture = np.stack([large, 0.6 * large + ramp, 200 - 0.7 * large + 0.2 * ramp], axis=-1)
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def write_pictures(root: Path, count: int = 400) -> Data:
    """Write colour digits; some lie on their side by EXIF, some are transparent, some have a palette."""
    data = digits()
    for index in range(count):
        sample = data.train[index]
        folder = root / f"class {data.classes[sample.targets['label']]}"
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(coloured(sample.picture, index))
        path = folder / f"{index:04d}.png"
        if index % 4 == 1:
            exif = Image.Exif()
            exif[0x0112] = 6
            image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
        elif index % 4 == 2:
            alpha = np.full((image.height, image.width), 255, np.uint8)
            alpha[:4] = 90
            image.putalpha(Image.fromarray(alpha))
            image.save(path)
        elif index % 4 == 3:
            image.quantize(64).save(path)
        else:
            image.save(path)
    return load_data(root)


def trained(folder: Path, data: Data, *, channels: int = 3, seed: int = 0, steps: int = 120) -> Trained:
    """Return a :class:`SmallNet` that was really trained on ``data``."""
    from danlu.data.loader import Loader

    torch.manual_seed(seed)
    size = (SIDE, SIDE)
    mean, std = ((0.35, 0.45, 0.6), (0.3, 0.22, 0.2)) if channels == 3 else ((0.4,), (0.25,))
    settings = PreprocessSettings(
        picture_size=size, input_size=size, fit="none", channels=3 if channels == 3 else 1, mean=mean, std=std
    )
    pictures = Loader(data.train, size, channels).pictures(np.arange(len(data.train), dtype=np.int64))
    model = SmallNet(len(data.classes), channels)
    fit_network(model, settings, _Fed(pictures, data.train.labels), steps)  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    return Trained(
        model=model.eval(),
        preprocess=Preprocess(settings).eval(),
        task=Classification(data.classes),
        classes=data.classes,
        config=described(data, "small", settings),
        run=RunFolder(folder),
        weights_hash="0" * 64,
        model_name="small",
        which="best",
    )


class _Fed:
    """Fitted pictures in the shape ``fit_network`` reads."""

    def __init__(self, pictures: Any, labels: Any) -> None:
        self.train = _Rows(pictures, labels)


class _Rows:
    def __init__(self, pictures: Any, labels: Any) -> None:
        self._pictures, self.labels = pictures, labels

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Any:
        return type("Sample", (), {"picture": self._pictures[index]})


def artifact_model(network: Trained, data: Data) -> onnx.ModelProto:
    """Return the ONNX artifact of a network as a graph to spoil."""
    model = network_graph(network)
    tensors = [name for node in model.graph.node for name in node.output if name.startswith("stage.")]
    info = ArtifactInfo(
        task="classification",
        model="small",
        precision="fp32",
        classes=network.classes,
        picture_size=network.preprocess.settings.picture_size,
        channels=network.preprocess.settings.channels,
        outputs=({"name": "logits"}, {"name": "probabilities"}),
        stages={name.removeprefix("stage."): name for name in tensors},
        hashes={"data": data.hash},
        split={"seed": data.seed, "test_given": data.test_given},
    )
    return describe(model, info)


def foreign_model(eager: EagerSubject) -> onnx.ModelProto:
    """Return a graph as another exporter would write it: floats in, names of its own, batch normalisation as it is."""
    from danlu.deploy.graph_parts import needed_nodes

    graph = eager.graph(folded=False)
    assert graph is not None
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    nodes = needed_nodes(model.graph.node, ["logits"], ["stage.preprocess"], skip={"Reshape"})
    for node in nodes:
        if node.op_type == "Reshape":
            node.op_type = "Flatten"
            del node.attribute[:], node.input[1:]
    used = {name for node in nodes for name in node.input}
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.node[:], model.graph.initializer[:], model.graph.input[:], model.graph.output[:]
    shape = ["N", eager.channels, SIDE, SIDE]
    model.graph.input.append(helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape))
    model.graph.output.append(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", len(eager.classes)]))
    names = {"stage.preprocess": "x", "logits": "y"}
    for node in nodes:
        for values in (node.input, node.output):
            renamed = [names.setdefault(name, f"t{len(names)}") if name else "" for name in values]
            del values[:]
            values.extend(renamed)
        node.name = f"op{len(names)}"
    for tensor in tensors:
        tensor.name = names[tensor.name]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(tensors)
    return model


@dataclass(frozen=True)
class Fixtures:
    """What faults are planted into; made once."""

    data: Data
    grey_data: Data
    eager: EagerSubject
    grey: EagerSubject
    model: onnx.ModelProto
    foreign: onnx.ModelProto
    folder: Path


def make_fixtures(folder: Path) -> Fixtures:
    """Write the pictures, train a colour and a grey network, translate the colour one in both ways."""
    data = write_pictures(folder / "pictures")
    grey_data = load_data(folder / "pictures", channels=1)
    network = trained(folder / "colour", data)
    eager, grey = EagerSubject(network), EagerSubject(trained(folder / "grey", grey_data, channels=1))
    return Fixtures(data, grey_data, eager, grey, artifact_model(network, data), foreign_model(eager), folder)


Make = Callable[[Fixtures], Any]


@dataclass(frozen=True)
class Fault:
    """A fault: what it is, where it is planted, its step, words the cause must hold, how it is made."""

    name: str
    where: str
    stage: str
    says: str
    make: Make


def program(**steps: Callable[[Fixtures], Callable[..., Any]]) -> Make:
    """Plant functions into a program; each is made from the fixtures."""
    return lambda f: Program(f.eager, **{name: make(f) for name, make in steps.items()})


def grey_program(colour: Callable[[Any], Any]) -> Make:
    """Plant a conversion to grey into a program."""
    return lambda f: Program(f.grey, colour=colour)


def opened(source: Any) -> Image.Image:
    return Image.open(io.BytesIO(source if isinstance(source, bytes) else Path(source).read_bytes()))


def raw_decode(change: Callable[[Image.Image], Any]) -> Callable[[Any], Any]:
    return lambda source: np.asarray(change(opened(source))).astype(np.uint8).reshape((*opened(source).size[::-1], -1))


def pil_resize(resample: Image.Resampling, shape: Callable[[int, int], tuple[int, int]] | None = None) -> Any:
    from danlu.data.decode import resized_size

    def resize(pixels: Any) -> Any:
        height, width = (shape or (lambda h, w: resized_size(h, w, (SIDE, SIDE))))(*pixels.shape[:2])
        grey = pixels.shape[2] == 1
        made = np.asarray(Image.fromarray(pixels[..., 0] if grey else pixels).resize((width, height), resample))
        return made[..., None] if grey else made

    return resize


def torch_resize(align: bool | None, mode: str = "bilinear") -> Any:
    """Resize as a program would with torch: without antialiasing."""
    from danlu.data.decode import resized_size

    def resize(pixels: Any) -> Any:
        floats = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float()
        size = resized_size(*pixels.shape[:2], (SIDE, SIDE))
        made = F.interpolate(floats, size=size, mode=mode, align_corners=align)
        return made[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()

    return resize


def floored(pixels: Any) -> Any:
    """Resize in floats and cut the fraction off."""
    from danlu.data.decode import resized_size

    height, width = resized_size(*pixels.shape[:2], (SIDE, SIDE))
    planes = [Image.fromarray(pixels[..., c].astype(np.float32)) for c in range(pixels.shape[2])]
    sized = [np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR)) for plane in planes]
    return np.floor(np.stack(sized, -1) - 1e-3).clip(0, 255).astype(np.uint8)


def cropped(top: Callable[[int], int], left: Callable[[int], int]) -> Any:
    def crop(pixels: Any) -> Any:
        y, x = top(pixels.shape[0] - SIDE), left(pixels.shape[1] - SIDE)
        return pixels[y : y + SIDE, x : x + SIDE]

    return crop


def normalised(change: Callable[[Any, Any, Any], Any]) -> Any:
    """Return a normalisation from uint8 [B, h, w, C]; ``change`` gets floats [B, C, h, w] in 0…255, mean and std."""

    def make(f: Fixtures) -> Any:
        settings = f.eager._probed.preprocess.settings
        mean, std = (np.array(row, np.float32)[:, None, None] for row in (settings.mean, settings.std))
        return lambda pictures: change(pictures.transpose(0, 3, 1, 2).astype(np.float32), mean, std)

    return make


def usual(x: Any, mean: Any, std: Any) -> Any:
    return (x / 255 - mean) / std


def as_bf16(values: Any) -> Any:
    return torch.from_numpy(np.ascontiguousarray(values)).to(torch.bfloat16).float().numpy()


IMAGENET = [np.array(row, np.float32)[:, None, None] for row in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]


def graph(change: Callable[[onnx.ModelProto], None]) -> Make:
    """Plant into a copy of the artifact."""

    def make(f: Fixtures) -> Any:
        model = onnx.ModelProto()
        model.CopyFrom(f.model)
        change(model)
        return ArtifactSubject(sealed(model), "spoilt.onnx", 1)

    return make


def foreign(change: Callable[[onnx.ModelProto], None]) -> Make:
    """Plant into a copy of the foreign file."""

    def make(f: Fixtures) -> Any:
        model = onnx.ModelProto()
        model.CopyFrom(f.foreign)
        change(model)
        return ForeignSubject(model.SerializeToString(), "foreign.onnx", f.eager, 1)

    return make


def node_of(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def nodes_of(model: onnx.ModelProto, op: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == op]


def tensor_of(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def weight(name: str, change: Callable[[Any], Any]) -> Callable[[onnx.ModelProto], None]:
    def apply(model: onnx.ModelProto) -> None:
        tensor = tensor_of(model, name)
        array = np.ascontiguousarray(change(numpy_helper.to_array(tensor).copy()))
        tensor.CopyFrom(numpy_helper.from_array(array, name))

    return apply


def input_weight(op: str, number: int, place: int, change: Callable[[Any], Any]) -> Callable[[onnx.ModelProto], None]:
    return lambda model: weight(nodes_of(model, op)[number].input[place], change)(model)


def attribute(find: Callable[[onnx.ModelProto], onnx.NodeProto], **values: Any) -> Callable[[onnx.ModelProto], None]:
    def apply(model: onnx.ModelProto) -> None:
        node = find(model)
        kept = [one for one in node.attribute if one.name not in values]
        del node.attribute[:]
        node.attribute.extend([*kept, *(helper.make_attribute(key, value) for key, value in values.items())])

    return apply


def fit_node(op: str) -> Callable[[onnx.ModelProto], onnx.NodeProto]:
    """Find an operator in the branch that resizes."""

    def find(model: onnx.ModelProto) -> onnx.NodeProto:
        branch = next(
            a.g for n in model.graph.node if n.op_type == "If" for a in n.attribute if a.name == "else_branch"
        )
        return next(node for node in branch.node if node.op_type == op or node.output[0].endswith(op))

    return find


def after(tensor: str, *steps: tuple[str, dict[str, Any], list[Any]]) -> Callable[[onnx.ModelProto], None]:
    """Put operators between the node that makes ``tensor`` and whoever reads it."""

    def apply(model: onnx.ModelProto) -> None:
        maker = next(node for node in model.graph.node if tensor in node.output)
        place = list(model.graph.node).index(maker)
        previous = f"{tensor}.before"
        maker.output[list(maker.output).index(tensor)] = previous
        for number, (op, attributes, constants) in enumerate(steps):
            last = number == len(steps) - 1
            made = tensor if last else f"{tensor}.step{number}"
            names = []
            for which, constant in enumerate(constants):
                names.append(f"{made}.{op}.{which}")
                model.graph.initializer.append(numpy_helper.from_array(np.asarray(constant), names[-1]))
            node = helper.make_node(op, [previous, *names], [made], name=f"planted.{op}.{number}", **attributes)
            model.graph.node.insert(place + 1 + number, node)
            previous = made

    return apply


def dropped(op: str, tensor: str) -> Callable[[onnx.ModelProto], None]:
    """Take the operator that makes ``tensor`` away."""

    def apply(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if tensor in node.output and node.op_type == op)
        node.op_type = "Identity"
        del node.attribute[:], node.input[1:]

    return apply


def labels(change: Callable[[list[str]], list[str]]) -> Callable[[onnx.ModelProto], None]:
    def apply(model: onnx.ModelProto) -> None:
        entry = next(entry for entry in model.metadata_props if entry.key == "danlu.labels")
        entry.value = json.dumps(change(json.loads(entry.value)))

    return apply


def fixed_reshape(model: onnx.ModelProto) -> None:
    node = nodes_of(model, "Reshape")[-1]
    weight(node.input[1], lambda shape: np.array([2, *shape[1:]], np.int64))(model)


def clipped(limit: float) -> tuple[str, dict[str, Any], list[Any]]:
    return ("Clip", {}, [np.float32(-limit), np.float32(limit)])


def silent_bf16(f: Fixtures) -> Any:
    """Return OpenVINO left to itself: it computes in bfloat16 where the processor can."""
    from danlu.deploy.convert import to_openvino
    from danlu.deploy.folder import write_folder
    from danlu.deploy.runtimes.openvino import OpenVINO
    from danlu.deploy.subjects import FolderSubject

    path = f.folder / "openvino"
    path.mkdir(exist_ok=True)
    info = ArtifactInfo.from_metadata({entry.key: entry.value for entry in f.model.metadata_props}, "planted")
    converted = to_openvino(f.model, info)
    write_folder(path, "openvino", converted.contents, info, outside=converted.outside)
    subject = FolderSubject(path, "openvino", 1)
    tensors = tuple(info.stages.values())
    subject.runtime = subject._staged = OpenVINO.load(path, threads=1, precision="bf16", extra=tensors)
    return subject


def mixed(model: onnx.ModelProto) -> None:
    """Leave batch normalisation in training mode: it takes mean and variance of the batch it is given."""
    node = nodes_of(model, "BatchNormalization")[0]
    attribute(lambda m: nodes_of(m, "BatchNormalization")[0], training_mode=1)(model)
    node.output.extend(["mean.unused", "var.unused"])


def declared_batch(model: onnx.ModelProto) -> None:
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 1


def probabilities_out(*extra: str) -> Callable[[onnx.ModelProto], None]:
    def apply(model: onnx.ModelProto) -> None:
        last = model.graph.output[0].name
        after(last, *(("Softmax", {"axis": -1}, []) for _ in extra))(model)

    return apply


def named_output(name: str) -> Callable[[onnx.ModelProto], None]:
    def apply(model: onnx.ModelProto) -> None:
        old = model.graph.output[0].name
        for node in model.graph.node:
            renamed = [name if one == old else one for one in node.output]
            del node.output[:]
            node.output.extend(renamed)
        model.graph.output[0].name = name

    return apply


def before_first(*steps: tuple[str, dict[str, Any], list[Any]]) -> Callable[[onnx.ModelProto], None]:
    """Put operators between the input and the first layer: what the foreign network was trained to be fed."""

    def apply(model: onnx.ModelProto) -> None:
        previous = model.graph.input[0].name
        for number, (op, attributes, constants) in enumerate(steps):
            made = f"input.step{number}"
            names = [f"{made}.{which}" for which in range(len(constants))]
            for name, constant in zip(names, constants, strict=True):
                model.graph.initializer.append(numpy_helper.from_array(np.asarray(constant), name))
            model.graph.node.insert(number, helper.make_node(op, [previous, *names], [made], name=made, **attributes))
            previous = made
        for node in model.graph.node[len(steps) :]:
            renamed = [previous if one == model.graph.input[0].name else one for one in node.input]
            del node.input[:]
            node.input.extend(renamed)

    return apply


def with_settings(f: Fixtures) -> tuple[Any, Any]:
    settings = f.eager._probed.preprocess.settings
    return tuple(np.array(row, np.float32).reshape(1, -1, 1, 1) for row in (settings.mean, settings.std))  # type: ignore[return-value]


def expecting(reverse: bool, scaled: bool) -> Make:
    """Return a foreign file that normalises inside and wants BGR, or bytes as floats."""

    def make(f: Fixtures) -> Any:
        mean, std = with_settings(f)
        steps: list[Any] = [("Gather", {"axis": 1}, [np.array([2, 1, 0])])] if reverse else []
        if scaled:
            steps += [("Mul", {}, [1 / (255 * std)]), ("Sub", {}, [mean / std])]
        return foreign(before_first(*steps))(f)

    return make


def flat_transposed(model: onnx.ModelProto) -> None:
    """Flatten channels last before the linear layer."""
    after(nodes_of(model, "Reshape")[-1].input[0] + "", ("Identity", {}, []))(model)
    node = nodes_of(model, "Reshape")[-1]
    laid = helper.make_node("Transpose", [node.input[0]], ["laid"], name="planted.transpose", perm=[0, 2, 3, 1])
    place = list(model.graph.node).index(node)
    node.input[0] = "laid"
    model.graph.node.insert(place, laid)


assert OPSET == 18


def clean_forms(eager: EagerSubject, data: Data, folder: Path, *, ncnn: bool = False) -> dict[str, Any]:
    """Return forms of one network that answer alike, by their name: none of them may raise an alarm."""
    from danlu.deploy.convert import to_ncnn, to_openvino
    from danlu.deploy.folder import write_folder
    from danlu.deploy.subjects import FolderSubject

    network = eager._trained
    model, bare = artifact_model(network, data), foreign_model(eager)
    info = ArtifactInfo.from_metadata({entry.key: entry.value for entry in model.metadata_props}, "clean")
    given, last = onnx.ModelProto(), onnx.ModelProto()
    given.CopyFrom(bare)
    probabilities_out("once")(given)
    last.CopyFrom(bare)
    before_first(("Transpose", {"perm": [0, 3, 1, 2]}, []))(last)
    shape = last.graph.input[0].type.tensor_type.shape
    for side, value in zip(shape.dim[1:], (SIDE, SIDE, eager.channels), strict=True):
        side.dim_value = value
    forms: dict[str, Any] = {
        "artifact": ArtifactSubject(sealed(model), "model.onnx", 1),
        "foreign": ForeignSubject(bare.SerializeToString(), "foreign.onnx", eager, 1),
        "foreign, probabilities": ForeignSubject(given.SerializeToString(), "foreign.onnx", eager, 1),
        "foreign, channels last": ForeignSubject(last.SerializeToString(), "foreign.onnx", eager, 1),
        "program": Program(eager, resize=pil_resize(Image.Resampling.BILINEAR)),
    }
    for kind, convert in (("openvino", to_openvino), *((("ncnn", to_ncnn),) if ncnn else ())):
        path = folder / kind
        path.mkdir(parents=True, exist_ok=True)
        converted = convert(model, info)
        outside, tensors = converted.outside, converted.tensors
        write_folder(path, kind, converted.contents, info, outside=outside, tensors=tensors)
        forms[kind] = FolderSubject(path, kind, 1)
    return forms
