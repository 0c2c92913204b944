"""What all verbs share: the options everywhere, the output, how a run is shown."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from danlu import terminal
from danlu.core.errors import InputError

if TYPE_CHECKING:
    from cyclopts import Token

__all__ = [
    "Common",
    "Flag",
    "Output",
    "Pairs",
    "Training",
    "Whole",
    "WholeOrNone",
    "overrides_of",
    "parity_lines",
    "requested_of",
    "run_output",
]

Flag = Annotated[bool, Parameter(negative="")]
Pairs = Annotated[list[str] | None, Parameter(negative="", consume_multiple=False)]


def _whole(_: Any, tokens: Sequence[Token]) -> int:
    """Return a count; cyclopts alone rounds 1.5 to 2."""
    text = tokens[0].value
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is no whole number") from None


Whole = Annotated[int, Parameter(converter=_whole)]
WholeOrNone = Annotated[int | None, Parameter(converter=_whole)]


@dataclass(frozen=True)
class Common:
    """Options every verb takes."""

    json: bool = False
    "Print one JSON document to standard output."
    debug: bool = False
    "Show the traceback of an error."
    quiet: bool = False
    "Warnings and errors only."


@dataclass(frozen=True)
class Training(Common):
    """Options of the verbs that train."""

    out: Path | None = None
    "The folder to write; by default a new one below ./runs."
    seed: Whole = 0
    "Of the split, the initialisation and every draw."
    device: str = "auto"
    "auto, cpu, cuda, cuda:<i> or mps."
    threads: WholeOrNone = None
    "Processor threads; measured when not given."
    lang: str | None = None
    "Language the report opens in: en or zh."


@dataclass(frozen=True)
class Output:
    """What a verb returns: a document for ``--json``, the text for people, the exit code."""

    document: Any
    text: str
    exit_code: int = 0


def overrides_of(pairs: list[str] | None, epochs: int | None, budget: str | None) -> dict[str, Any]:
    """Return the settings of ``--set``, ``--epochs`` and ``--budget`` by dotted key; each key once."""
    from danlu.core.settings import parse_duration, parse_overrides

    overrides = parse_overrides(pairs or [])
    for key, value in (("epochs", epochs), ("budget", parse_duration(budget) if budget else None)):
        if value is None:
            continue
        if key in overrides:
            raise InputError(f"key {key!r} is given twice", where=f"--set and --{key}")
        overrides[key] = value
    return overrides


def requested_of(
    verb: str,
    data: str,
    model: str,
    recipe: str | None,
    overrides: dict[str, Any],
    weights: Path | None,
    common: Training,
    **flags: Any,
) -> dict[str, Any]:
    """Return what the user asked for, and the command that asks for it again.

    A flag of ``flags`` is written ``--name`` for True, ``--no-name`` for an INT8 that was refused.
    """
    from danlu.data.names import text_of

    data = text_of(data)
    words = ["danlu", verb, data]
    words += ["--model", model] if model != "auto" else []
    words += ["--recipe", recipe] if recipe else []
    for key, value in overrides.items():
        words += ["--set", f"{key}={json.dumps(value, ensure_ascii=False)}"]
    words += [
        f"--{'' if value else 'no-'}{name}"
        for name, value in flags.items()
        if value or (name == "int8" and value is False)
    ]
    words += ["--weights", text_of(weights)] if weights else []
    words += ["--seed", str(common.seed)] if common.seed else []
    words += ["--device", common.device] if common.device != "auto" else []
    words += ["--threads", str(common.threads)] if common.threads else []
    asked = {"verb": verb, "data": data, "model": model, "recipe": recipe, "set": overrides, "lang": common.lang}
    return {**asked, **flags, "device": common.device, "threads": common.threads, "command": shlex.join(words)}


def run_output(path: Path) -> Output:
    """Return what a person wants to know of a run: its figures, its files, what to do next."""
    from danlu.core.records import RunFolder

    folder = RunFolder(path)
    record = folder.read_record()
    lines = [f"run        {path}"]
    for split, metrics in record.get("results", {}).items():
        lines.append(f"{split:<11}accuracy {terminal.percent(metrics['accuracy'])}")
    if proof := parity_lines(record):
        lines.append(proof)
    for name, facts in record.get("artifacts", {}).items():
        if facts.get("file"):
            lines.append(f"{name:<11}{path / facts['file']}  ({facts['bytes']:,} bytes)")
    if folder.report_path.exists():
        lines.append(f"report     {folder.report_path}")
    else:
        lines.append(f"next       danlu eval {path} DATA    danlu export {path}    danlu report {path}")
    return Output({"run": str(path), "record": record}, "\n".join(lines))


def parity_lines(record: Mapping[str, Any]) -> str:
    """Return a line for each parity proof of a record."""
    lines = []
    for name, proof in record.get("parity", {}).items():
        if not isinstance(proof, dict) or "validation" not in proof:
            continue
        v = proof["validation"]
        lines.append(
            f"parity {name}: largest logit difference {terminal.figure(v['max_abs_logit_difference'])} over {v['n']:,} "
            f"validation pictures, {v['flips']} flips, accuracy {100 * v['accuracy_difference']:+.2f} points"
        )
        if proof.get("delivered") is False:
            lines.append(f"  not delivered: {proof['reason']}")
    return "\n".join(lines)
