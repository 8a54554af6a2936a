"""A shop to watch, and what its metrics port answers."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from walex_celery.operations.monitor.http_server import monitoring
from walex_celery.pipeline.producer import Producer


class Answer(NamedTuple):
    """What a port answered."""

    status: int
    text: str
    content_type: str


class Port:
    """The metrics port of producers in this process, or in another."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address

    def get(self, path: str, **headers: str) -> Answer:
        """The answer to a GET, whatever its status."""
        host, port = self.address
        request = urllib.request.Request(f"http://{host}:{port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return Answer(response.status, response.read().decode(), response.headers["Content-Type"])
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read().decode(), error.headers["Content-Type"])

    def samples(self) -> dict[str, float]:
        """All samples, by name and labels but for ``name``: ``walex_events_total{table=items,type=insert}``."""
        found = {}
        for family in text_string_to_metric_families(self.get("/metrics").text):
            for sample in family.samples:
                labels = ",".join(
                    f"{key}={value}" for key, value in sorted(sample.labels.items()) if key != "name"
                )
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return found


@contextmanager
def served(*producers: Producer) -> Iterator[Port]:
    """The metrics port of *producers*."""
    with monitoring(producers, host="127.0.0.1", port=0) as address:
        yield Port(address)
