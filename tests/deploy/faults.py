"""The sixty planted faults. Read a line as: this fault, planted there, is found at this step, this is said."""

from __future__ import annotations

import numpy as np
from PIL import Image

from danlu.deploy.culprit import softmax
from tests.deploy.planted import (
    IMAGENET,
    SIDE,
    Fault,
    after,
    as_bf16,
    attribute,
    before_first,
    clipped,
    cropped,
    declared_batch,
    dropped,
    expecting,
    fit_node,
    fixed_reshape,
    flat_transposed,
    floored,
    foreign,
    graph,
    grey_program,
    input_weight,
    labels,
    mixed,
    named_output,
    node_of,
    nodes_of,
    normalised,
    opened,
    pil_resize,
    probabilities_out,
    program,
    raw_decode,
    silent_bf16,
    torch_resize,
    usual,
    weight,
)

__all__ = ["FAULTS"]

BILINEAR, NEAREST, BICUBIC, BOX = (
    Image.Resampling.BILINEAR,
    Image.Resampling.NEAREST,
    Image.Resampling.BICUBIC,
    Image.Resampling.BOX,
)


def p(name, stage, says, **steps):  # type: ignore[no-untyped-def]
    return Fault(name, "program", stage, says, program(**steps))


def norm(name, stage, says, change):  # type: ignore[no-untyped-def]
    return Fault(name, "program", stage, says, program(normalise=normalised(change)))


def g(name, stage, says, change):  # type: ignore[no-untyped-def]
    return Fault(name, "graph", stage, says, graph(change))


def x(name, stage, says, change):  # type: ignore[no-untyped-def]
    return Fault(name, "foreign", stage, says, foreign(change))


def fixed(function):  # type: ignore[no-untyped-def]
    return lambda fixtures: function


FAULTS = [
    # --- a program's own decoding and colour
    p("reads files as BGR", "decode", "BGR", decode=lambda f: lambda s: f.eager.front.decode(s)[..., ::-1]),
    p("ignores EXIF", "decode", "EXIF", decode=fixed(raw_decode(lambda i: _over_white(i)))),
    p("drops transparency", "decode", "transparency", decode=lambda f: lambda s: _if_alpha(f, s)),
    p("reads palette indices", "decode", "palette", decode=lambda f: lambda s: _if_palette(f, s)),
    p("decodes to 0…1", "decode", "0-1", decode=lambda f: lambda s: f.eager.front.decode(s) / np.float32(255)),
    p("colour as BGR", "colour order", "BGR", colour=fixed(lambda a: a[..., ::-1])),
    Fault("grey as the mean", "program", "colour order", "mean", grey_program(lambda a: _grey(a, (1, 1, 1)))),
    Fault("grey from BGR", "program", "colour order", "BGR", grey_program(lambda a: _grey(a, (0.114, 0.587, 0.299)))),
    # --- resize and crop
    p("nearest", "resize", "nearest", resize=fixed(pil_resize(NEAREST))),
    p("bicubic", "resize", "bicubic", resize=fixed(pil_resize(BICUBIC))),
    p("area", "resize", "box", resize=fixed(pil_resize(BOX))),
    p("no antialias", "resize", "antialias", resize=fixed(torch_resize(False))),
    p("aligned corners", "resize", "corners", resize=fixed(torch_resize(True))),
    p("cuts fractions off", "resize", "cut off", resize=fixed(floored)),
    p("stretches", "resize", "stretched", resize=fixed(pil_resize(BILINEAR, lambda h, w: (SIDE, SIDE)))),
    p("resizes too large", "resize", "another size", resize=fixed(pil_resize(BILINEAR, lambda h, w: (2 * h, 2 * w)))),
    p("crops the corner", "crop", "crop offset", crop=fixed(cropped(lambda gap: 0, lambda gap: 0))),
    p(
        "crops by one off",
        "crop",
        "crop offset",
        crop=fixed(cropped(lambda n: -(-n // 2), lambda n: min(n, n // 2 + 1))),
    ),
    p("mirrors", "crop", "mirrored", crop=lambda f: lambda a: f.eager.front.crop(a)[:, ::-1]),
    # --- normalisation
    norm("no division by 255", "normalise", "0-255", lambda x, m, s: (x - m) / s),
    norm("divides by 255 twice", "normalise", "", lambda x, m, s: (x / 255 / 255 - m) / s),
    norm("forgets the mean", "normalise", "mean", lambda x, m, s: x / 255 / s),
    norm("forgets the deviation", "normalise", "std", lambda x, m, s: x / 255 - m),
    norm("ImageNet's mean and std", "normalise", "mean or std", lambda x, m, s: usual(x, *IMAGENET)),
    norm("swaps mean and std", "normalise", "mean or std", lambda x, m, s: usual(x, s, m)),
    norm("mean in the order of BGR", "normalise", "mean", lambda x, m, s: usual(x, m[::-1], s)),
    norm("BGR when normalising", "colour order", "BGR", lambda x, m, s: usual(x[:, ::-1], m, s)),
    norm("reads [H, W, C] as [C, H, W]", "normalise", "layout", lambda x, m, s: _read_as_planes(x, m, s)),
    norm("swaps height and width", "normalise", "height and width", lambda x, m, s: usual(x, m, s).swapaxes(2, 3)),
    norm("clips to 0…1", "normalise", "saturation", lambda x, m, s: usual(x, m, s).clip(0, 1)),
    norm("rounds to bf16", "normalise", "bf16", lambda x, m, s: as_bf16(usual(x, m, s))),
    norm("shifts by a pixel", "crop", "offset", lambda x, m, s: np.roll(usual(x, m, s), 1, axis=3)),
    # --- the answer
    p("forgets the softmax", "post-processing", "softmax is missing", answer=fixed(lambda z: z)),
    p("softmax twice", "post-processing", "softmax twice", answer=fixed(lambda z: softmax(softmax(z)))),
    p("softmax over the batch", "post-processing", "batch", answer=fixed(lambda z: softmax(z, axis=0))),
    p("sigmoid", "post-processing", "sigmoid", answer=fixed(lambda z: 1 / (1 + np.exp(-z)))),
    p("labels sorted otherwise", "post-processing", "label order", classes=lambda f: tuple(reversed(f.eager.classes))),
    # --- the exported graph
    g("graph without antialias", "resize", "antialias", attribute(fit_node("Resize"), antialias=0, exclude_outside=0)),
    g("graph crops the corner", "crop", "crop offset", lambda m: _cornered(fit_node(".corner")(m))),
    g("another mean in the graph", "normalise", "mean", weight("preprocess.shift", lambda a: a + 0.02)),
    g("first layer takes BGR", "stem", "BGR", weight("conv1.weight", lambda a: a[:, ::-1])),
    g("weights of one layer", "tail", "weights of `conv3`", weight("conv3.weight", lambda a: a * 1.01)),
    g("a bias is dropped", "body", "bias is dropped", weight("conv2.bias", lambda a: a * 0)),
    g("padding on one side", "body", "padding", attribute(lambda m: node_of(m, "conv2"), pads=[0, 0, 2, 2])),
    g("weights rounded to bf16", "tail", "bf16", weight("conv3.weight", as_bf16)),
    g("weights clipped", "body", "saturation", weight("conv2.weight", lambda a: a.clip(-0.1, 0.1))),
    g("no ReLU", "body", "Relu is missing", dropped("Relu", "stage.body")),
    g("average instead of maximum", "tail", "AveragePool", lambda m: _average(m)),
    g("activations clipped", "body", "saturation", after("stage.body", clipped(0.5))),
    g("a cast to fp16", "stem", "fp16", after("stage.stem", ("Cast", {"to": 10}, []), ("Cast", {"to": 1}, []))),
    g("flattened channels last", "logits", "layout", flat_transposed),
    g("a batch of two written down", "batch", "fixed batch", fixed_reshape),
    g("rows of the classifier in another order", "post-processing", "label order", lambda m: _turned(m)),
    g("labels in another order", "post-processing", "label order", labels(lambda names: names[1:] + names[:1])),
    # --- a foreign file
    x("epsilon", "stem", "epsilon", attribute(lambda m: nodes_of(m, "BatchNormalization")[0], epsilon=1e-2)),
    x("running mean", "tail", "running mean", input_weight("BatchNormalization", 1, 3, lambda a: a + 0.05)),
    x("train-mode batch normalisation", "stem", "train-mode", mixed),
    Fault("wants BGR", "foreign", "colour order", "BGR", expecting(reverse=True, scaled=False)),
    Fault("wants 0…255", "foreign", "normalise", "0-255", expecting(reverse=False, scaled=True)),
    # --- what runs it
    Fault("OpenVINO left to itself", "runtime", "stem", "silent bf16", silent_bf16),
]

# Beyond the sixty.
MORE = [
    x("foreign softmax twice", "post-processing", "softmax twice", probabilities_out("once", "twice")),
    x("foreign softmax missing", "post-processing", "softmax is missing", named_output("probabilities")),
    x("foreign batch of one", "batch", "fixed batch", declared_batch),
    x("foreign mean", "stem", "", before_first(("Add", {}, [np.float32(0.05)]))),
]


def _over_white(image):  # type: ignore[no-untyped-def]
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    white.alpha_composite(rgba)
    return white.convert("RGB")


def _if_alpha(f, source):  # type: ignore[no-untyped-def]
    image = opened(source)
    return np.asarray(image.convert("RGB")) if image.mode == "RGBA" else f.eager.front.decode(source)


def _if_palette(f, source):  # type: ignore[no-untyped-def]
    image = opened(source)
    if image.mode != "P":
        return f.eager.front.decode(source)
    return np.repeat(np.asarray(image)[..., None], 3, axis=2)


def _grey(pixels, shares):  # type: ignore[no-untyped-def]
    if pixels.shape[2] == 1:
        return pixels
    shares = np.array(shares) / np.sum(shares)
    return (pixels @ shares).round().astype(np.uint8)[..., None]


def _read_as_planes(x, m, s):  # type: ignore[no-untyped-def]
    return usual(x, m, s).transpose(0, 2, 3, 1).reshape(x.shape)


def _average(model):  # type: ignore[no-untyped-def]
    node = nodes_of(model, "MaxPool")[0]
    node.op_type = "AveragePool"
    kept = [one for one in node.attribute if one.name not in ("storage_order", "dilations")]
    del node.attribute[:]
    node.attribute.extend(kept)


def _turned(model):  # type: ignore[no-untyped-def]
    for name in ("classifier.weight", "classifier.bias"):
        weight(name, lambda a: np.roll(a, 1, axis=0))(model)


def _cornered(node):  # type: ignore[no-untyped-def]
    node.op_type, node.input[1] = "Sub", node.input[0]
