"""Settings, schedule and the overrides of --set."""

from __future__ import annotations

import itertools

import pytest

from danlu.core.errors import InputError
from danlu.core.settings import apply_overrides, parse_overrides
from danlu.pipeline import _check_settings
from danlu.train.choose import choose_config
from danlu.train.schedule import CosineSettings, StepSettings, learning_rate
from danlu.train.settings import TrainConfig


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimzer.lr=1", "did you mean: optimizer.lr"),
        ("optimizer.lrr=1", "did you mean: optimizer.lr"),
        ("epoch=3", "did you mean: epochs"),
        ("optimizer.lr=-0.1", "optimizer.lr = -0.1"),
        ("optimizer.lr=NaN", "optimizer.lr"),
        ("optimizer.lr=Infinity", "optimizer.lr"),
        ("optimizer.name=adamw9", "optimizer.name"),
        ("optimizer.momentum=1", "optimizer.momentum = 1"),
        ("epochs=0", "epochs = 0"),
        ("epochs=2.5", "epochs = 2.5"),
        ("epochs=many", "epochs = 'many'"),
        ("batch_size=-4", "batch_size = -4"),
        ("label_smoothing=1", "label_smoothing = 1"),
        ("precision=fp8", "precision = 'fp8'"),
        ("schedule=3", "schedule = 3"),
        ("clip=0", "clip = 0"),
        ("optimizer.lr.x=1", "unknown key 'optimizer.lr.x'"),
    ],
)
def test_b42_bad_settings_are_named(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        apply_overrides(TrainConfig(), parse_overrides([override]))


def test_b42_a_key_given_twice() -> None:
    with pytest.raises(InputError, match="given twice"):
        parse_overrides(["epochs=3", "epochs=4"])


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(InputError, match="nesterov needs a momentum"):
        apply_overrides(TrainConfig(), {"optimizer.momentum": 0.0})
    plain = apply_overrides(TrainConfig(), {"optimizer.momentum": 0.0, "optimizer.nesterov": False})
    assert plain.optimizer.momentum == 0.0


def test_settings_are_frozen_and_overrides_leave_them_alone() -> None:
    config = TrainConfig()
    changed = apply_overrides(config, {"optimizer.lr": 1e-3, "augment": [{"name": "flip"}]})
    assert changed.optimizer.lr == 1e-3
    assert changed.augment == ({"name": "flip"},)
    assert config == TrainConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.epochs = 3  # type: ignore[misc]


def test_epochs_and_budget_exclude_each_other() -> None:
    with pytest.raises(InputError, match="both given"):
        choose_config("default", 1000, {"epochs": 3, "budget": 60})
    assert choose_config("default", 1000, {"budget": 60}).budget == 60


def test_the_learning_rate_rises_and_falls() -> None:
    schedule = CosineSettings(warmup=0.1, final=0.0)
    rates = [learning_rate(step, 100, 0.5, schedule) for step in range(100)]
    assert 0 < rates[0] < rates[5] < rates[9] < rates[10] == 0.5
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[55] == pytest.approx(0.25)
    assert 0 < rates[99] < 0.001


def test_a_schedule_without_warmup_and_with_a_floor() -> None:
    schedule = CosineSettings(warmup=0.0, final=0.2)
    assert learning_rate(0, 10, 1.0, schedule) == 1.0
    assert learning_rate(9, 10, 1.0, schedule) > 0.2
    assert learning_rate(0, 1, 1.0, schedule) == 1.0


@pytest.mark.parametrize("key", ["batch_size", "checkpoint_seconds", "optimizer.lr", "clip", "accumulate"])
def test_true_is_no_number(key: str) -> None:
    with pytest.raises(InputError, match="a number is expected"):
        apply_overrides(TrainConfig(), {key: True})


def test_settings_that_contradict_one_another_are_said_in_one_line() -> None:
    with pytest.raises(InputError) as caught:
        apply_overrides(TrainConfig(), {"accumulate": 200})
    assert str(caught.value) == "--set: accumulate = 200 is more parts than the 128 pictures of a batch"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("accumulate=aut", "accumulate = 'aut' is not known\n  did you mean: auto?\n  allowed: auto, a number"),
        ("accumulate=0", "accumulate = 0: input should be greater than or equal to 1\n  allowed: auto, a number"),
        ("compile=aut", "compile = 'aut' is not known\n  did you mean: auto?\n  allowed: true, false, auto"),
        ("precision=bf61", "precision = 'bf61' is not known\n  did you mean: bf16?"),
        ("trackers=tensorbord", "trackers = 'tensorbord' is not known\n  did you mean: tensorboard?"),
        ("transfer.freeze=bodi", "transfer.freeze = 'bodi' is not known\n  did you mean: body?"),
        ("loss.class_weights=invers", "did you mean: inverse?\n  allowed: none, inverse, effective, a list"),
        ('loss.class_weights=[1,"a"]', "loss.class_weights.1 = 'a': input should be a valid number"),
        (
            "schedule.milestones=[0.5]",
            (
                "schedule.name = cosine has no key 'milestones'; step has it\n"
                "  allowed: schedule.warmup, schedule.by_epoch, schedule.name, schedule.final\n"
                "  mend: give --set schedule.name=step too, or leave schedule.milestones out"
            ),
        ),
        ("optimizer.beta1=0.9", "optimizer.name = sgd has no key 'beta1'; adam, adamw, lamb have it"),
        ("schedule.milestone=[0.5]", "unknown key 'schedule.milestone'\n  did you mean: schedule.milestones"),
        ("optimizer=adam", "optimizer = 'adam' is one value, optimizer has several"),
        ("optimizer=adam", "mend: give --set optimizer.name=adam"),
        ('schedule={"final": 0.1}', "schedule needs a name\n  allowed: constant, cosine"),
    ],
)
def test_messages_speak_of_settings_alone(overrides: str, message: str) -> None:
    """Nothing of how they are checked: no names of types that were tried, one of a union's words as the nearest."""
    with pytest.raises(InputError) as caught:
        apply_overrides(TrainConfig(), parse_overrides([overrides]))
    assert message in str(caught.value)
    for inner in ("constrained", "literal", "tuple[", "Settings", "union", "dictionary"):
        assert inner not in str(caught.value)


def test_one_value_does_for_a_list() -> None:
    given = ["trackers=tensorboard", "multi_scale=32", "augment=flip", "schedule.name=step", "schedule.milestones=0.5"]
    config = apply_overrides(TrainConfig(), parse_overrides(given))
    assert config.trackers == ("tensorboard",)
    assert config.multi_scale == (32,)
    assert config.augment == ({"name": "flip"},)
    assert isinstance(config.schedule, StepSettings)
    assert config.schedule.milestones == (0.5,)
    assert apply_overrides(TrainConfig(), {"augment": ["flip", {"name": "cutout"}]}).augment == (
        {"name": "flip"},
        {"name": "cutout"},
    )
    with pytest.raises(InputError, match="true"):
        apply_overrides(TrainConfig(), {"multi_scale": True})


def test_settings_of_a_recipe_are_not_checked_against_another() -> None:
    """The look at a request before the data is read must not refuse what its recipe has."""
    _check_settings("cifar10-airbench94", {"optimizer.rest_lr": 1.0})
    _check_settings(None, {"optimizer.rest_lr": 1.0})
    with pytest.raises(InputError, match="sgd has no key 'rest_lr'"):
        _check_settings("cifar10-resnet20", {"optimizer.rest_lr": 1.0})
    with pytest.raises(InputError, match="did you mean: epochs"):
        _check_settings(None, {"epoch": 1})
