"""Freed blocks stay with the process, unless the user has chosen otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from danlu.core.allocator import keep_freed_memory
print(keep_freed_memory() if sys.argv[1] == "keep" else "")
for _ in range(3):
    bytes(40 * 2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    bytearray(40 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _run(how: str, **environment: str) -> tuple[str, int]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    said, faults = done.stdout.splitlines()
    return said, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_freed_blocks_are_not_faulted_in_again() -> None:
    assert _run("leave")[1] > 10_000
    said, faults = _run("keep")
    assert said == "glibc, freed blocks kept"
    assert faults < 1_000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_a_users_choice_stays() -> None:
    said, faults = _run("keep", MALLOC_ARENA_MAX="2")
    assert said == "as the environment says (MALLOC_ARENA_MAX)"
    assert faults > 10_000
