"""The Kubernetes example: valid for the API, and true of the image, the commands and the settings that there are.

All that one can tell without a cluster; the producers' containers are run as they stand, on this machine.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from kombu import Connection

from tests.operations.port import Port
from tests.support import Database, wait_until
from walex_celery.settings.model import WalExSettings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "kubernetes"
PROJECT = ROOT / "example_project"

DOCUMENTS: list[dict[str, Any]] = [
    document for path in sorted(FOLDER.glob("*.yaml")) for document in yaml.safe_load_all(path.read_text())
]
#: Kinds that are others' own; kubernetes' schemas don't have them.
CUSTOM = {"ScaledObject", "TriggerAuthentication", "PodMonitor", "Kustomization"}
DEPLOYMENTS = [document for document in DOCUMENTS if document["kind"] == "Deployment"]


def named(document: dict[str, Any]) -> str:
    return f"{document['kind']}/{document.get('metadata', {}).get('name', '')}"


def of(kind: str, name: str) -> dict[str, Any]:
    """The document, of which there may be two equal ones."""
    return next(document for document in DOCUMENTS if named(document) == f"{kind}/{name}")


def container(deployment: dict[str, Any]) -> dict[str, Any]:
    [found] = deployment["spec"]["template"]["spec"]["containers"]
    return dict(found)


PRODUCER = of("Deployment", "shop-producer")
POD = PRODUCER["spec"]["template"]


@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
@pytest.mark.parametrize(
    "document", [document for document in DOCUMENTS if document["kind"] not in CUSTOM], ids=named
)
def test_the_api_takes_it(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=named)
def test_each_deployment_selects_its_own_pods_and_no_others(deployment: dict[str, Any]) -> None:
    selector = deployment["spec"]["selector"]["matchLabels"]
    selected = [
        named(other)
        for other in DEPLOYMENTS
        if selector.items() <= other["spec"]["template"]["metadata"]["labels"].items()
    ]
    assert selected == [named(deployment)]


def test_what_goes_by_labels_finds_the_producer() -> None:
    labels = POD["metadata"]["labels"].items()
    spread = POD["spec"]["topologySpreadConstraints"][0]["labelSelector"]
    for selector in (
        of("PodDisruptionBudget", "shop-producer")["spec"]["selector"],
        of("PodMonitor", "shop-producer")["spec"]["selector"],
        spread,
    ):
        assert selector["matchLabels"]
        assert selector["matchLabels"].items() <= labels
    flower = of("Service", "shop-flower")["spec"]["selector"]
    assert flower.items() <= of("Deployment", "shop-flower")["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=named)
def test_each_command_and_its_options_exist(deployment: dict[str, Any]) -> None:
    program, *words = container(deployment)["command"]
    options = [option.partition("=")[0] for option in container(deployment)["args"]]
    told = subprocess.run(
        [sys.executable, "-m", program, *words, "--help"],
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    if "flower" in words:
        # Its own options are not in its help.
        assert options == ["--port"]
    else:
        assert all(option in told for option in options)


def test_each_variable_is_read_by_somebody() -> None:
    sources = "".join(path.read_text() for path in PROJECT.rglob("*.py"))
    settings = {f"WALEX_{setting.upper()}" for setting in WalExSettings.model_fields}
    variables = {*of("ConfigMap", "shop")["data"], *of("Secret", "shop")["stringData"]}
    assert variables
    assert {name for name in variables if name.startswith("WALEX_")} <= settings
    assert all(f'"{name}"' in sources for name in variables - settings)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=named)
def test_what_containers_refer_to_is_there(deployment: dict[str, Any]) -> None:
    for source in container(deployment)["envFrom"]:
        [(kind, reference)] = source.items()
        assert of({"configMapRef": "ConfigMap", "secretRef": "Secret"}[kind], reference["name"])
    ports = {port["name"] for port in container(deployment).get("ports", [])}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        if "httpGet" in container(deployment).get(probe, {}):
            assert container(deployment)[probe]["httpGet"]["port"] in ports
    volumes = {volume["name"] for volume in deployment["spec"]["template"]["spec"].get("volumes", [])}
    assert {mount["name"] for mount in container(deployment).get("volumeMounts", [])} == volumes


def test_secrets_are_in_secrets() -> None:
    for document in DOCUMENTS:
        if document["kind"] != "Secret":
            assert not re.search(r"change-me|://[^/\s]*:[^/\s]*@", yaml.safe_dump(document)), named(document)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=named)
def test_containers_may_do_as_little_as_they_need(deployment: dict[str, Any]) -> None:
    pod = deployment["spec"]["template"]["spec"]
    [uid] = re.findall(r"--uid (\d+)", (ROOT / "Dockerfile").read_text())
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == int(uid)
    assert pod["automountServiceAccountToken"] is False
    assert container(deployment)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container(deployment)["resources"]["requests"]


def test_two_producers_of_which_one_may_be_gone() -> None:
    assert PRODUCER["spec"]["replicas"] == 2
    assert of("PodDisruptionBudget", "shop-producer")["spec"]["minAvailable"] == 1
    assert "--standby" in container(PRODUCER)["args"]
    assert (
        POD["spec"]["terminationGracePeriodSeconds"] > WalExSettings.model_fields["publish_timeout"].default
    )


def test_the_port_is_the_same_wherever_it_stands() -> None:
    [port] = [
        arg.partition("=")[2] for arg in container(PRODUCER)["args"] if arg.startswith("--metrics-port=")
    ]
    [declared] = container(PRODUCER)["ports"]
    [endpoint] = of("PodMonitor", "shop-producer")["spec"]["podMetricsEndpoints"]
    annotations = POD["metadata"]["annotations"]
    assert declared == {"name": endpoint["port"], "containerPort": int(port)}
    assert (annotations["prometheus.io/port"], annotations["prometheus.io/path"]) == (port, endpoint["path"])
    assert f"--metrics-port={port}" in str(yaml.safe_load((ROOT / "docker-compose.yml").read_text()))


@pytest.mark.parametrize("broker", ["rabbitmq", "redis"])
def test_the_autoscaler_watches_the_workers_queue(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from shop.celery import app

    documents = {
        document["kind"]: document
        for document in yaml.safe_load_all((FOLDER / f"autoscaler-{broker}.yaml").read_text())
    }
    scaled = documents["ScaledObject"]["spec"]
    assert scaled["scaleTargetRef"]["name"] == "shop-worker"
    assert "replicas" not in of("Deployment", "shop-worker")["spec"], "two would set it"
    assert 1 <= scaled["minReplicaCount"] < scaled["maxReplicaCount"]
    [trigger] = scaled["triggers"]
    assert trigger["type"] == broker
    assert (
        trigger["metadata"].get("queueName", trigger["metadata"].get("listName"))
        == app.conf.task_default_queue
    )
    assert all(isinstance(value, str) for value in trigger["metadata"].values()), "KEDA takes text only"
    authentication = documents["TriggerAuthentication"]
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    for reference in authentication["spec"]["secretTargetRef"]:
        assert reference["key"] in of("Secret", reference["name"])["stringData"]


def test_the_broker_s_url_means_the_same_to_celery_as_to_keda() -> None:
    with Connection(of("Secret", "shop")["stringData"]["BROKER_URL"]) as connection:
        assert connection.virtual_host == "/"


def test_the_kustomization_and_the_readme_name_every_file() -> None:
    kustomization = of("Kustomization", "")
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert {*kustomization["resources"], "autoscaler-redis.yaml"} == files
    [image] = kustomization["images"]
    assert {container(deployment)["image"] for deployment in DEPLOYMENTS} == {
        f"{image['name']}:{image['newTag']}"
    }
    readme = (FOLDER / "README.md").read_text()
    assert all(f"]({name})" in readme for name in files)


# The producers' containers, run here.


@contextmanager
def running_as_deployed(
    environment: dict[str, str], log: Path
) -> Iterator[tuple[subprocess.Popen[bytes], Port]]:
    """The producer's container: its command, arguments and environment, on a port of its own."""
    program, *words = container(PRODUCER)["command"]
    arguments = [
        "--metrics-port=0" if "--metrics-port" in arg else arg for arg in container(PRODUCER)["args"]
    ]
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", program, *words, *arguments],
            cwd=PROJECT,
            env=os.environ | environment | {"PYTHONPATH": paths},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        serving = re.compile(r"serving /metrics.* on port (\d+) of ")
        found = wait_until(lambda: serving.search(log.read_text()) or process.poll() is not None, 60)
        assert isinstance(found, re.Match), log.read_text()
        yield process, Port(("127.0.0.1", int(found[1])))
    finally:
        process.kill()
        process.wait()


def probe(port: Port, name: str) -> int:
    """What the kubelet gets for one of the container's probes; 0 while nobody listens."""
    try:
        return port.get(container(PRODUCER)[name]["httpGet"]["path"]).status
    except OSError:
        return 0


def test_the_deployment_on_this_machine(database: Database, redis_url: str, tmp_path: Path) -> None:
    """Both pods become ready; one streams; when it is killed, the other does; SIGTERM ends it with 0 in time."""
    database.execute((PROJECT / "schema.sql").read_text())
    server = database.server
    values = {
        "WALEX_HOSTNAME": "127.0.0.1",
        "WALEX_DATABASE": database.name,
        "WALEX_USERNAME": server.username,
        "WALEX_SSLMODE": "prefer",
        "WALEX_PASSWORD": server.password,
        "BROKER_URL": redis_url,
        "SHOP_CACHE_URL": redis_url,
        "SHOP_DATABASE_URL": database.url,
    }
    assert values.keys() == {*of("ConfigMap", "shop")["data"], *of("Secret", "shop")["stringData"]}
    # What a pod has for itself: Postgres' usual port, and a cluster without other tests' slots.
    own = {"WALEX_PORT": str(server.port), "WALEX_SLOT_NAME": database.name}
    with ExitStack() as stack:
        pods = [
            stack.enter_context(running_as_deployed(values | own, tmp_path / f"{number}.log"))
            for number in itertools.islice(itertools.count(), PRODUCER["spec"]["replicas"])
        ]
        wait_until(lambda: all(probe(port, "readinessProbe") == 200 for _, port in pods), 60)
        assert all(probe(port, "livenessProbe") == 200 for _, port in pods)

        def streaming() -> list[int]:
            return [number for number, (_, port) in enumerate(pods) if port.samples()["walex_streaming"]]

        [active] = streaming()
        database.execute("INSERT INTO users (name, email) VALUES ('Ada', 'ada@example.com')")
        inserted = "walex_events_total{table=users,type=insert}"
        wait_until(lambda: pods[active][1].samples().get(inserted) == 1, 20)
        pods[active][0].kill()
        pods[active][0].wait()
        other, port = pods[1 - active]
        wait_until(lambda: port.samples()["walex_streaming"] == 1, 30)
        assert probe(port, "readinessProbe") == 200
        other.terminate()
        assert other.wait(POD["spec"]["terminationGracePeriodSeconds"]) == 0
