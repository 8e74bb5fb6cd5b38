"""The table of predicted beside measured."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "validation"))

import report

ROOT = Path(__file__).resolve().parent.parent
ROW = {
    "id": "one",
    "family": "table",
    "source": "somebody's table",
    "endpoint": "/api/memory/training",
    "request": {"model_name": "Qwen3-0.6B", "precision": "bfloat16", "mixed_precision": "none"},
    "expect": {"memory_bytes.training_memory": 10 * 2**30},
    "metric": "torch allocated",
    "notes": "nothing",
}


def test_a_row_stands_beside_its_measurement():
    lines = report.table([ROW]).splitlines()
    summary = next(line for line in lines if line.startswith("| table | full, one GPU | torch allocated | 1 |"))
    assert summary.endswith("% |")
    row = next(line for line in lines if line.startswith("| one |"))
    assert "| 10.00 |" in row and row.endswith("| nothing |")


def test_a_refused_row_says_why():
    wrong = {**ROW, "request": {"model_name": "Qwen3-0.6B", "tensor_parallel": 3}}
    row = next(line for line in report.table([wrong]).splitlines() if line.startswith("| one |"))
    assert "tensor_parallel" in row


def test_every_measured_row_names_its_source_and_is_answered():
    rows = [json.loads(line) for line in (ROOT / "validation" / "measured.jsonl").read_text().splitlines()]
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert row["source"] and row["metric"] and row["quality"] in ("high", "medium", "low")
    text = report.table(rows)
    assert all(f"| {row['id']} |" in text for row in rows)


def test_every_engine_and_every_row_that_misses_is_shown():
    engines = report.by_engine(report.rows_of(ROOT / "validation" / "measured_inference.jsonl"))
    assert all(f"| {engine} |" in engines for engine in ("llama.cpp", "sglang", "transformers", "vllm"))
    rows = report.rows_of(ROOT / "validation" / "missed.jsonl")
    text = report.missed(rows)
    assert all(row["source"] and row["notes"] and f"| {row['id']} |" in text for row in rows)
