"""The Kubernetes manifests: rendered by kustomize, validated against Kubernetes' own schemas, confined."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from models.database import Database
from models.settings import Settings
from models.tables import Base
from tests.deploy.settings import unknown
from tests.models.databases import fresh_database
from tests.worker.jobs import create

Manifest = dict[str, Any]
VERSIONS = ("1.32", "1.33", "1.34")  # preStop.sleep without a feature gate is there from 1.32 on
WORKERS = ("worker-cpu", "worker-gpu")


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_field(manifests: list[Manifest], version: str) -> None:
    validator = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed: make check-deploy"
    )
    ours = [manifest for manifest in manifests if not manifest["apiVersion"].startswith("keda.sh/")]
    assert len(ours) >= 15
    for manifest in ours:
        validator.validate(manifest, version, strict=True)


def test_every_pod_is_confined(manifests: list[Manifest]) -> None:
    names = set()
    for name, pod in _pods(manifests):
        names.add(name)
        assert pod["automountServiceAccountToken"] is False, name
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] == context["fsGroup"] == 10001, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        [container] = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert {"/var/lib/axforge", "/tmp"} <= {mount["mountPath"] for mount in container["volumeMounts"]}
        assert "memory" in container["resources"]["limits"], name
        assert all("emptyDir" in volume for volume in pod["volumes"]), name
    assert len(names) == 9


def test_names_lead_somewhere(manifests: list[Manifest]) -> None:
    [settings] = [manifest for manifest in manifests if manifest["kind"] == "ConfigMap"]
    assert unknown(settings["data"]) == set()
    for name, pod in _pods(manifests):
        [container] = pod["containers"]
        sources = [source for source in container["envFrom"] if "configMapRef" in source]
        assert sources == [{"configMapRef": {"name": settings["metadata"]["name"]}}], name
        assert unknown(each["name"] for each in container.get("env", ())) == set(), name
        assert container["image"].startswith("registry.example.com/"), name
        command = container.get("command")
        if command is not None:
            assert command[:4] == ["/usr/bin/tini", "--", "python", "-m"], name
            assert find_spec(command[4]) is not None, command[4]


def test_policies_and_budgets_choose_the_pods(manifests: list[Manifest]) -> None:
    labels = {
        manifest["metadata"]["name"]: template["metadata"]["labels"]
        for manifest, template in _templates(manifests)
    }
    policies = [manifest for manifest in manifests if manifest["kind"] == "NetworkPolicy"]
    by_name = {
        policy["metadata"]["name"]: policy["spec"]["podSelector"]["matchLabels"] for policy in policies
    }
    for name, given in labels.items():
        assert by_name["axforge-default"].items() <= given.items(), name
        assert (by_name["axforge-api"].items() <= given.items()) == (name == "axforge-api")
    [budget] = [manifest for manifest in manifests if manifest["kind"] == "PodDisruptionBudget"]
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels["axforge-api"].items()


def test_metadata_services_and_private_networks_are_out_of_reach(manifests: list[Manifest]) -> None:
    [policy] = [
        m for m in manifests if m["metadata"]["name"] == "axforge-default" and m["kind"] == "NetworkPolicy"
    ]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policy["spec"]
    [anywhere] = [
        peer["ipBlock"]
        for rule in policy["spec"]["egress"]
        for peer in rule["to"]
        if peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0"
    ]
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(anywhere["except"])


def test_workers_have_time_and_no_probe_that_kills(manifests: list[Manifest]) -> None:
    grace = Settings.model_fields["stop_grace_seconds"].default
    for name, pod in _pods(manifests):
        if "worker" in name:
            assert pod["terminationGracePeriodSeconds"] > grace, name
            assert "livenessProbe" not in pod["containers"][0], name


@pytest.mark.parametrize("worker", WORKERS)
def test_extra_workers_are_like_those_that_wait(manifests: list[Manifest], worker: str) -> None:
    """But for how they begin and end."""
    pods = dict(_pods(manifests))
    waiting, extra = pods[f"axforge-{worker}"], pods[f"axforge-{worker}-extra"]
    assert extra.pop("restartPolicy") == "Never"
    waiting.pop("restartPolicy", None)
    assert extra["containers"][0].pop("command")[-1] == "worker.drain"
    for probe in ("startupProbe", "readinessProbe"):
        waiting["containers"][0].pop(probe)
    assert extra == waiting


def test_extra_workers_end_by_themselves(manifests: list[Manifest]) -> None:
    scaled = [manifest for manifest in manifests if manifest["kind"] == "ScaledJob"]
    assert len(scaled) == len(WORKERS)
    [authentication] = [m for m in manifests if m["kind"] == "TriggerAuthentication"]
    for manifest in scaled:
        spec = manifest["spec"]
        assert spec["rollout"] == {"strategy": "gradual"}
        assert spec["scalingStrategy"] == {"strategy": "accurate"}
        assert spec["jobTargetRef"]["backoffLimit"] == 0
        [trigger] = spec["triggers"]
        assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]


def test_the_scalers_query_counts_what_can_be_claimed(manifests: list[Manifest], tmp_path: Path) -> None:
    queries = [m["spec"]["triggers"][0]["metadata"]["query"] for m in manifests if m["kind"] == "ScaledJob"]
    with fresh_database("postgresql", tmp_path) as url:
        database = Database(url)
        Base.metadata.create_all(database.engine)
        jobs = [create(database) for _ in range(5)]
        with database.transaction() as session:
            for change, job in (
                ("status = 'running'", jobs[0]),
                ("available_at = now() + '1 hour'", jobs[1]),
                ("device = 'cuda'", jobs[2]),
            ):
                session.execute(text(f"UPDATE job SET {change} WHERE id = :job"), {"job": job})
        with database.session() as session:
            counts = {query: session.execute(text(query)).scalar_one() for query in queries}
        assert sorted(counts.values()) == [1, 2], "the scaler of a device counts the jobs that it may take"
        assert all(("'cuda'" in query) == (count == 1) for query, count in counts.items())
        database.close()


def _templates(manifests: list[Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    for manifest in manifests:
        spec = manifest.get("spec", {})
        template = spec.get("template") or spec.get("jobTargetRef", {}).get("template")
        if template is not None:
            yield manifest, template


def _pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    for manifest, template in _templates(manifests):
        yield (
            manifest["metadata"]["name"],
            {**template["spec"], "containers": [*map(dict, template["spec"]["containers"])]},
        )
