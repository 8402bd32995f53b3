"""The Kubernetes overlay fits its schemas and the Collector's files; it is not run here."""

from __future__ import annotations

import re
from typing import Any, Final

import jsonschema  # type: ignore[import-untyped]  # as yaml
import pytest
import yaml  # type: ignore[import-untyped]  # stubs for one test would be a dependency more

from scripts import backends
from tests.config_files.files import COLLECTORS, CONFIG, collector, load, load_all, schema, variables

KUSTOMIZATION: Final[dict[str, Any]] = load(CONFIG / "kustomization.yaml")
OBJECTS: Final = [each for file in KUSTOMIZATION["resources"] for each in load_all(CONFIG / file)]
KINDS: Final = {each["kind"] for each in OBJECTS}
SCHEMA: Final = jsonschema.Draft202012Validator(schema("kubernetes"))
WORKLOADS: Final = {each["metadata"]["name"]: each for each in OBJECTS if each["kind"] in {"DaemonSet", "StatefulSet"}}

every_workload = pytest.mark.parametrize("name", WORKLOADS)
every_object = pytest.mark.parametrize("each", OBJECTS, ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")


def pod(name: str) -> dict[str, Any]:
    """Return the specification of a workload's pods."""
    spec: dict[str, Any] = WORKLOADS[name]["spec"]["template"]["spec"]
    return spec


def container(name: str) -> dict[str, Any]:
    """Return its only container."""
    (only,) = pod(name)["containers"]
    found: dict[str, Any] = only
    return found


def files(name: str) -> list[str]:
    """Return the Collector's files that it is started with."""
    return [argument.rpartition("/")[2] for argument in container(name)["args"]]


def environ(name: str) -> dict[str, str]:
    """Return its variables; those that Kubernetes fills in are empty."""
    return {each["name"]: each.get("value", "") for each in container(name)["env"]}


def mebibytes(quantity: str) -> float:
    """Return a quantity of memory or disk."""
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi|MiB)", quantity).groups()  # type: ignore[union-attr]
    return float(number) * {"Mi": 1, "MiB": 1, "Gi": 1024}[unit]


def definition(each: dict[str, Any]) -> str:
    """Return the name of an object's schema."""
    group, _, version = each["apiVersion"].rpartition("/")
    return f"io.k8s.api.{(group or 'core').partition('.')[0]}.{version}.{each['kind']}"


def check(each: dict[str, Any]) -> None:
    """Raise when an object is not what its kind's schema says."""
    SCHEMA.evolve(schema={"$ref": f"#/$defs/{definition(each)}", "$defs": SCHEMA.schema["$defs"]}).validate(each)


@every_object
def test_it_fits_the_schema_of_its_kind(each: dict[str, Any]) -> None:
    """Strictly: fields that Kubernetes does not know are refused."""
    check(each)


def test_a_misspelt_field_is_found() -> None:
    """The schema is strict indeed, deep inside too."""
    broken = yaml.safe_load(yaml.safe_dump(WORKLOADS["otel-agent"]))
    broken["spec"]["template"]["spec"]["containers"][0]["redinessProbe"] = {}
    with pytest.raises(jsonschema.ValidationError, match="redinessProbe"):
        check(broken)


def test_the_kustomization_is_complete() -> None:
    """Every manifest is listed once; the ConfigMaps are made of the validated files themselves."""
    assert ("kustomize.config.k8s.io/v1beta1", "Kustomization") == (KUSTOMIZATION["apiVersion"], KUSTOMIZATION["kind"])
    listed = KUSTOMIZATION["resources"]
    assert sorted(str(path.relative_to(CONFIG)) for path in (CONFIG / "kubernetes").iterdir()) == sorted(listed)
    made = {each["name"]: tuple(each["files"]) for each in KUSTOMIZATION["configMapGenerator"]}
    assert {"otel-agent": COLLECTORS["agent with TLS"], "otel-gateway": COLLECTORS["gateway with TLS"]} == made
    assert {name: tuple(files(name)) for name in WORKLOADS} == made
    (namespace,) = (each["metadata"]["name"] for each in OBJECTS if each["kind"] == "Namespace")
    assert namespace == KUSTOMIZATION["namespace"]


def test_images_are_of_the_tested_version() -> None:
    """One place says which."""
    ((image, tag),) = [(each["name"], each["newTag"]) for each in KUSTOMIZATION["images"]]
    assert backends.COLLECTOR.version == tag
    assert {image} == {container(name)["image"] for name in WORKLOADS}
    assert image == load(CONFIG / "docker-compose.yaml")["services"]["collector"]["image"].rpartition(":")[0]


@every_workload
def test_the_container_may_do_nothing_else(name: str) -> None:
    """Not root, nothing to gain, nothing to write but its volumes, no token of the API server."""
    assert pod(name)["securityContext"]["runAsNonRoot"] is True
    assert pod(name)["securityContext"]["runAsUser"] > 0
    assert pod(name)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod(name)["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod(name))


@every_workload
def test_go_and_the_limiter_agree_on_the_memory(name: str) -> None:
    """Both take 80 % of the container's limit."""
    limit = mebibytes(container(name)["resources"]["limits"]["memory"])
    role = name.removeprefix("otel-")
    assert 80 == collector(role)["processors"]["memory_limiter"]["limit_percentage"]
    assert int(limit * 0.8) == mebibytes(environ(name)["GOMEMLIMIT"])


@every_workload
def test_the_variables_exist(name: str) -> None:
    """A misspelt one would be read by nobody."""
    known = {variable for file in files(name) for variable in variables(CONFIG / file)}
    assert set() == set(environ(name)) - known - {"GOMEMLIMIT"}


@every_workload
def test_ports_and_probes_are_those_it_listens_on(name: str) -> None:
    """Named ports, with the numbers of the variables."""
    ports = {port["name"]: port["containerPort"] for port in container(name)["ports"]}
    told = environ(name)
    role = collector(name.removeprefix("otel-"))
    own = role["service"]["telemetry"]["metrics"]["readers"][0]["pull"]["exporter"]["prometheus"]["port"]
    listening = {int(value.rpartition(":")[2]) for key, value in told.items() if key.endswith("_LISTEN")} | {own}
    assert listening == set(ports.values())
    assert "health" in ports
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert "health" == container(name)[probe]["httpGet"]["port"]
    for each in OBJECTS:
        if each["kind"] == "Service" and each["metadata"]["name"] == name:
            assert {port["targetPort"] for port in each["spec"]["ports"]} <= set(ports)
        if each["kind"] == "NetworkPolicy" and each["metadata"]["name"] == name:
            assert {port["port"] for rule in each["spec"]["ingress"] for port in rule["ports"]} <= set(ports)


@every_workload
def test_it_mounts_what_it_writes_and_reads(name: str) -> None:
    """Configuration, certificates, and a writable place for the queue."""
    mounted = {each["mountPath"]: each["name"] for each in container(name)["volumeMounts"]}
    volumes = {each["name"]: each for each in pod(name)["volumes"]}
    volumes |= {each["metadata"]["name"]: each for each in WORKLOADS[name]["spec"].get("volumeClaimTemplates", [])}
    assert set(mounted.values()) == set(volumes)
    assert {"secretName": f"{name}-tls"} == volumes["tls"]["secret"]
    assert {"name": name} == volumes["config"]["configMap"]
    assert all(argument.startswith("--config=/etc/otelcol/config/") for argument in container(name)["args"])
    for variable in {"QUEUE_DIRECTORY", "LOG_FILE"} & set(environ(name)):
        assert [path for path in mounted if environ(name)[variable].startswith(path)]


def test_the_agent_names_every_gateway() -> None:
    """By the names that a StatefulSet and its headless Service give."""
    gateway = WORKLOADS["otel-gateway"]
    service = gateway["spec"]["serviceName"]
    namespace = KUSTOMIZATION["namespace"]
    expected = [f"otel-gateway-{each}.{service}.{namespace}.svc:4317" for each in range(gateway["spec"]["replicas"])]
    assert expected == yaml.safe_load(environ("otel-agent")["GATEWAY_ENDPOINTS"])
    (headless,) = (each for each in OBJECTS if each["kind"] == "Service" and each["metadata"]["name"] == service)
    assert "None" == headless["spec"]["clusterIP"]


def test_each_gateway_has_a_name_of_its_own() -> None:
    """Else the counts of two would be one series."""
    (field,) = (each for each in container("otel-gateway")["env"] if each["name"] == "GATEWAY_NAME")
    assert {"fieldRef": {"fieldPath": "metadata.name"}} == field["valueFrom"]


def test_queues_fit_their_volumes() -> None:
    """Three signals of the agent, the traces of the gateway, and the copy that compaction makes of one."""
    agent = collector("agent")["exporters"]["loadbalancing/trace_id"]["sending_queue"]["queue_size"] / 2**20
    (queue,) = (each["emptyDir"] for each in pod("otel-agent")["volumes"] if each["name"] == "queue")
    assert 4 * agent <= mebibytes(queue["sizeLimit"])
    exporters = collector("gateway")["exporters"]
    logs = exporters["file/logs"]["rotation"]
    needed = 2 * exporters["otlp_grpc/traces"]["sending_queue"]["queue_size"] / 2**20
    needed += logs["max_megabytes"] * (logs["max_backups"] + 1)
    (claim,) = WORKLOADS["otel-gateway"]["spec"]["volumeClaimTemplates"]
    assert needed <= mebibytes(claim["spec"]["resources"]["requests"]["storage"])


def test_what_is_plain_stays_on_its_node_or_is_fenced_in() -> None:
    """The agent's Service does not leave the node, and each workload has a policy."""
    (service,) = (each for each in OBJECTS if each["kind"] == "Service" and each["metadata"]["name"] == "otel-agent")
    assert "Local" == service["spec"]["internalTrafficPolicy"]
    assert set(WORKLOADS) == {each["metadata"]["name"] for each in OBJECTS if each["kind"] == "NetworkPolicy"}
