"""The command line: one thin verb a stage. Imports no torch before a verb needs it."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from danlu.core.errors import DanluError, InputError

if TYPE_CHECKING:
    from cyclopts import App

__all__ = ["main"]

_LEAST_COLUMNS = 20
_SIGPIPE = 13

OVERVIEW = """\
danlu (丹炉): a folder of data in; a trained, measured, compressed, deployable model out.

Usage: danlu VERB …          danlu VERB --help

  run DATA                    the main job, from data to report
  data list|get|check|convert named data sets; fetch one; check a folder; write another format
  models list|show|check      the networks; the card of one; the proof of each
  train DATA                  train only
  tune DATA                   search for settings; joined and gone on with by the same command
  resume RUN                  go on where a run stopped, bit for bit
  runs list|show              what was trained, with its figures
  eval RUN|ARTIFACT DATA      metrics with intervals, confusion matrix, worst samples
  analyze MODEL|RUN           parameters, multiply-adds, memory, time per layer
  compress METHOD RUN         a smaller network as one coded file, NAME.dlz: deep, entropy, prune, share, qat,
                              prune-channels, distill
  compress quantize RUN       INT8, or the layers that stand against it
  export RUN                  one ONNX file, or --to openvino|ncnn|web|triton, with its parity proof
  parity A B DATA             whether two models agree, the first stage that does not, and why
  bench RUN|ARTIFACT…         latency, throughput, rate that holds, memory: side by side
  predict ARTIFACT PICTURE…   classes of pictures; needs no torch
  serve ARTIFACT              the same over HTTP, with a page to try it; needs no torch
  reproduce list|run|table    published tables, run again and compared
  report RUN                  write report.html again
  env                         versions and machine

  DATA is digits, mnist, fashion-mnist, cifar10, or a folder that holds one folder a class. RUN is a run folder, or a
  coded file (.dlz).
  Everywhere: --json --quiet --debug. Where they mean something: --out --seed --device --threads --lang

First steps:  danlu run digits        danlu run my-pictures        danlu run mnist --download
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal of another encoding shows ? for what it lacks; that is no reason to stop.
            stream.reconfigure(errors="replace")
    if (columns := os.environ.get("COLUMNS", "")).isdecimal() and int(columns) < _LEAST_COLUMNS:
        # A terminal that does not know its width says 0; help wrapped to hardly any columns would never end.
        del os.environ["COLUMNS"]
    debug = "--debug" in tokens
    try:
        code = _answer(tokens)
        if sys.stdout is not None:  # closed by whoever started it
            sys.stdout.flush()
        return code
    except DanluError as error:
        if debug:
            _show_traceback()
        print(f"danlu: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("danlu: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Nobody reads on. What other programs end with then, because a check that failed must not look like a success.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + _SIGPIPE
    except Exception as error:
        if debug:
            _show_traceback()
        print(
            f"danlu: internal error: {type(error).__name__}: {error}\n  mend: run again with --debug", file=sys.stderr
        )
        return 70


def _answer(tokens: list[str]) -> int:
    if not tokens or tokens in (["--help"], ["-h"], ["help"]):
        print(OVERVIEW, end="")
        return 0
    if tokens == ["--version"]:
        from danlu.core.version import __version__

        print(__version__)
        return 0
    return _dispatch(tokens)


def _dispatch(tokens: list[str]) -> int:
    from cyclopts import CycloptsError

    from danlu import verbs
    from danlu.core import log
    from danlu.core.environment import is_writer
    from danlu.core.silence import silence

    silence()
    app = _app()
    try:
        verb, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        known = tokens[0] in {name.split()[0] for name in verbs.VERBS}
        raise InputError(str(error).strip(), mend=f"see: danlu {tokens[0] + ' ' if known else ''}--help") from None
    common = bound.arguments.get("common") or verbs.Common()
    _check({**vars(common), **bound.arguments})
    log.configure(quiet=common.quiet, debug=common.debug)
    if not is_writer():
        log.logger.setLevel("ERROR")  # the first of several processes speaks for all
    output = verb(*bound.args, **bound.kwargs)
    if not isinstance(output, verbs.Output) or not is_writer():  # --help and --version print by themselves
        return 0
    # Plain ASCII, so that no name is lost where the output's encoding lacks its letters.
    _print(json.dumps(output.document, indent=2, allow_nan=False) if common.json else output.text)
    return output.exit_code


def _show_traceback() -> None:
    import traceback

    traceback.print_exc()


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(f"standard output cannot be written ({error.strerror or error})") from None


def _check(options: Mapping[str, Any]) -> None:
    from danlu.core.environment import usable_cores

    threads, seed, lang, epochs = (options.get(name) for name in ("threads", "seed", "lang", "epochs"))
    if threads is not None and not 1 <= threads <= usable_cores():
        raise InputError(f"--threads {threads}", allowed=[f"1 to {usable_cores()}, the cores this process may use"])
    if seed is not None and not 0 <= seed < 2**63:
        raise InputError(f"--seed {seed}", allowed=["0 to 2**63 - 1"])
    if epochs is not None and not 1 <= epochs <= 100_000:
        raise InputError(f"--epochs {epochs}", allowed=["1 to 100,000"])
    if lang not in (None, "en", "zh"):
        raise InputError(f"--lang {lang!r}", allowed=["en", "zh"])
    for name in ("data", "source", "path"):
        if options.get(name) == "":
            raise InputError("an empty name", mend="give the name of a data set, or a folder")


def _app() -> App:
    from cyclopts import App, Parameter

    from danlu import verbs
    from danlu.core.version import __version__

    for options in (verbs.Common, verbs.Training):
        Parameter(name="*", negative="")(options)
    app = App(name="danlu", version=__version__, help=OVERVIEW, help_format="plaintext")
    for name, verb in verbs.VERBS.items():
        *groups, last = name.split()
        target = app
        for group in groups:
            if group not in target:
                target.command(App(name=group, help=verbs.GROUPS[group]))
            target = target[group]
        target.command(verb, name=last)
    return app
