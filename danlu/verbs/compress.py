"""The verbs ``compress METHOD``: one for each registered method that works on a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from danlu import terminal
from danlu.compress import METHODS
from danlu.verbs.common import Common, Output, Pairs, WholeOrNone

__all__ = ["compress_verbs"]

_HELP = """{title}.

Writes NAME.dlz, which is evaluated, exported, measured and compressed again as a run is, and NAME.json beside it.

Parameters
----------
run
    A run folder or a coded file (.dlz).
set
    Set one setting of the method, e.g. --set {example}; may be given several times.
out
    The file to write, NAME.dlz; by default {name}.dlz in the run folder.
seed
    Of every draw; the run's own by default.
device
    auto, cpu, cuda, cuda:<i> or mps.
threads
    Processor threads; those the run was trained with by default.
"""


# What the text of help shows where the method has no epochs of its own.
_EXAMPLES = {"deep": "prune.keep=0.08"}


def compress_verbs() -> dict[str, Callable[..., Output]]:
    """Return ``compress METHOD`` -> verb, for every method that works on a network; imports none of them."""
    return {
        f"compress {name}": _verb(name, facts["title"])
        for name, facts in METHODS.index.items()
        if facts.get("works_on") == "network"
    }


def _verb(name: str, title: str) -> Callable[..., Output]:
    def verb(
        run: Path,
        /,
        *,
        set: Pairs = None,
        out: Path | None = None,
        seed: WholeOrNone = None,
        device: str = "auto",
        threads: WholeOrNone = None,
        common: Common | None = None,
    ) -> Output:
        from danlu.compress import compress
        from danlu.core.settings import parse_overrides

        overrides = parse_overrides(set or [])
        document = compress(run, name, overrides=overrides, out=out, seed=seed, device=device, threads=threads)
        return Output(document, _text(document))

    verb.__name__ = verb.__qualname__ = f"compress_{name.replace('-', '_')}"
    verb.__doc__ = _HELP.format(title=title[0].upper() + title[1:], name=name, example=_EXAMPLES.get(name, "epochs=5"))
    return verb


def _text(document: Mapping[str, Any]) -> str:
    """Return the layers, the file's bytes by purpose, and the accuracy on validation, as text."""
    rows = [
        {
            "tensor": layer["name"],
            "weights": layer["weights"],
            "kept": f"{100 * layer['kept'] / max(1, layer['weights']):.2f} %",
            "bits": layer.get("bits", ""),
            "bytes": layer["bytes"],
            "bits a kept weight": f"{8 * layer['bytes'] / max(1, layer['kept']):.2f}",
            "coding": layer.get("coding", ""),
        }
        for layer in document["layers"]
        if layer["weights"] > 1
    ]
    before, after = (document["validation"][key]["accuracy"] for key in ("before", "after"))
    split = ", ".join(f"{name} {count:,}" for name, count in document["split"].items())
    return "\n".join(
        [
            terminal.rows(rows),
            "",
            f"file       {document['path']}  ({document['bytes']:,} bytes: {split})",
            f"ratio      {document['ratio']:.1f}× smaller than {document['dense_bytes']:,} bytes of float32",
            f"validation accuracy {100 * before:.2f} % before, {100 * after:.2f} % after",
            f"next       danlu eval {document['path']} DATA    danlu export {document['path']}",
        ]
    )
