"""The verbs of networks: list, show, check, analyze."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from danlu import terminal
from danlu.core.errors import InputError
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
            "year": str(facts["year"]),
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
    shown = [
        {
            "model": row["model"],
            "proven": row["ok"],
            "checks": f"{sum(why == 'ok' for why in row['checks'].values())} of {len(row['checks'])}",
            "parameters": row["parameters"],
            "macs": row["macs"],
            "why not": row["why"] or "–",
        }
        for row in rows
    ]
    return Output(rows, terminal.rows(shown), exit_code=1 if failed else 0)


def analyze(
    model: str, /, *, input: str | None = None, threads: int | None = None, common: Common | None = None
) -> Output:
    """Count parameters, multiply-adds and bytes, and time each layer.

    Parameters
    ----------
    model
        A network's name or a run folder.
    input
        Input shape, e.g. 1x3x224x224; by default the network's own.
    threads
        Processor threads to take the times with.
    """
    from danlu.analyze import analyze as analyze_model

    shape = _shape(input) if input is not None else None
    analysis = analyze_model(model, shape, threads=threads).to_record()
    rows = [
        {
            "layer": layer["name"],
            "type": layer["type"],
            "output": "×".join(map(str, layer["output"][1:])),
            "parameters": layer["parameters"],
            "macs": layer["macs"],
            "µs": None if layer["seconds"] is None else round(1e6 * layer["seconds"], 1),
        }
        for layer in analysis["layers"]
    ]
    totals = {key: analysis[key] for key in ("parameters", "macs", "weight_bytes", "activation_bytes")}
    return Output(analysis, terminal.rows(rows) + "\n\n" + terminal.pairs(totals))


def _shape(text: str) -> tuple[int, ...]:
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 4 or not all(part.isdecimal() and int(part) for part in parts):
        raise InputError(f"--input {text!r} is no shape", allowed=["BxCxHxW, e.g. 1x3x224x224"])
    return tuple(map(int, parts))


def _card(card: Mapping[str, Any]) -> str:
    stages = [{**stage, "output": "×".join(map(str, stage["output"][1:]))} for stage in card["stages"]]
    plain = {key: value for key, value in card.items() if key not in ("stages", "deviations", "input")}
    plain = {**plain, "input": "×".join(map(str, card["input"])), "year": str(card["year"])}
    lines = [terminal.pairs({key: terminal.flat(value) for key, value in plain.items()}, width=None)]
    lines += ["", "deviations from the paper"]
    lines += [f"  {line}" for line in card["deviations"]] or ["  none"]
    return "\n".join([*lines, "", "stages", terminal.rows(stages)])
