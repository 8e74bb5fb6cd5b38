"""GET /metrics: what this process has answered and what it holds, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from flask import Blueprint, Response, current_app

from calculator.library import library

from .application import Application
from .version import VERSION
from .watching import BOUNDS, Counts

if TYPE_CHECKING:
    from prometheus_client import Metric

metrics = Blueprint("metrics", __name__)

LABELS = ("method", "route", "status")


class Collector:
    """Counts as prometheus-client takes them."""

    def __init__(self, counts: Counts) -> None:
        self.counts = counts

    def collect(self) -> Iterator[Metric]:
        """Requests, their latency, and what is served."""
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        requests = CounterMetricFamily("http_requests", "Requests answered.", labels=LABELS)
        latency = HistogramMetricFamily(
            "http_request_duration_seconds", "From the whole request to the whole reply.", labels=LABELS
        )
        for key, [*series, seconds] in self.counts.snapshot().items():
            buckets, below = [], 0.0
            for bound, number in zip((*map(str, BOUNDS), "+Inf"), series, strict=True):
                below += number
                buckets.append((bound, below))
            requests.add_metric(key, below)
            latency.add_metric(key, buckets, seconds)
        served = GaugeMetricFamily("llm_memory_models", "Bundled models that are served.", labels=("version",))
        served.add_metric((VERSION,), len(library()))
        damaged = GaugeMetricFamily("llm_memory_damaged_model_files", "Files of models that could not be read.")
        damaged.add_metric((), len(library().problems))
        yield from (requests, latency, served, damaged)


@metrics.get("/metrics")
def exposed() -> Response:
    """Everything, once asked: prometheus-client is not imported before."""
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
    from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

    registry = CollectorRegistry()
    registry.register(Collector(cast(Application, current_app).watch.counts))
    ProcessCollector(registry=registry)
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)
