"""The figures of a session for OpenTelemetry, through its SDK: the extra `crun-batch[otel]`.

Where they go the SDK's own variables say (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS,
OTEL_METRIC_EXPORT_INTERVAL, OTEL_RESOURCE_ATTRIBUTES). Its reader asks for the figures in a thread of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from crun_batch.errors import InputError
from crun_batch.session.metrics import BUCKETS_SECONDS, FAMILIES, LATENCY, Family, SessionMetrics
from crun_batch.session.prometheus import FiguresFromLoop

MISSING = "metrics for OpenTelemetry need its SDK: pip install 'crun-batch[otel]'"


def need_extra() -> None:
    """Raises InputError where the extra is not installed."""
    try:
        import opentelemetry.exporter.otlp.proto.http.metric_exporter
        import opentelemetry.sdk.metrics  # noqa: F401 - whether it is there
    except ImportError:
        raise InputError(MISSING) from None


@asynccontextmanager
async def exported(
    metrics: SessionMetrics, reader: Any = None, *, instance: str | None = None
) -> AsyncIterator[None]:
    """Export the figures while what is inside goes on, and those of its end.

    `reader`: a metric reader of the SDK; None: one that exports by OTLP over HTTP every minute. `instance`: whose
    figures these are, of several workers of one job.
    """
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource

    attributes = {"service.name": "crun-batch", **({"service.instance.id": instance} if instance else {})}
    provider = MeterProvider(
        metric_readers=[reader or PeriodicExportingMetricReader(OTLPMetricExporter())],
        resource=Resource.create(attributes),
        shutdown_on_exit=False,
    )
    meter, figures = provider.get_meter("crun_batch"), FiguresFromLoop(metrics)
    for family in FAMILIES:
        make = meter.create_observable_counter if family.kind == "counter" else meter.create_observable_gauge
        make(family.name, callbacks=[_callback(family, figures)], description=family.help)
    histogram = meter.create_histogram(
        LATENCY.name, unit="s", description=LATENCY.help, explicit_bucket_boundaries_advisory=BUCKETS_SECONDS
    )
    metrics.observers.append(histogram.record)
    try:
        yield
    finally:
        metrics.observers.remove(histogram.record)
        await asyncio.to_thread(provider.shutdown)  # its last look asks the loop


def _callback(family: Family, figures: FiguresFromLoop) -> Callable[[Any], list[Any]]:
    from opentelemetry.metrics import Observation

    def observe(_: Any) -> list[Any]:
        return [Observation(float(value), labels) for labels, value in figures.read().samples.get(family.name, [])]

    return observe
