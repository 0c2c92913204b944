"""The verbs of networks: list, show, check, analyze."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from danlu import terminal
from danlu.verbs.common import Common, Output

__all__ = ["analyze", "models_check", "models_list", "models_show"]


def models_list(
    *,
    task: str | None = None,
    max_parameters: int | None = None,
    max_macs: int | None = None,
    year: int | None = None,
    common: Common | None = None,
) -> Output:
    """List the networks.

    Parameters
    ----------
    task
        Only those for this task.
    max_parameters
        Only those with at most this many parameters.
    max_macs
        Only those with at most this many multiply-adds.
    year
        Only those published in this year.
    """
    from danlu.models import MODELS

    rows = [
        {
            "name": name,
            "parameters": facts["parameters"],
            "macs": facts["macs"],
            "input": "×".join(map(str, facts["input"])),
            "year": facts["year"],
            "task": facts["task"],
            "paper": facts["paper"],
        }
        for name, facts in sorted(MODELS.index.items())
        if task in (None, facts["task"])
        and (max_parameters is None or facts["parameters"] <= max_parameters)
        and (max_macs is None or facts["macs"] <= max_macs)
        and year in (None, facts["year"])
    ]
    return Output(rows, terminal.rows(rows))


def models_show(name: str, /, *, common: Common | None = None) -> Output:
    """Show a network's card: paper, what was new, stages with shapes, published numbers, deviations.

    Parameters
    ----------
    name
        The network's name.
    """
    from danlu.proof import model_card

    card = model_card(name)
    return Output(card, _card(card))


def models_check(*names: str, common: Common | None = None) -> Output:
    """Prove networks: counts against the paper, stage shapes, gradients, batch independence, ONNX.

    Parameters
    ----------
    names
        The networks; all when none is given.
    """
    from danlu.proof import check_models

    rows = check_models(list(names))
    failed = [row for row in rows if not row["ok"]]
    return Output(rows, terminal.rows(rows), exit_code=1 if failed else 0)


def analyze(model: str, /, *, input: str | None = None, common: Common | None = None) -> Output:
    """Count parameters, multiply-adds and bytes, and time each layer.

    Parameters
    ----------
    model
        A network's name or a run folder.
    input
        Input shape, e.g. 1x3x224x224; by default the network's own.
    """
    from danlu.pipeline import analyze_any

    analysis = analyze_any(model, input, threads=(common or Common()).threads)
    rows = [{k: layer[k] for k in ("name", "type", "output", "parameters", "macs")} for layer in analysis["layers"]]
    totals = {key: analysis[key] for key in ("parameters", "macs", "weight_bytes", "activation_bytes")}
    return Output(analysis, terminal.rows(rows) + "\n\n" + terminal.pairs(totals))


def _card(card: Mapping[str, Any]) -> str:
    plain = {key: terminal.flat(value) for key, value in card.items() if not isinstance(value, list)}
    lists = [f"\n{key}\n{terminal.rows(value)}" for key, value in card.items() if isinstance(value, list) and value]
    return terminal.pairs(plain) + "".join(f"\n{block}" for block in lists)
