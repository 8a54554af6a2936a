"""The example alerts and the Grafana dashboard: valid, and about metrics that a real producer has."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any, NamedTuple

import promql_parser
import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from promql_parser import AggModifierType, AggregateExpr, Expr, VectorSelector

from tests.operations.port import served
from tests.support import Database, wait_until
from tests.support.producers import make_app, running
from tests.support.shop import SCHEMA
from walex_celery import Event, Spool, WalEx
from walex_celery.testing.servers import Postgres, Valkey

DOCS = Path(__file__).parents[2] / "docs"
ALERTS: dict[str, Any] = yaml.safe_load((DOCS / "prometheus-alerts.yml").read_text())
RULES: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
DASHBOARD: dict[str, Any] = json.loads((DOCS / "grafana-dashboard.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

#: Given to each series by Prometheus.
TARGET = {"job", "instance"}


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> list[Metric]:
    """The metrics of a producer that has all there is: tasks, a handler at work, a spool, a limit."""
    entered, leave = threading.Event(), threading.Event()
    with Postgres(settings={"max_slot_wal_keep_size": "1GB"}) as server, Valkey() as valkey:
        database = Database(server, server.create_database())
        database.execute(SCHEMA)
        app = make_app(valkey.url(0))
        walex = WalEx(
            app,
            url=database.url,
            name="shop",
            publication="events",
            subscriptions=["items"],
            durable_slot=True,
            dead_letters=str(tmp_path_factory.mktemp("letters") / "letters.sqlite"),
            message_middleware=Spool(tmp_path_factory.mktemp("spool") / "spool"),
        )

        @walex.on_insert("items", functions=["shop.notify"])
        def inserted(events: list[Event]) -> None:
            if events[0].key == {"id": 2}:
                entered.set()
                leave.wait(60)

        @app.task(name="shop.notify", shared=False)
        def notify(event: Event) -> None: ...

        with running(walex) as producer, served(producer) as port:
            try:
                database.execute("INSERT INTO items VALUES (1)")
                wait_until(lambda: producer.statistics.publish.count > 0)
                database.execute("INSERT INTO items VALUES (2)")
                assert entered.wait(20)
                wait_until(lambda: {"walex_slot_safe_bytes", "walex_dead_letters"} <= port.samples().keys())
                text = port.get("/metrics").text
            finally:
                leave.set()
    return list(text_string_to_metric_families(text))


@pytest.fixture(scope="module")
def scraped(families: list[Metric]) -> dict[str, set[str]]:
    """The labels of each metric."""
    found: dict[str, set[str]] = {}
    for family in families:
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


class Query(NamedTuple):
    """A PromQL expression, and who asks it."""

    asker: str
    text: str

    @property
    def parsed(self) -> Expr:
        """Raises for what is no PromQL."""
        return promql_parser.parse(self.text.replace("$__rate_interval", "5m"))


def alert_queries() -> list[Query]:
    return [Query(rule["alert"], rule["expr"]) for rule in RULES]


def panel_queries() -> list[Query]:
    return [Query(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]


def nodes(expression: Expr) -> list[Expr]:
    """All parts of an expression."""
    found: list[Expr] = []
    promql_parser.walk(expression, found.append)
    return found


@pytest.mark.parametrize("query", alert_queries() + panel_queries(), ids=lambda query: query.asker)
def test_each_query_is_about_metrics_and_labels_that_exist(
    query: Query, scraped: dict[str, set[str]]
) -> None:
    parts = nodes(query.parsed)
    selectors = [part for part in parts if isinstance(part, VectorSelector)]
    assert selectors
    labels = set(TARGET)
    for selector in selectors:
        assert selector.name in scraped
        labels |= scraped[selector.name]
        assert {matcher.name for matcher in selector.matchers.matchers} <= labels
    for part in parts:
        if isinstance(part, AggregateExpr) and part.modifier is not None:
            assert part.modifier.type == AggModifierType.By
            assert set(part.modifier.labels) <= labels


def test_a_query_about_nothing_is_noticed(scraped: dict[str, set[str]]) -> None:
    for text in ("sum by (name) (walex_nothing)", "sum by (nobody) (walex_streaming)"):
        with pytest.raises(AssertionError):
            test_each_query_is_about_metrics_and_labels_that_exist(Query("wrong", text), scraped)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_alert_is_a_rule_that_prometheus_takes(rule: dict[str, Any]) -> None:
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"Walex[A-Z]\w+", rule["alert"])
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert promql_parser.parse_duration(rule.get("for", "1s")) is not None
    assert set(rule["annotations"]) == {"summary", "description"}
    # What an alert's text names is what its query leaves.
    outer = [part for part in nodes(promql_parser.parse(rule["expr"])) if isinstance(part, AggregateExpr)]
    left = set(outer[0].modifier.labels) - {"le"} if outer and outer[0].modifier else set()
    named = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    assert named <= left


def test_alerts_have_names_of_their_own() -> None:
    assert set(ALERTS) == {"groups"}
    assert all(group.keys() == {"name", "rules"} for group in ALERTS["groups"])
    names = [rule["alert"] for rule in RULES]
    assert len(names) > 10
    assert len(set(names)) == len(names)


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    assert DASHBOARD["schemaVersion"] >= 36
    assert re.fullmatch(r"[\w-]{1,40}", DASHBOARD["uid"])
    assert DASHBOARD["title"]
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert "label_values(walex_build_info, name)" in str(variables["name"]["query"])
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in PANELS:
        assert panel["type"] in ("timeseries", "stat")
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            used = set(re.findall(r"\$\{?(\w+)", json.dumps(target))) - {"__rate_interval"}
            assert used <= variables.keys()
            legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            grouped = [
                part
                for part in nodes(Query(panel["title"], target["expr"]).parsed)
                if isinstance(part, AggregateExpr)
            ]
            assert legend <= (set(grouped[0].modifier.labels) if grouped and grouped[0].modifier else TARGET)
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)


def test_no_two_panels_lie_over_each_other() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]


def documented_metrics() -> list[str]:
    """The rows of the page's table."""
    text = (DOCS / "operations" / "metrics.md").read_text()
    section = text[text.index("## Metrics") : text.index("## Alerts")]
    return [line for line in section.splitlines() if line.startswith("| `walex_")]


def test_the_documentation_lists_each_metric(scraped: dict[str, set[str]]) -> None:
    documented = {name for row in documented_metrics() for name in re.findall(r"`(walex_\w+)`", row)}
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in scraped if name.startswith("walex_")}
    assert documented == families


def test_the_documentation_lists_each_state(families: list[Metric]) -> None:
    """Alerts of others name these labels: they stay as they are."""
    [row] = [row for row in documented_metrics() if row.startswith("| `walex_state`")]
    documented = set(re.findall(r"`(\w+)`", row.rpartition("|")[0].rpartition("|")[2]))
    [family] = [family for family in families if family.name == "walex_state"]
    assert documented == {sample.labels["state"] for sample in family.samples}
