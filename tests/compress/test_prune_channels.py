"""Structured pruning: what is kept computes what it computed; every kind of dependence; targets, refusals, edits."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from danlu.analyze.counting import count
from danlu.compress.blocks import residual_blocks, without
from danlu.compress.channel_graph import trace_channels
from danlu.compress.choose_channels import choose, edits_of, families, scores, silence
from danlu.compress.edits import Edit, apply_edits
from danlu.compress.prune_channels import PruneChannelsSettings, prune_once
from danlu.core.errors import InputError
from danlu.models import MODELS, create_model
from danlu.models.base import Stage, VisionModel
from danlu.proof.checks import randomise
from proof.pruning import prove

Shape = tuple[int, int, int]


@pytest.mark.parametrize(
    "name", ["resnet20", "mobilenet_v2_cifar", "shufflenet_v2_x0_5", "densenet121_cifar", "vit_s_16", "googlenet_aux"]
)
def test_what_is_pruned_computes_what_the_silenced_network_computes(name: str) -> None:
    row = prove(name, onnx=name == "resnet20")
    assert row["ok"]
    assert row["classes_removed"] > 20
    assert row["macs"]["after"] <= 0.5 * row["macs"]["before"]
    assert len(row["not_pruned"]) == (3 if name == "googlenet_aux" else 1), "only the answers stay whole"


class _Net(VisionModel):
    """A small network made of one awkward part between two convolutions."""

    def __init__(self, part: nn.Module, channels: int) -> None:
        super().__init__()
        self.in_channels, self.num_classes = 3, 5
        self.stages = (Stage("all", channels, 1),)
        self.first, self.part = nn.Conv2d(3, channels, 3, padding=1), part
        self.last = nn.Conv2d(channels, channels, 1)
        self.classifier = nn.Linear(channels, 5)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        return {"all": self.last(self.part(self.first(x)))}

    def head(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))
        return logits

    def reset_head(self, num_classes: int) -> None:
        self.classifier = nn.Linear(self.classifier.in_features, num_classes)


class _Function(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)  # type: ignore[operator, no-any-return]


def _shuffled(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    return x.reshape(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)


PARTS = {
    "nothing": lambda: nn.Identity(),
    "grouped": lambda: nn.Conv2d(16, 16, 3, padding=1, groups=4),
    "two wide groups": lambda: nn.Conv2d(16, 16, 1, groups=2),
    "depthwise": lambda: nn.Conv2d(16, 16, 3, padding=1, groups=16),
    "shuffle": lambda: _Function(_shuffled),
    "halves added": lambda: _Function(lambda x: torch.cat([sum(x.chunk(2, dim=1)), x.chunk(2, dim=1)[0]], dim=1)),  # type: ignore[arg-type]
    "maximum of pairs twice": lambda: _Function(
        lambda x: torch.cat([x.reshape(x.shape[0], -1, 2, *x.shape[2:]).amax(dim=2)] * 2, dim=1)
    ),
    "padded": lambda: _Function(lambda x: x + nn.functional.pad(x.mean(dim=(2, 3), keepdim=True), (0, 0, 0, 0, 0, 0))),
    "turned and back": lambda: _Function(lambda x: x.flatten(2).transpose(1, 2).transpose(1, 2).reshape(x.shape)),
}


def _equal(model: VisionModel, shape: Shape, removed: set[int]) -> float:
    graph = trace_channels(model, shape)
    pruned, silenced = copy.deepcopy(model), copy.deepcopy(model)
    apply_edits(pruned, edits_of(model, graph, removed))
    silence(silenced, graph, removed)
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = silenced(x)
        return float((pruned(x) - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("part", PARTS)
def test_awkward_parts(part: str) -> None:
    model = randomise(_Net(PARTS[part](), 16)).eval()
    graph = trace_channels(model, (3, 6, 6))
    removed = choose(graph, scores(model, graph, "random"), macs=0.6, reach=False)
    assert removed, "something of it can be pruned"
    assert _equal(model, (3, 6, 6), removed) < 1e-5


def test_what_has_no_rule_stays_whole_and_says_so() -> None:
    model = _Net(_Function(lambda x: x[:, torch.arange(15, -1, -1)]), 16)
    reason = trace_channels(model, (3, 6, 6)).refusals()["first"]
    assert "aten.index" in reason
    assert "part" in reason


def test_channels_taken_by_number_stay_whole() -> None:
    model = _Net(_Function(lambda x: torch.cat([x[:, :4], x[:, 4:]], dim=1)), 16)
    assert "by number" in trace_channels(model, (3, 6, 6)).refusals()["first"]


def test_heads_of_an_attention_go_as_a_whole() -> None:
    variant = MODELS.get("vit_s_16").twin()
    model = randomise(variant.build()).eval()
    shape = variant.check_input or variant.input
    graph = trace_channels(model, shape)
    heads = [one for one in families(graph) if one.name.endswith("attention.qkv")]
    before = model.layers[0].attention.heads  # type: ignore[union-attr, index]
    assert [len(one.classes) for one in heads] == [before] * len(heads)
    removed = {heads[0].classes[1]}
    assert _equal(model, shape, removed) < 1e-5
    edits = edits_of(model, graph, removed)
    assert edits[1].name == "keep_heads"
    assert edits[1].arguments["heads"]["layers.0.attention"][0] == before - 1


def test_criteria_find_the_weakest_channels() -> None:
    model = randomise(create_model("resnet20")).eval()
    block = model.get_submodule("stage1.0")
    with torch.no_grad():
        for tensor in (block.conv1.weight, block.norm1.weight):  # type: ignore[union-attr]
            tensor[3] *= 1e-3  # type: ignore[index, operator]
    graph = trace_channels(model, (3, 32, 32))
    label = int(graph.ties.roots(graph.layers["stage1.0.conv1"].outputs)[3])
    (family,) = [one for one in families(graph) if label in one.classes]
    gradients = {name: torch.ones_like(value) for name, value in model.named_parameters()}
    for criterion in ("l1", "l2", "bn"):
        score = scores(model, graph, criterion)  # type: ignore[arg-type]
        assert min(family.classes, key=score.__getitem__) == label, criterion
        assert label in choose(graph, score, macs=0.9), "the weakest goes first"
    taylor = scores(
        model, graph, "taylor", {k: torch.zeros_like(v) if "conv2" in k else v for k, v in gradients.items()}
    )
    weight = model.get_submodule("stage1.0.conv1").weight.detach()  # type: ignore[union-attr]
    scale = model.get_submodule("stage1.0.norm1").weight.detach()  # type: ignore[union-attr]
    assert taylor[label] == pytest.approx(abs(float(weight[3].sum() + scale[3])), rel=1e-4)


def test_targets_rounding_and_refusals() -> None:
    model = create_model("resnet20")
    dense = count(model, (1, 3, 32, 32)).macs
    for settings in (
        PruneChannelsSettings(scope="layer"),
        PruneChannelsSettings(macs="2.1x", multiple=4),  # type: ignore[arg-type]
    ):
        pruned = copy.deepcopy(model)
        edits, _ = prune_once(pruned, (3, 32, 32), settings.macs, settings)
        apply_edits(pruned, edits)
        assert 0.3 * dense < count(pruned, (1, 3, 32, 32)).macs <= settings.macs * dense
        widths = {m.out_channels for m in pruned.modules() if isinstance(m, nn.Conv2d)}
        assert settings.multiple == 1 or all(width % 4 == 0 for width in widths), widths
    with pytest.raises(InputError, match="not pruned are classifier: the network's answer"):
        prune_once(model, (3, 32, 32), 0.001)
    with pytest.raises(InputError, match="no batch norm"):
        prune_once(create_model("lenet5"), (1, 32, 32), 0.5, PruneChannelsSettings(criterion="bn"))


def test_edits_are_data_and_hostile_ones_are_refused() -> None:
    model = create_model("resnet20")
    edits, _ = prune_once(model, (3, 32, 32), 0.5)
    for edit in edits:
        assert Edit.from_json(edit.to_json(), "here") == edit
    bad = [
        {"sets": [[0, 99]], "modules": {"stem.conv": [None, 0, None]}},
        {"sets": [[1, 0]], "modules": {}},
        {"sets": [[]], "modules": {}},
        {"sets": [[0]], "modules": {"nowhere": [None, 0, None]}},
        {"sets": [[0]], "modules": {"stage1": [None, 0, None]}},
        {"sets": [[0]], "modules": {"classifier": [None, 7, None]}},
        {"sets": [[0]], "modules": {}, "stages": {"stage9": 4}},
        {"sets": [[0]], "modules": {}, "numbers": {"stage1.0.training": 4}},
        {"sets": [[0]], "modules": {}, "values": {"nowhere.weight": {"0": 0}}},
        {"sets": 3, "modules": {}},
    ]
    for arguments in bad:
        with pytest.raises(InputError):
            apply_edits(copy.deepcopy(model), [Edit("keep_channels", arguments)])
    with pytest.raises(InputError):
        apply_edits(model, [Edit("drop_blocks", {"names": [""]})])
    with pytest.raises(InputError):
        apply_edits(model, [Edit("keep_heads", {"heads": {"stage1.0": [1, 1]}})])


def test_residual_blocks_are_found_by_what_they_compute() -> None:
    model = create_model("resnet20")
    found = residual_blocks(model, (3, 32, 32))
    # The first block of the second and third stage changes the shape.
    assert found == [f"stage{s}.{b}" for s in (1, 2, 3) for b in range(3) if (s, b) not in ((2, 0), (3, 0))]
    shorter = without(model, found[:2])
    assert count(shorter, (1, 3, 32, 32)).macs < count(model, (1, 3, 32, 32)).macs
    assert residual_blocks(create_model("lenet5"), (1, 32, 32)) == []


def test_stages_say_the_channels_that_are_left() -> None:
    model = create_model("resnet20")
    edits, _ = prune_once(model, (3, 32, 32), 0.4)
    apply_edits(model, edits)
    for stage, feature in zip(model.stages, model.eval().features(torch.zeros(1, 3, 32, 32)).values(), strict=True):
        assert stage.channels == feature.shape[1]
    assert {stage.channels for stage in model.stages} != {16, 32, 64}
    assert np.isfinite(model(torch.zeros(1, 3, 32, 32)).detach().numpy()).all()
