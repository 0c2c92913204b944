"""Reproduction: one folder a paper, found by folder and imported by nothing but the verb that reproduces.

A paper's folder holds ``README.md`` (what it claims, what was new, our deviations, what we learned), ``expected.json``
(its rows: how each is run and what was published) and, once something was run, ``result.json``. ``rows.py`` reads
them, ``running.py`` runs a row seed by seed, ``verdict.py`` compares, ``depends.py`` says when a result is stale,
``pages.py`` writes the pages of the documentation.
"""

from __future__ import annotations
