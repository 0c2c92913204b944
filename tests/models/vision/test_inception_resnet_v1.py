"""The embedding of the face network: its count without the classifier, its length, its independence of the classes."""

from __future__ import annotations

import pytest
import torch

from danlu.analyze.counting import count
from danlu.models.vision.inception_resnet_v1 import VARIANTS, InceptionResNetV1


def test_parameters_and_multiply_adds_of_the_embedding_are_those_of_facenet_pytorch() -> None:
    with torch.device("meta"):
        model = VARIANTS[0].build()
    last = model.get_submodule("classifier")
    assert VARIANTS[0].parameters - sum(p.numel() for p in last.parameters()) == 23_482_624
    counted = count(model, (1, 3, 160, 160))
    assert round((counted.macs - counted.modules["classifier"].macs) / 1e9, 3) == 1.418


def test_embed_gives_vectors_of_length_one_that_new_classes_do_not_change() -> None:
    model = VARIANTS[0].twin().build().eval()
    assert isinstance(model, InceptionResNetV1)
    x = torch.randn(2, 3, 75, 75)
    with torch.no_grad():
        before = model.embed(x)
        model.reset_head(7)
        assert torch.equal(model.embed(x), before)
        assert model(x).shape == (2, 7)
    assert before.norm(dim=1).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


def test_embed_agrees_with_facenet_pytorch() -> None:
    package = pytest.importorskip("facenet_pytorch")
    from danlu.proof.checks import random_model

    ours = random_model(VARIANTS[0]).eval()
    theirs = package.InceptionResnetV1(num_classes=8631, classify=True).eval()
    mapping = VARIANTS[0].mapping
    assert mapping is not None
    assert isinstance(ours, InceptionResNetV1)
    theirs.load_state_dict(mapping.to_reference(ours.state_dict()))
    theirs.classify = False
    x = torch.randn(2, 3, 80, 80)
    with torch.no_grad():
        assert torch.allclose(ours.embed(x), theirs(x), atol=1e-6)
