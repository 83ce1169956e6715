"""The dashboard. References: the names that Ray exports (tests/ray/test_metrics.py has them from its endpoint), and Grafana's own form."""

import json
import re
from itertools import combinations
from typing import Any

import jsonschema
import pytest

from mvgan.distributed import metrics
from tests.unit.cluster.files import CLUSTER


DASHBOARD: dict[str, Any] = json.loads((CLUSTER / "grafana.json").read_text())
PANELS = DASHBOARD["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]

SOURCE = {"type": "object", "required": ["type", "uid"], "properties": {"type": {"const": "prometheus"}, "uid": {"const": "${datasource}"}}}
NUMBER = {"type": "integer", "minimum": 0}
SCHEMA = {
    "type": "object",
    "required": ["title", "uid", "schemaVersion", "panels", "templating", "time"],
    "properties": {
        "uid": {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,40}$"},
        "schemaVersion": {"type": "integer", "minimum": 36},
        "time": {"type": "object", "required": ["from", "to"]},
        "panels": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["id", "type", "title", "gridPos", "datasource", "targets", "fieldConfig", "options"],
                "properties": {
                    "id": {"type": "integer", "minimum": 1},
                    "type": {"enum": ["timeseries", "stat"]},
                    "gridPos": {"type": "object", "required": ["x", "y", "w", "h"], "additionalProperties": NUMBER},
                    "datasource": SOURCE,
                    "fieldConfig": {"type": "object", "required": ["defaults", "overrides"]},
                    "targets": {
                        "type": "array",
                        "minItems": 1,
                        "items": {"type": "object", "required": ["refId", "expr", "legendFormat"], "properties": {"datasource": SOURCE}},
                    },
                },
            },
        },
    },
}
"""What of a dashboard's JSON model Grafana's documentation says of the parts that are used here."""


def test_it_has_the_form_of_a_dashboard() -> None:
    jsonschema.validate(DASHBOARD, SCHEMA)


def test_panels_have_places_of_their_own() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    places = [
        {(x, y) for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])} for g in (p["gridPos"] for p in PANELS)
    ]
    assert all(not one & other for one, other in combinations(places, 2)), "two overlap"
    assert all(x < 24 for place in places for x, _ in place), "Grafana has 24 columns"


def test_each_metric_is_shown_and_each_shown_is_exported() -> None:
    shown = {name for query in QUERIES for name in re.findall(r"\bray_\w+", query)}
    assert shown == {metrics.PREFIX + name for name in metrics.MEANINGS}


def test_labels_and_variables_are_known() -> None:
    """Each label that is selected or shown is a tag of that metric, and each variable is defined."""
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    tags = set(metrics.TAGS)
    for panel in PANELS:
        for target in panel["targets"]:
            known = tags | {"loss"} if metrics.PREFIX + metrics.LOSS in target["expr"] else tags
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= known
            assert set(re.findall(r"(\w+)=~", target["expr"])) == tags
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= variables
    for variable in DASHBOARD["templating"]["list"][1:]:
        assert variable["query"]["query"] == f"label_values({metrics.PREFIX}{metrics.IMAGES}, {variable['name']})"


@pytest.mark.parametrize("query", QUERIES)
def test_counters_are_shown_as_they_are(query: str) -> None:
    """`increase` and `rate` would overlook the first event: the series begins with it."""
    assert not re.search(r"\b(increase|rate|irate|delta)\(", query)
    for opened, closed in ("()", "{}", "[]"):
        assert query.count(opened) == query.count(closed)
