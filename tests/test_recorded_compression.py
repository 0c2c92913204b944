"""The recorded compression of the LeNets is of today's source, and its table is that of the record."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from danlu.core.errors import InputError
from danlu.core.files import read_json
from danlu.train import train
from proof.compression import RESULTS, ROOT, ROWS, SOURCES, check_kept, source_hash, summary, with_table


def test_the_record_is_of_todays_source() -> None:
    """Run `python -m proof.compression ROW` when this fails."""
    rows = read_json(RESULTS)["rows"]
    assert [name for name, row in rows.items() if row["source"] != source_hash(name)] == []


def test_the_record_says_what_its_seeds_say() -> None:
    for name, row in read_json(RESULTS)["rows"].items():
        assert row["summary"] == summary(ROWS[name], row["results"])
        assert row["settings"]["compress"] == dict(ROWS[name].settings)
        seeds = [result["seed"] for result in row["results"]]
        assert seeds == sorted(set(seeds))
        sizes = [result["bytes"] for result in row["results"]]
        assert row["summary"]["bytes"] == round(statistics.mean(sizes), 1)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_shows_the_record(language: str) -> None:
    """Run `python -m proof.compression --page` when this fails."""
    assert (ROOT / f"docs/{language}/compress.md").read_text(encoding="utf-8") == with_table(language)


def test_another_source_is_seen(tmp_path: Path) -> None:
    for name in SOURCES:
        for file in sorted((ROOT / name).rglob("*.py")) if (ROOT / name).is_dir() else [ROOT / name]:
            copy = tmp_path / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    assert source_hash("lenet300", tmp_path) == source_hash("lenet300")
    assert len({source_hash(name) for name in ROWS}) == len(ROWS)
    (tmp_path / "danlu/compress/entropy.py").write_text("another", encoding="utf-8")
    assert source_hash("lenet300", tmp_path) != source_hash("lenet300")


def test_a_dense_network_of_other_settings_is_refused(tmp_path: Path) -> None:
    row = ROWS["lenet5"]
    check_kept(tmp_path, row)  # nothing there yet
    few = replace(row, model="lenet5", train={"epochs": 1, "batch_size": 256})
    train("digits", model=few.model, overrides=few.train, threads=1, device="cpu", out=tmp_path / "dense")
    check_kept(tmp_path / "dense", few)
    with pytest.raises(InputError, match="other settings"):
        check_kept(tmp_path / "dense", row)
