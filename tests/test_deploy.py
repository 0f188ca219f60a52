"""The files in deploy/ are valid, and name settings, routes and metrics that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from app.http.budget import Budget
from app.http.metrics import Metrics
from app.pool.worker_pool import WorkerPool
from app.ray import ENVIRONMENT
from app.settings import PREFIX, Settings

DEPLOY = Path(__file__).parent.parent / "deploy"
MANIFESTS = sorted(DEPLOY.glob("*.yaml"))


def documents(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text(encoding="utf-8")))


def nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a document."""
    if isinstance(tree, dict):
        yield tree
    for inner in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from nodes(inner)


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_manifests_fit_the_schemas_of_kubernetes(file: Path) -> None:
    for document in documents(file):
        if document["apiVersion"].startswith("ray.io/"):
            continue  # a custom resource, whose schema Kubernetes does not have
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_manifests_name_what_the_server_has(file: Path) -> None:
    settings = {PREFIX + name.upper() for name in Settings.model_fields} | ENVIRONMENT.keys()
    for node in nodes(documents(file)):
        for variable in node.get("env", ()):
            assert variable["name"] in settings
        if "httpGet" in node:
            assert node["httpGet"]["path"] in ("/livez", "/readyz")


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_containers_run_without_rights(file: Path) -> None:
    pods = [node for node in nodes(documents(file)) if "containers" in node]
    assert pods
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    settings = Settings()
    pool = WorkerPool(settings)
    text = Metrics(pool, Budget(1 << 20, 1.0)).text().decode()
    known = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    known |= {family.name for family in text_string_to_metric_families(text)}
    dashboard = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))
    asked = {name for panel in dashboard["panels"] for target in panel.get("targets", ())
             for name in re.findall(r"\bdalle_\w+", target["expr"])}  # fmt: skip
    assert len(asked) > 15
    base = {re.sub(r"_(bucket|total)$", "", name) for name in asked}
    assert {name for name in base if name not in known and f"{name}_total" not in known} <= {
        "dalle_heartbeat_age_seconds"  # while no worker runs there is none
    }
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in dashboard["panels"])
