"""The verbs of networks: list, show, check, analyze."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Mapping
from typing import Any

from danlu import terminal
from danlu.core.errors import InputError, nearest_names
from danlu.verbs.common import Common, Flag, Output, WholeOrNone

__all__ = ["analyze", "models_check", "models_list", "models_show"]


def models_list(
    pattern: str = "*",
    /,
    *,
    task: str | None = None,
    min_parameters: str | None = None,
    max_parameters: str | None = None,
    min_macs: str | None = None,
    max_macs: str | None = None,
    year: str | None = None,
    picture_size: int | None = None,
    common: Common | None = None,
) -> Output:
    """List the networks.

    Parameters
    ----------
    pattern
        Only names like this, e.g. 'resnet*'.
    task
        Only those for this task.
    min_parameters
        Only those with at least this many parameters, e.g. 500k.
    max_parameters
        Only those with at most this many parameters, e.g. 5M.
    min_macs
        Only those with at least this many multiply-adds, e.g. 100M.
    max_macs
        Only those with at most this many multiply-adds, e.g. 1.5G.
    year
        Only those published in this year, or in these years: 2015-2017, 2020-, -2012.
    picture_size
        Only those that take pictures of this height and width.
    """
    rows = _listed(
        pattern,
        task=task,
        parameters=(
            _amount(min_parameters, "--min-parameters", 0),
            _amount(max_parameters, "--max-parameters", math.inf),
        ),
        macs=(_amount(min_macs, "--min-macs", 0), _amount(max_macs, "--max-macs", math.inf)),
        years=_years(year),
        side=picture_size,
    )
    return Output(rows, terminal.rows(rows) if rows else "no network is like that")


def _listed(
    pattern: str,
    *,
    task: str | None,
    parameters: tuple[float, float],
    macs: tuple[float, float],
    years: tuple[float, float],
    side: int | None,
) -> list[dict[str, Any]]:
    from danlu.models import MODELS

    tasks = sorted({facts["task"] for facts in MODELS.index.values()})
    if task not in (None, *tasks):
        near = nearest_names(str(task), tasks)
        raise InputError(f"no network is for {task!r}", where="--task", nearest=near, allowed=tasks)
    return [
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
        if any(fnmatch.fnmatchcase(one, pattern) for one in (name, *facts["aliases"]))
        and task in (None, facts["task"])
        and parameters[0] <= facts["parameters"] <= parameters[1]
        and macs[0] <= facts["macs"] <= macs[1]
        and years[0] <= facts["year"] <= years[1]
        and _takes(facts, side)
    ]


def _takes(facts: Mapping[str, Any], side: int | None) -> bool:
    if side is None:
        return True
    return bool(facts["input"][1:] == [side, side] if facts["fixed_input"] else facts["smallest"] <= side)


def _years(text: str | None) -> tuple[float, float]:
    found = re.fullmatch(r"(\d{4})?(-)?(\d{4})?", text or "-")
    if not found or (text and not (found[1] or found[3])) or (found[3] and not found[2]):
        raise InputError(f"--year {text!r}", allowed=["2015", "2015-2017", "2020-", "-2012"])
    first = int(found[1]) if found[1] else -math.inf
    last = int(found[3]) if found[3] else (math.inf if found[2] else first)
    return first, last


def _amount(text: str | None, option: str, default: float) -> float:
    """Return 5000000.0 for ``5M``."""
    if text is None:
        return default
    found = re.fullmatch(r"(\d[\d_,]*(?:\.\d+)?) ?([kKmMgG]?)", text.strip())
    if not found:
        raise InputError(f"{option} {text!r} is no number", allowed=["a number such as 250000, 500k, 5M or 1.5G"])
    return float(found[1].replace(",", "").replace("_", "")) * {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}[found[2].lower()]


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


def models_check(*names: str, counts: Flag = False, common: Common | None = None) -> Output:
    """Prove networks: counts against the paper, shapes, gradients, parity with an independent implementation, that
    they learn, ONNX.

    Parameters
    ----------
    names
        The networks; all when none is given, which takes an hour.
    counts
        Only what needs no computation: parameters, multiply-adds, stages, names of weights.
    """
    from danlu.proof import CHECKS, COUNTS, check_models

    rows = check_models(list(names), skip=set(CHECKS) - set(COUNTS) if counts else ())
    failed = [row for row in rows if not row["ok"]]
    shown = [
        {
            "model": row["model"],
            "proven": row["ok"],
            "checks": f"{sum(why == 'ok' for why in row['checks'].values())} of {len(row['checks'])}",
            "parameters": row["parameters"],
            "macs": row["macs"],
            "parity": _measured(row, "parity"),
            "learns": _measured(row, "learns"),
            "why not": row["why"] or "–",
        }
        for row in rows
    ]
    return Output(rows, terminal.rows(shown), exit_code=1 if failed else 0)


def _measured(row: Mapping[str, Any], what: str) -> str:
    measured = row["measured"].get(what)
    if measured is None:
        return "–"
    if "skipped" in measured:
        return str(measured["skipped"])
    if what == "learns":
        return f"{100 * measured['accuracy']:.1f} % in {measured['steps']} steps"
    return f"{max(measured['eval'], measured['train']):.1e} to {measured['reference']}"


def analyze(
    model: str, /, *, input: str | None = None, threads: WholeOrNone = None, common: Common | None = None
) -> Output:
    """Count parameters, multiply-adds and bytes, and time each layer; a run keeps them, and its report shows them.

    Parameters
    ----------
    model
        A network's name or a run folder.
    input
        Input shape, e.g. 1x3x224x224; by default the network's own.
    threads
        Processor threads to take the times with.
    """
    from danlu.single import analyze_any

    analysis = analyze_any(model, _shape(input) if input is not None else None, threads=threads).to_record()
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
    def published(what: str) -> str:
        return str(card["published"][what]) + (" (unverified)" if what in card["unverified"] else "")

    accuracy = ", ".join(f"{data} {value:g} %" for data, value in card["accuracy"].items()) or "none published"
    size = "×".join(map(str, card["input"]))
    accepted = "this size only" if card["fixed_input"] else f"{card['smallest']}×{card['smallest']} and larger"
    facts = {
        "name": ", ".join([card["name"], *card["aliases"]]),
        "paper": f"{card['title']} ({card['authors']}, {card['year']})",
        "link": card["link"],
        "what was new": card["new"],
        "task": card["task"],
        "pictures": f"{size} ({accepted})",
        "classes": f"{card['classes']:,}",
        "parameters": f"{card['parameters']:,}; published: {published('parameters')}",
        "multiply-adds": f"{card['macs']:,}; published: {published('macs')}",
        "published accuracy": accuracy + (" (unverified)" if "accuracy" in card["unverified"] else ""),
        "source": card["source"],
        "tables": card["table"],
        **_proofs(card),
    }
    stages = [{**stage, "output": "×".join(map(str, stage["output"][1:]))} for stage in card["stages"]]
    lines = [card["summary"], "", terminal.pairs(facts, width=None)]
    lines += ["", "deviations from the paper"]
    lines += [f"  {line}" for line in card["deviations"]] or ["  none"]
    return "\n".join([*lines, "", "stages", terminal.rows(stages)])


def _proofs(card: Mapping[str, Any]) -> dict[str, str]:
    """Return what the recorded proof measured, in words."""
    row = {"measured": {what: value for what, value in (card["measured"] or {}).items() if what != "ok" and value}}
    if not row["measured"]:
        return {"compared with": card["reference"], "proof": "not recorded"}
    learnt, onnx = row["measured"]["learns"], row["measured"]["onnx"]
    return {
        "parity": _measured(row, "parity") if "parity" in row["measured"] else card["reference"],
        "learns": f"{_measured(row, 'learns')} of {learnt['data']} at {learnt['size']} px",
        "ONNX": f"{onnx['error']:.1e} at batch sizes {', '.join(map(str, onnx['batches']))}",
    }
