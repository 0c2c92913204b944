from __future__ import annotations

import pytest
from pydantic import Field

from danlu.core.errors import InputError, nearest_names
from danlu.core.settings import Settings, apply_overrides, make_settings, parse_duration, parse_overrides


class Inner(Settings):
    lr: float = Field(default=0.1, gt=0)


class Outer(Settings):
    epochs: int = Field(default=3, ge=1)
    optimizer: Inner = Inner()


def test_overrides_are_typed_and_leave_the_original() -> None:
    base = Outer()
    changed = apply_overrides(base, parse_overrides(["epochs=7", "optimizer.lr=1e-3"]))
    assert (changed.epochs, changed.optimizer.lr) == (7, 0.001)
    assert (base.epochs, base.optimizer.lr) == (3, 0.1)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["epohcs=7"], "did you mean: epochs"),
        (["optimizer.lrr=7"], "did you mean: optimizer.lr"),
        (["optimiser.lr=7"], "did you mean: optimizer"),
        (["epochs.x=7"], "unknown key 'epochs.x'"),
        (["optimizer.lr=-1"], "greater than 0"),
        (["optimizer.lr=NaN"], "optimizer.lr"),
        (["optimizer.lr=Infinity"], "finite"),
        (["epochs=no"], "epochs = 'no'"),
        (["epochs=12:30"], "epochs = '12:30'"),
        (["epochs=1.5"], "epochs = 1.5"),
        (["epochs"], "is not key=value"),
        (["=3"], "is not key=value"),
        (["epochs=1", "epochs=2"], "given twice"),
        (["epochs=[3"], "'[3' is no JSON"),
        (["optimizer={lr: 3}"], "is no JSON"),
    ],
)
def test_bad_overrides_are_named(pairs: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message.replace(".", r"\.").replace("(", r"\(").replace("[", r"\[")):
        apply_overrides(Outer(), parse_overrides(pairs))


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Outer().epochs = 2  # type: ignore[misc]


def test_unknown_key_in_a_file_names_the_file() -> None:
    with pytest.raises(InputError, match=r"config\.json: unknown key 'epoch'"):
        make_settings(Outer, {"epoch": 3}, "config.json")


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10min", 600), ("1.5h", 5400), ("45", 45), ("2 m", 120)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["0", "-5min", "soon", "10 minutes please", "", "1e400s"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(InputError, match="is no time"):
        parse_duration(text)


def test_nearest_names_ignore_case_and_dashes() -> None:
    assert nearest_names("Fashion_MNIST", ["mnist", "fashion-mnist", "cifar10"])[0] == "fashion-mnist"
    assert nearest_names("zzz", ["mnist"]) == []
