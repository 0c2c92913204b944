"""What is chosen for the user, and the words that say why: model, recipe, picture size."""

from __future__ import annotations

from typing import Any

from danlu.core.errors import InputError
from danlu.core.log import logger
from danlu.core.settings import apply_overrides
from danlu.data.load import Data, PictureInfo
from danlu.models import MODELS
from danlu.tasks.preprocess import PreprocessSettings, choose_preprocess
from danlu.train.recipes import RECIPES
from danlu.train.settings import TrainConfig

__all__ = ["choose_config", "choose_model", "choose_pictures", "choose_recipe", "several_labels"]

_SMALL, _FEW_CLASSES = 32, 50
# Pictures of many sizes: 64 px keeps what most classes are told by at a quarter of the cost of 128 px.
_FOLDER_SIDE, _SMALL_FOLDER_SIDE = 64, 32
# Up to here a network made for photographs would see its last stages as one or two pixels.
_SMALL_FORM = 64


def choose_model(name: str, picture: PictureInfo, classes: int, picture_size: int | None = None) -> tuple[str, str]:
    """Return the model's name and why: the one asked for, or for ``auto`` one that suits the pictures.

    A network made for photographs that has a form for small pictures (``resnet18`` and ``resnet18_cifar``) is trained
    in that form on pictures of at most 64 px; ``picture_size`` is what they are brought to, where that was asked for.

    Raises:
        InputError: an unknown name, or a network that is not for classification.
    """
    if name != "auto":
        return _asked_for(name, picture, picture_size)
    size = f"{picture.height}×{picture.width} px" if picture.uniform else f"about {picture.height}×{picture.width} px"
    colour = "grey" if picture.channels == 1 else "colour"
    seen = f"{colour} pictures of {size}, {classes} classes"
    if picture.channels == 1 and max(picture.height, picture.width) <= _SMALL and classes <= _FEW_CLASSES:
        return "lenet5", f"{seen}: LeNet-5 was made for grey pictures up to 32 px and few classes, and is the fastest"
    reasons = []
    if picture.channels != 1:
        reasons.append("in colour")
    if max(picture.height, picture.width) > _SMALL:
        reasons.append("larger than 32 px")
    if classes > _FEW_CLASSES:
        reasons.append(f"of more than {_FEW_CLASSES} classes")
    return "resnet20", f"{seen}: a residual network, because they are {' and '.join(reasons)}"


def _asked_for(name: str, picture: PictureInfo, picture_size: int | None) -> tuple[str, str]:
    found = MODELS.check(name, "--model")
    task = MODELS.index[found].get("task", "classification")
    if task != "classification":
        raise InputError(
            f"{found} is for {task}, and these data are trained as classification",
            where="--model",
            mend="choose one of `danlu models list --task classification`",
        )
    called = "asked for" if found == name else f"asked for as {name}"
    side = picture_size or max(picture.height, picture.width)
    small = f"{found}_cifar"
    if side > _SMALL_FORM or small not in MODELS.index:
        return found, called
    why = f"{name} was asked for; on pictures of {side} px, at most {_SMALL_FORM}, it is trained in its small form"
    logger.info("model %s: %s", small, why)
    return small, why


def choose_recipe(name: str | None, data_name: str, model: str) -> tuple[str, str]:
    """Return the recipe's name and why: the one asked for, the one for this data and model, or ``default``.

    Raises:
        InputError: an unknown name.
    """
    if name is not None:
        return RECIPES.check(name, "--recipe"), "asked for"
    for candidate, facts in RECIPES.index.items():
        if facts.get("data") == data_name and facts.get("model") == model:
            return candidate, f"made for {data_name} and {model}"
    return "default", f"there is none for {data_name} and {model}"


def choose_config(recipe: str, samples: int, overrides: dict[str, Any]) -> TrainConfig:
    """Return the recipe's settings for ``samples`` training pictures with ``overrides`` in place.

    Raises:
        InputError: an unknown key, a value out of its range, or both ``epochs`` and ``budget``.
    """
    if overrides.get("budget") is not None and "epochs" in overrides:
        raise InputError(
            "epochs and budget are both given", where="settings", mend="give one: a budget chooses the epochs"
        )
    return apply_overrides(RECIPES.get(recipe)(samples), overrides)


def several_labels(config: TrainConfig) -> tuple[TrainConfig, str]:
    """Return the settings for pictures of several labels each, and why they differ.

    Raises:
        InputError: weights of classes, of which a picture has several.
    """
    if config.loss.class_weights != "none":
        what = f"loss.class_weights = {config.loss.class_weights}: a picture with several labels has no one weight"
        raise InputError(what, where="settings", mend="leave it out; loss.focal counts easy decisions less")
    loss = config.loss.model_copy(update={"kind": "sigmoid"})
    return config.model_copy(update={"loss": loss}), "sigmoid: pictures have several labels, each decided for itself"


def choose_pictures(config: TrainConfig, data: Data, model: str) -> tuple[PreprocessSettings, str]:
    """Return how pictures reach the network, and why they have that size.

    Raises:
        InputError: ``picture_size`` is one the network cannot take.
    """
    facts = MODELS.index[model]
    picture = data.picture
    if config.picture_size is not None:
        size, why = (config.picture_size, config.picture_size), "asked for"
    elif picture.uniform:
        size, why = (picture.height, picture.width), "the size of all pictures"
    else:
        side = _folder_side(min(picture.height, picture.width), max(facts["input"][1:]))
        size = (side, side)
        why = f"the pictures differ in size, their median is {picture.height}×{picture.width}"
    fed = size
    if config.picture_size is None and min(size) < facts.get("smallest", 1):
        # A strip is made higher; one that is far too long as well is shortened, as any large picture would be.
        fed = (min(size[0], 2 * facts["input"][1]), min(size[1], 2 * facts["input"][2]))
    settings = choose_preprocess(
        fed,
        picture.channels,
        data.mean,
        data.std,
        facts["input"],
        facts["fixed_input"],
        smallest=facts.get("smallest", 1),
    )
    if config.picture_size is not None and settings.picture_size != size:
        # Asked for: larger than what would be chosen is taken as it is, by networks that take any size.
        if facts["fixed_input"] or min(size) < facts.get("smallest", 1):
            raise InputError(
                f"picture_size = {config.picture_size}: {model} would get "
                f"{settings.picture_size[0]}×{settings.picture_size[1]} px",
                where="settings",
                mend="leave picture_size out, or give another --model",
            )
        settings = settings.model_copy(update={"picture_size": size, "input_size": size})
    if settings.picture_size != size:
        why += f", brought to what {model} takes"
    return settings, f"{settings.picture_size[0]}×{settings.picture_size[1]} px: {why}"


def _folder_side(side: int, published: int) -> int:
    """Return what pictures of many sizes, ``side`` px in the median, are brought to for one network."""
    if published > _SMALL_FORM and side > _SMALL_FORM:
        # A network made for photographs: its own size, or what the pictures give in steps of its usual stride.
        return min(published, side // 32 * 32)
    return _FOLDER_SIDE if side >= 48 else _SMALL_FOLDER_SIDE
