"""The question turned around keeps its promises: a solved number is a boundary, a suggestion gives its figure."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_properties import CLIENT, KINDS, OPTIONS, names

GPUS = [name for name in names(OPTIONS["gpus"]) if any(word in name for word in ("H100", "A100", "L4", "T4", "4090"))]
LIMITS = {"batch_size": 10**6, "sequence_length": 10**9}
CAREFUL = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def asked(kind: str, body: dict[str, Any]) -> dict[str, Any] | None:
    """The reply to a question, None where it is refused."""
    reply = CLIENT.post(f"/api/memory/{kind}", json=body)
    assert reply.status_code in (200, 400), (body, reply.get_json())
    said: dict[str, Any] = reply.get_json()
    return said if reply.status_code == 200 else None


def fits(kind: str, body: dict[str, Any]) -> bool:
    """Whether the plain request fits; one that cannot be does not."""
    said = asked(kind, body)
    return said is not None and said["fit"]["fits"]


@pytest.mark.parametrize("field", ["batch_size", "sequence_length"])
@pytest.mark.parametrize("kind", KINDS)
def test_with_the_solved_number_it_fits_and_with_one_more_it_does_not(kind: str, field: str) -> None:
    @CAREFUL
    @given(KINDS[kind], st.sampled_from(GPUS))
    def check(body: dict[str, Any], gpu: str) -> None:
        body = {**body, "gpu": gpu}
        body.pop(field)
        reply = CLIENT.post("/api/memory/fit", json={**body, "calculation_type": kind, "solve_for": field})
        assert reply.status_code in (200, 400), (body, reply.get_json())
        assume(reply.status_code == 200)
        said = reply.get_json()
        n = said[field]
        if n:
            assert fits(kind, {**body, field: n}), (body, said)
        if said["limited_by"] is None:
            assert not fits(kind, {**body, field: n + 1}), (body, said)

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_a_suggestion_sent_back_gives_the_promised_figure(kind: str) -> None:
    @CAREFUL
    @given(KINDS[kind], st.sampled_from(GPUS))
    def check(body: dict[str, Any], gpu: str) -> None:
        body = {**body, "gpu": gpu}
        now = asked(kind, body)
        assume(now is not None)
        assert now is not None
        for each in now["fit"]["suggestions"]:
            then = asked(kind, {**body, **each["change"]})
            assert then is not None, (body, each)
            assert then["memory_bytes"][f"{kind}_memory"] == each["total_bytes"], (body, each)
            assert then["fit"]["fits"] == each["fits"], (body, each)

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_the_fewest_gpus_hold_it_with_their_split(kind: str) -> None:
    @settings(CAREFUL, max_examples=12)
    @given(KINDS[kind])
    def check(body: dict[str, Any]) -> None:
        body = {
            name: value for name, value in body.items() if "parallel" not in name and name not in ("gpu", "zero_stage")
        }
        reply = CLIENT.post("/api/memory/fit", json={**body, "calculation_type": kind})
        assert reply.status_code in (200, 400), (body, reply.get_json())
        assume(reply.status_code == 200)
        rows = reply.get_json()["gpus"]
        for row in rows[:: max(1, len(rows) // 6)]:
            assert fits(kind, {**body, "gpu": row["gpu"], **(row["split"] or {})}), (body, row)
            if row["gpu_count"] > 1:
                assert not fits(kind, {**body, "gpu": row["gpu"]}), (body, row)

    check()
