"""Vision transformers: a picture as a sequence of patches, read by the encoder of a language model.

Title: An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale
Authors: Alexey Dosovitskiy, Lucas Beyer, Alexander Kolesnikov, Dirk Weissenborn, Xiaohua Zhai, Thomas Unterthiner,
    Mostafa Dehghani, Matthias Minderer, Georg Heigold, Sylvain Gelly, Jakob Uszkoreit, Neil Houlsby
Year: 2020 (ICLR 2021)
Link: https://arxiv.org/abs/2010.11929
New: no convolution beyond the cut into patches: attention alone, given enough data, reads pictures as well.
Table: table 1 (sizes), equations 1 to 4. Accuracies are those of torchvision's weights, trained on ImageNet-1K alone;
    the paper trains on ImageNet-21k first and reaches 84.61 (B/16), 81.79 (B/32) and 85.05 (L/16) by its README.

Deviations:
- The head is one linear layer, as the paper fine-tunes; while pre-training it has a hidden layer with tanh.
- There is no dropout, as in the two libraries; the paper trains on ImageNet with a tenth.
- Other picture sizes are refused; the paper fine-tunes on larger ones with interpolated position embeddings.
- S/16 is not in the paper: it is the size of DeiT-S, in the paper's form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.models import MODELS
from danlu.models.base import Learning, Paper, Published, Stage, Variant, VisionModel, WeightMapping, renamer

__all__ = ["VARIANTS", "Attention", "EncoderLayer", "VisionTransformer"]

EPS = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention; appendix A.

    Each of ``heads`` compares all tokens by queries and keys of ``width / heads`` numbers and averages their values.
    Takes and returns [B, N, width].
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return project(softmax(q kᵀ / √(width / heads)) v), the heads side by side."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, N, width / heads]
        seen = F.scaled_dot_product_attention(q, k, v)
        mixed: Tensor = self.project(seen.transpose(1, 2).reshape(batch, tokens, width))
        return mixed


class EncoderLayer(nn.Module):
    """Attention between tokens, then a perceptron with one hidden layer on each; equations 2 and 3.

    Takes and returns [B, N, width].
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens after both, each added to what went in."""
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class VisionTransformer(VisionModel):
    """The vision transformer; its stages are z_0 and what each encoder layer makes of it, z_1 to z_L.

    Args:
        image_size: height and width of the pictures.
        patch_size: height and width of a patch.
        depth: L, the number of encoder layers.
        width: D, numbers a token.
        heads: of the attention.
        hidden: width of the perceptrons' hidden layer; 4 D in the paper.
        num_classes: K.
        in_channels: C of the pictures; 3 in the paper.

    Takes [B, C, image_size, image_size], returns logits [B, K].
    """

    input_reason = "it has learnt one position embedding for each of its patches"

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        depth: int,
        width: int,
        heads: int,
        hidden: int,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.input_size = (image_size, image_size)
        self.stages = tuple(Stage(f"z{i}", width, patch_size) for i in range(depth + 1))
        tokens = 1 + (image_size // patch_size) ** 2
        self.patches = nn.Conv2d(in_channels, width, patch_size, stride=patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, tokens, width).normal_(std=0.02))
        self.layers = nn.ModuleList(EncoderLayer(width, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.classifier = nn.Linear(width, num_classes)
        _initialise(self)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return z0 … zL, each [B, 1 + patches, width] with the class token first, for pictures [B, C, H, W]."""
        self.check_pictures(x)
        x = self.patches(x).flatten(2).transpose(1, 2)  # [B, patches, width], row by row
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1)  # [B, 1 + patches, width]
        x = x + self.positions
        out = {"z0": x}
        for i, layer in enumerate(self.layers, start=1):
            x = out[f"z{i}"] = layer(x)
        return out

    def head(self, x: Tensor) -> Tensor:
        """Return logits [B, K] for zL [B, 1 + patches, width]: of the class token alone, equation 4."""
        logits: Tensor = self.classifier(self.norm(x[:, 0]))
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes."""
        old = self.classifier
        self.classifier = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
        self.num_classes = num_classes
        _zero(self.classifier)


def _initialise(model: VisionTransformer) -> None:
    # As in the authors' program: Glorot's range for every matrix, LeCun's deviation for the patches, nothing else.
    nn.init.trunc_normal_(model.patches.weight, std=model.patches.weight[0].numel() ** -0.5)
    assert model.patches.bias is not None
    nn.init.zeros_(model.patches.bias)
    for layer in model.layers:
        assert isinstance(layer, EncoderLayer)
        for name, parameter in layer.named_parameters():
            if name == "attention.qkv.weight":
                for matrix in parameter.detach().chunk(3):  # three matrices, each with its own fan-out
                    nn.init.xavier_uniform_(matrix)
            elif name.startswith(("attention", "mlp")):
                _glorot(name, parameter)
    _zero(model.classifier)


def _glorot(name: str, parameter: Tensor) -> None:
    if name.endswith("weight"):
        nn.init.xavier_uniform_(parameter)
    elif name.startswith("mlp"):
        nn.init.normal_(parameter, std=1e-6)
    else:
        nn.init.zeros_(parameter)


def _zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


_TORCHVISION = renamer(
    (r"^patches\.", "conv_proj."),
    (r"^positions$", "encoder.pos_embedding"),
    (r"^norm\.", "encoder.ln."),
    (r"^classifier\.", "heads.head."),
    (r"^layers\.(\d+)\.", r"encoder.layers.encoder_layer_\1."),
    (r"\.norm(\d)\.", r".ln_\1."),
    (r"\.attention\.qkv\.", ".self_attention.in_proj_"),
    (r"\.attention\.project\.", ".self_attention.out_proj."),
    (r"\.mlp\.2\.", ".mlp.3."),
)
_TIMM = renamer(
    (r"^patches\.", "patch_embed.proj."),
    (r"^class_token$", "cls_token"),
    (r"^positions$", "pos_embed"),
    (r"^classifier\.", "head."),
    (r"^layers\.", "blocks."),
    (r"\.attention\.project\.", ".attn.proj."),
    (r"\.attention\.", ".attn."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.2\.", ".mlp.fc2."),
)

_SMALL = {"depth": 12, "width": 384, "heads": 6, "hidden": 1536}
_BASE = {"depth": 12, "width": 768, "heads": 12, "hidden": 3072}
_LARGE = {"depth": 24, "width": 1024, "heads": 16, "hidden": 4096}

# All sizes learn as one tiny twin: 17 tokens, patches of 4×4 pixels.
_LEARNING = Learning(
    arguments={"image_size": 16, "patch_size": 4, "depth": 2, "width": 96, "heads": 4, "hidden": 192},
    size=16,
    steps=160,
    rate=2e-3,
    batch=128,
)


def _variant(
    name: str,
    size: Mapping[str, int],
    counts: tuple[int, int],
    published: Published,
    mapping: WeightMapping,
    *,
    image_size: int = 224,
) -> Variant:
    parameters, macs = counts
    patch_size = int(name.split("_")[2])
    return Variant(
        name=name,
        model=VisionTransformer,
        arguments={"image_size": image_size, "patch_size": patch_size, **size},
        paper=Paper(
            title="An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
            authors="Dosovitskiy et al.",
            year=2020,
            link="https://arxiv.org/abs/2010.11929",
        ),
        input=(3, image_size, image_size),
        classes=1000,
        parameters=parameters,
        macs=macs,
        published=published,
        mapping=mapping,
        fixed_input=True,
        smallest=image_size,
        representative=name == "vit_s_16",
        learning=_LEARNING,
    )


def _torchvision(name: str, **arguments: Any) -> WeightMapping:
    return WeightMapping(f"torchvision {name}", _TORCHVISION, builder=f"torchvision.models:{name}", arguments=arguments)


def _published(parameters: str, macs: str, accuracy: float) -> Published:
    source = "torchvision 0.29.1, weights meta IMAGENET1K_V1"
    return Published(parameters, macs, {"ImageNet-1K": accuracy}, source)


VARIANTS = (
    _variant(
        "vit_s_16",
        _SMALL,
        (22_050_664, 4_598_882_304),
        Published("22,050,664", "4.5989 G", {}, "timm 1.0.31 vit_small_patch16_224, counted"),
        WeightMapping(
            "timm vit_small_patch16_224", _TIMM, builder="timm.models.vision_transformer:vit_small_patch16_224"
        ),
    ),
    _variant(
        "vit_b_16",
        _BASE,
        (86_567_656, 17_563_828_224),
        _published("86,567,656", "17.564 G", 81.072),
        _torchvision("vit_b_16"),
    ),
    _variant(
        "vit_b_16_384",
        _BASE,
        (86_859_496, 55_484_350_464),
        Published(
            "86,859,496",
            "55.484 G",
            {"ImageNet-1K (trained on 3.6 billion pictures first)": 85.304},
            "torchvision 0.29.1, weights meta IMAGENET1K_SWAG_E2E_V1",
        ),
        _torchvision("vit_b_16", image_size=384),
        image_size=384,
    ),
    _variant(
        "vit_b_32",
        _BASE,
        (88_224_232, 4_409_186_304),
        _published("88,224,232", "4.409 G", 75.912),
        _torchvision("vit_b_32"),
    ),
    _variant(
        "vit_l_16",
        _LARGE,
        (304_326_632, 61_554_712_576),
        _published("304,326,632", "61.555 G", 79.662),
        _torchvision("vit_l_16"),
    ),
    _variant(
        "vit_l_32",
        _LARGE,
        (306_535_400, 15_377_539_072),
        _published("306,535,400", "15.378 G", 76.972),
        _torchvision("vit_l_32"),
    ),
)

for _each in VARIANTS:
    MODELS.register(_each.name, _each, __name__, **_each.facts())
