"""Prometheus metrics of one server, in a registry of its own."""

from collections.abc import Callable
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_COUNTS: Final = (1, 2, 4, 8, 16, 32, 64)
_METHODS: Final = ("GET", "POST", "DELETE", "HEAD", "OPTIONS")  # others are counted as one: clients may invent any


class Metrics:
    """Counters and histograms of requests and computations.

    Args:
        queue_length: returns the number of requests that wait or are computed.
        store_images: returns the number of images in the store.
        store_bytes: returns their bytes.
        body_bytes: returns the bytes of all request bodies that are held.
    """

    def __init__(
        self,
        queue_length: Callable[[], float],
        store_images: Callable[[], float],
        store_bytes: Callable[[], float],
        body_bytes: Callable[[], float],
    ) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "sspsam_requests", "Requests by route and status.", ["route", "method", "status"], registry=registry
        )
        self._latency = Histogram(
            "sspsam_request_seconds",
            "Seconds from the headers of a request to the end of its response.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._computation = Histogram(
            "sspsam_batch_seconds", "Seconds of the model for one batch.", buckets=_SECONDS, registry=registry
        )
        self._batch_requests = Histogram(
            "sspsam_batch_requests", "Requests answered together.", buckets=_COUNTS, registry=registry
        )
        self._expressions = Counter("sspsam_expressions", "Expressions answered.", registry=registry)
        for name, text, value in (
            ("sspsam_queue_length", "Requests that wait for the model or are computed.", queue_length),
            ("sspsam_store_images", "Images that can be asked about by id.", store_images),
            ("sspsam_store_bytes", "Bytes of these images.", store_bytes),
            ("sspsam_body_bytes", "Bytes of the request bodies that are held.", body_bytes),
        ):
            Gauge(name, text, registry=registry).set_function(value)

    def observe_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Note a request; `route` is a template, never the path of a client."""
        method = method if method in _METHODS else "other"
        self._requests.labels(route, method, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def observe_batch(self, jobs: int, expressions: int, seconds: float) -> None:
        """Note a batch of the model; see `Observer`."""
        self._batch_requests.observe(jobs)
        self._expressions.inc(expressions)
        self._computation.observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
