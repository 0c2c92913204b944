"""The small methods of the papers' folders, against values worked out by hand and a second implementation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from danlu.augment.chain import make_chain
from danlu.core.errors import InputError
from danlu.data.arrays import array_names
from danlu.data.formats import FORMATS
from danlu.data.sample import ArrayDataset
from danlu.models import create_model
from danlu.papers import rows, running
from danlu.papers.alexnet.method import ResponseNorm, build_four_layers
from danlu.papers.analytic import agrees, receptive_field
from danlu.papers.distillation.method import bias_of_3, soft_loss
from danlu.papers.dropout.method import Perceptron
from danlu.papers.fashion_mnist.method import hog, squared_hinge
from danlu.papers.he_init.method import build_vgg16
from danlu.papers.hysts.method import build_preact20
from danlu.papers.kinds import Attempt
from danlu.papers.lenet.method import deskew, nearest
from danlu.papers.masks import Dropout
from danlu.papers.rows import find_paper
from danlu.papers.running import reproduce
from danlu.papers.small import Augmented, Fit, count_errors, fit, plain
from tests.papers.papers import make_paper, row


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_counts_agree_by_their_digits() -> None:
    assert agrees("25,557,032", 25_557_032)
    assert not agrees("25,557,032", 25_557_033)
    assert agrees("25.6 M", 25_557_032)  # rounded
    assert agrees("25.5 M", 25_557_032)  # cut
    assert not agrees("25.4 M", 25_557_032)
    assert not agrees("25.7 M", 25_557_032)
    assert agrees("64×56×56", "64×56×56")
    assert not agrees("64×56×56", "64×55×55")


def test_a_receptive_field_is_what_arithmetic_says() -> None:
    # LeNet-5's C3: a 5×5 kernel on the halved picture of a 5×5 kernel: 5 + 1 + 4 · 2 = 14.
    assert receptive_field(create_model("lenet5"), "c3", 32) == 14
    assert receptive_field(create_model("vgg11"), "stage1", 32) == 4  # 3×3, then a pooling of 2


def test_deskewing_takes_back_a_shear() -> None:
    upright = torch.zeros(1, 28, 28)
    upright[0, 6:22, 13:15] = 1.0
    slanted = torch.zeros(1, 28, 28)
    for y in range(6, 22):
        x = 13 + round((y - 13.5) * 0.4)
        slanted[0, y, x : x + 2] = 1.0

    def covariance(picture: torch.Tensor) -> float:
        y, x = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
        mass = picture.sum()
        return float((picture * (y - (picture * y).sum() / mass) * (x - (picture * x).sum() / mass)).sum() / mass)

    assert abs(covariance(slanted[0])) > 5.0
    assert abs(covariance(deskew(slanted)[0])) < 0.3
    assert torch.allclose(deskew(upright), upright, atol=0.01)


def test_nearest_neighbours_are_those_of_scikit_learn() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    draw = torch.Generator().manual_seed(0)
    x, test = torch.randn(300, 5, generator=draw), torch.randn(200, 5, generator=draw)
    labels = torch.randint(0, 2, (300,), generator=draw)
    judge = neighbors.KNeighborsClassifier(3, algorithm="brute").fit(x.numpy(), labels.numpy())
    assert torch.equal(nearest(x, labels, test, 3), torch.from_numpy(judge.predict(test.numpy())))


def test_the_nearest_decides_a_tie() -> None:
    x = torch.tensor([[0.0], [2.0], [3.0]])
    assert nearest(x, torch.tensor([2, 1, 0]), torch.tensor([[0.9], [1.6]]), 3).tolist() == [2, 1]


def test_gradient_histograms_of_an_edge() -> None:
    picture = torch.zeros(1, 8, 8)
    picture[0, :, 4:] = 1.0
    found = hog(picture, cell=4, bins=9, block=1).reshape(2, 2, 9)
    # Along x all gradients: direction 0, which lies between the last bin and the first.
    assert torch.allclose(found[..., 0], found[..., 8], atol=1e-5)
    assert float(found[..., 1:8].abs().max()) < 1e-5
    assert torch.allclose(found.square().sum(-1), torch.ones(2, 2), atol=1e-3)
    turned = hog(picture.transpose(1, 2), cell=4, bins=9, block=1).reshape(2, 2, 9)
    assert int(turned[0, 0].argmax()) == 4  # the middle bin is 90 degrees
    assert hog(torch.rand(3, 28, 28)).shape == (3, 6 * 6 * 4 * 9)


def test_the_support_vector_machine_ends_where_its_gradient_is_zero() -> None:
    svm = pytest.importorskip("sklearn.svm")
    draw = torch.Generator().manual_seed(1)
    x = torch.cat([torch.randn(400, 6, generator=draw), torch.ones(400, 1)], 1)
    y = torch.sign(x[:, :1] - 0.5 * x[:, 1:2] + 0.6 * torch.randn(400, 1, generator=draw))
    lam = 1e-2
    weights = squared_hinge(x, y, lam)
    judge = svm.LinearSVC(C=1 / (2 * 400 * lam), fit_intercept=False, tol=1e-8, max_iter=100_000)
    judge.fit(x.numpy(), y[:, 0].numpy())
    assert torch.allclose(weights[:, 0], torch.from_numpy(judge.coef_[0]).float(), atol=1e-4)


def test_soft_targets_move_the_student_to_the_teacher() -> None:
    teacher = torch.randn(4, 10)
    student = torch.randn(4, 10, requires_grad=True)
    assert float(soft_loss(teacher, teacher, 20.0)) == pytest.approx(0.0, abs=1e-4)
    soft_loss(student, teacher, 200.0).backward()
    assert student.grad is not None
    # Where the temperature is high, T² times the gradient goes to the difference of the centred logits over K.
    centred = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    assert torch.allclose(student.grad, centred.detach() / 10 / 4, atol=2e-3)


def test_the_bias_of_a_class_never_seen_is_raised_until_errors_are_fewest() -> None:
    logits = torch.zeros(20, 10)
    logits[:10, 3], logits[10:, 4] = -2.25, 3.75
    labels = torch.tensor([3] * 10 + [4] * 10)
    assert bias_of_3(logits, labels) == 2.5  # the first half is right from 2.5 on, the second one up to 3.5
    assert bias_of_3(logits, labels.clamp(min=4)) == 0.0


def test_the_networks_have_the_sizes_their_tables_name() -> None:
    assert parameters(build_preact20(3, 10)) == pytest.approx(0.27e6, rel=0.02)
    assert parameters(build_vgg16(3, 10, "he")) == pytest.approx(14.7e6, rel=0.01)
    assert parameters(Perceptron(784, 10, 1024, 3, "relu", dropout=True)) == 2_913_290
    assert parameters(build_four_layers(3, 10)) == 89_578
    assert build_four_layers(3, 10, "tanh", normalise=True)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("unit", ["relu", "tanh"])
def test_pooling_before_the_rise_changes_nothing(unit: str) -> None:
    torch.manual_seed(0)
    network, x = build_four_layers(3, 10, unit), torch.randn(2, 3, 32, 32)
    conv, pool, rise = list(network)[:3]
    assert torch.equal(network(x), network[3:](pool(rise(conv(x)))))
    kinds = [type(layer).__name__ for layer in network]
    assert [kinds[at + 1] for at, kind in enumerate(kinds) if kind == "Conv2d"][1:] == [type(rise).__name__] * 2


def test_response_normalisation_and_its_gradient_are_the_librarys() -> None:
    ours, theirs = ResponseNorm(9).double(), torch.nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
    x = (40 * torch.randn(2, 9, 4, 5, dtype=torch.float64)).requires_grad_()
    assert torch.allclose(ours(x), theirs(x), atol=1e-12)
    weights = torch.randn_like(x)
    mine, judge = (torch.autograd.grad((norm(x) * weights).sum(), x)[0] for norm in (ours, theirs))
    assert torch.allclose(mine, judge, atol=1e-12)


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_masks_keep_the_mean_and_drop_each_value_alone(p: float) -> None:
    torch.manual_seed(0)
    dropout = Dropout(p)
    x = torch.full((500, 2_001), 3.0, requires_grad=True)  # an odd number of values: the last word is cut
    out = dropout(x)
    kept = out > 0
    kept_share = (256 - round(256 * p)) / 256
    assert kept_share == pytest.approx(1 - p, abs=1 / 512)
    assert float(kept.float().mean()) == pytest.approx(kept_share, abs=0.002)
    assert torch.allclose(out[kept], torch.tensor(3.0 / kept_share))
    # Neighbours come from the same random word, columns and rows from different ones: none knows of another.
    flags = kept.float() - kept_share
    for a, b in ((flags[:, 1:], flags[:, :-1]), (flags[:, 8:], flags[:, :-8]), (flags[1:], flags[:-1])):
        assert abs(float((a * b).mean())) < 0.002
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad > 0, kept)
    assert torch.equal(dropout.eval()(x), x)
    torch.manual_seed(0)
    assert torch.equal(Dropout(p)(x), out)


def test_the_initialisations_differ_by_the_gain_of_relu() -> None:
    torch.manual_seed(0)
    he, glorot = (build_vgg16(3, 10, name)[2].weight.detach() for name in ("he", "glorot"))  # 64 → 64
    assert float(he.std() / glorot.std()) == pytest.approx(math.sqrt(2.0), rel=0.02)


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attempt:
    paper = make_paper(tmp_path / "papers", monkeypatch)
    found = Attempt(paper, paper.rows[0], 3, tmp_path / "seed", device="cpu", threads=1)
    find_paper.cache_clear()
    return found


def test_the_short_loop_learns_and_repeats_itself(attempt: Attempt) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(256, 8, generator=draw)
    labels = (x[:, 0] > 0).long()
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        network = torch.nn.Linear(8, 2)
        fit(network, plain(x, labels), 256, Fit(epochs=10, batch=32, lr=0.5, max_norm=1.0, half=False), attempt)
        weights.append(network.weight.detach().clone())
        assert count_errors(network, x, labels) < 20
        assert float(network.weight.detach().norm(dim=1).max()) <= 1.0 + 1e-5
    assert torch.equal(*weights)


def test_mixed_pictures_have_mixed_targets() -> None:
    draw = np.random.default_rng(0)
    pictures = draw.integers(0, 256, (32, 8, 8, 1), dtype=np.uint8)
    labels = np.arange(32) % 4
    chain = make_chain(({"name": "mixup", "alpha": 1.0},))
    batches = Augmented(pictures, labels, chain, 0, torch.device("cpu"))
    x, targets = batches(0, torch.arange(32))
    assert x.shape == (32, 1, 8, 8)
    assert torch.allclose(targets.sum(1), torch.ones(32))
    assert float(targets.max(1).values.min()) < 1.0
    smooth = Augmented(pictures, labels, make_chain(()), 0, torch.device("cpu"), smoothing=0.2)
    x, targets = smooth(0, torch.arange(32))
    assert float(targets[0, 0]) == pytest.approx(0.8 + 0.05)
    assert float(x.mean()) == pytest.approx(0.0, abs=1e-3)
    assert float(x.std()) == pytest.approx(1.0, abs=1e-2)


def test_a_row_of_the_43_networks_runs_on_the_true_file_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    splits = {}
    for part, count in (("train", 400), ("test", 100)):
        pictures = draw.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        names = tuple(f"class {number}" for number in range(100))
        splits[part] = ArrayDataset(pictures, np.arange(count) % 100, array_names(part, count), names)
    FORMATS.get("cifar100").write(splits, tmp_path / "cifar-100-binary")
    shipped = rows.find_row(find_paper("cifar100_zoo"), "shufflenet")
    tiny = {**shipped.overrides, "epochs": 1, "batch_size": 64, "kernels": "library"}
    given = {**shipped.model_dump(), "overrides": tiny, "seeds": 1, "tolerance": 100.0}
    make_paper(tmp_path / "papers", monkeypatch, row("shufflenet", **given))
    try:
        (found,) = running.reproduce(
            "some", row="shufflenet", out=tmp_path / "out", data=tmp_path / "cifar-100-binary", threads=1, device="cpu"
        )
    finally:
        find_paper.cache_clear()
    assert found["n"] == 1
    assert 80.0 <= float(found["ours"]) <= 100.0
    (folder,) = (tmp_path / "out/some/shufflenet").glob("seed-0-*")
    assert "shufflenet_v1_g3_cifar" in (folder / "config.json").read_text(encoding="utf-8")


def test_other_data_under_the_name_are_refused(tmp_path: Path) -> None:
    """A table of the paper must not be won on pictures of one's own."""
    for name, level in (("dark", 0), ("light", 255)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(12):
            picture = np.full((28, 28), level, np.uint8)
            picture[number] = 128
            Image.fromarray(picture).save(tmp_path / "data" / name / f"{number}.png")
    with pytest.raises(InputError, match=r"is not mnist: its content hash(.|\n)*danlu data get mnist"):
        reproduce("lenet", row="linear", out=tmp_path / "out", data=tmp_path / "data")
    assert not list((tmp_path / "out").rglob("result.json"))


def test_a_missing_data_set_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "empty"))
    (found,) = reproduce("cifar100_zoo", row="resnet18", out=tmp_path / "out")
    assert found["verdict"] == "not run"
    assert "danlu data get cifar100" in found["why"]
