"""What lies in deploy/: sound by its schemas, and in agreement with itself and with the program."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from veridical.middleware.checking import faults
from veridical.middleware.config import load_settings
from veridical.server import check_exposure, create_app
from veridical.strategies.budget import Limits
from veridical.tests.dockerfile import steps
from veridical.tests.servers import balancing

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SETTINGS = load_settings(DEPLOY / "veridical.toml", environment={})
#: What stopping may take: two phases of ours, and the last usage written.
STOPPING_S = SETTINGS.server.drain_s + SETTINGS.server.shutdown_s + 10
UNIT = (DEPLOY / "veridical.service").read_text()
BALANCER = (DEPLOY / "nginx.conf").read_text()


def program(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join([*os.get_exec_path(), "/usr/sbin"]))
    if found is None:
        pytest.skip(f"SKIPPED FOR WANT OF A PROGRAM: {name} is not installed")
    return found


def manifest(kind: str) -> Any:
    (found,) = [each for each in map(read, MANIFESTS) if each["kind"] == kind]
    return found


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.stem)
@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_a_manifest_fits_the_schema_of_kubernetes(file, version):
    kubernetes_validate.validate(read(file), version, strict=True)


def test_a_manifest_that_does_not_fit_is_seen():
    wrong = manifest("Deployment")
    wrong["spec"]["template"]["spec"]["containers"][0]["readinessprobe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.30", strict=True)


def test_the_compose_file_fits_its_schema(tmp_path):
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    assert subprocess.run([*check, DEPLOY / "compose.yaml"], check=False).returncode == 0
    (tmp_path / "compose.yaml").write_text((DEPLOY / "compose.yaml").read_text().replace("ports:", "port:"))
    assert subprocess.run([*check, tmp_path / "compose.yaml"], check=False).returncode == 1


def test_every_manifest_is_part_of_what_kubectl_applies():
    listed = read(DEPLOY / "kustomization.yaml")["resources"]
    assert sorted(listed) == [str(file.relative_to(DEPLOY)) for file in MANIFESTS]


def test_the_configuration_is_sound_with_its_secrets_in_files(tmp_path, monkeypatch):
    secrets = {"STATE_URL": "postgresql://u:p@h/d", "LIMITS_URL": "redis://:p@h:6379/0"}
    for name, value in secrets.items():
        (tmp_path / name).write_text(value + "\n")
        monkeypatch.setenv(f"{name}_FILE", str(tmp_path / name))
    check_exposure(SETTINGS)
    assert faults(SETTINGS) == []
    create_app(SETTINGS)


def test_the_secrets_that_the_configuration_names_are_handed_over():
    names = {SETTINGS.state.database_url_env, SETTINGS.state.redis_url_env}
    service = COMPOSE["services"]["veridical"]
    handed = {name.removesuffix("_FILE"): file for name, file in service["environment"].items()}
    assert names <= handed.keys()
    assert {handed[name] for name in names} == {f"/run/secrets/{each}" for each in service["secrets"]}
    (container,) = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    assert names == {each["name"] for each in container["env"] if "valueFrom" in each}
    used = set(re.findall(r"/run/secrets/(\w+)", (DEPLOY / "compose.yaml").read_text()))
    assert used == COMPOSE["secrets"].keys()


def test_whoever_stops_a_replica_waits_until_it_is_done():
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= STOPPING_S
    assert float(COMPOSE["services"]["veridical"]["stop_grace_period"].removesuffix("s")) >= STOPPING_S
    assert float(re.search(r"TimeoutStopSec=(\d+)", UNIT)[1]) >= STOPPING_S
    assert SETTINGS.server.shutdown_s >= Limits.deadline_s
    for side in ("send", "read"):
        assert float(re.search(rf"proxy_{side}_timeout (\d+)s", BALANCER)[1]) > Limits.deadline_s
    (container,) = pod["containers"]
    probe = container["readinessProbe"]
    seen_s = probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]
    assert SETTINGS.server.drain_s > 2 * seen_s


def test_ports_paths_and_users_agree(tmp_path):
    image = steps(DEPLOY / "Dockerfile")
    (port,) = [words for name, words in image if name == "EXPOSE"]
    (user,) = [words for name, words in image if name == "USER"]
    (environment,) = [words for name, words in image if name == "ENV"]
    assert f"VERIDICAL_PORT={port}" in environment
    assert f"veridical:{port} " in BALANCER
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    context = pod["securityContext"]
    assert user == f"{context['runAsUser']}:{context['runAsGroup']}" == "10001:10001"
    (container,) = pod["containers"]
    assert container["ports"] == [{"name": "http", "containerPort": int(port)}]
    assert {path.split(":")[0] for path in COMPOSE["services"]["veridical"]["tmpfs"]} == {"/tmp", "/state"}
    assert {"/state", "/tmp"} <= {each["mountPath"] for each in container["volumeMounts"]}
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "http"}


def test_no_service_of_ours_has_rights_that_it_does_not_need():
    (container,) = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for name in ("veridical", "balancer", "redis"):
        service = COMPOSE["services"][name]
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    published = {name: each["ports"] for name, each in COMPOSE["services"].items() if "ports" in each}
    assert published == {"balancer": ["127.0.0.1:8000:8000"]}


def test_the_image_gets_every_package():
    copied = {
        source for name, words in steps(DEPLOY / "Dockerfile") if name == "COPY" for source in words.split()
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]
    assert {each.split(".")[1] for each in packages if "." in each} <= copied
    assert {path.name for path in ROOT.glob("*.py")} <= copied


def test_the_balancers_configuration_is_sound(tmp_path):
    nginx = program("nginx")
    (tmp_path / "nginx.conf").write_text(balancing([8001, 8002], 8000, tmp_path))
    test = [nginx, "-t", "-e", "stderr", "-p", tmp_path, "-c", "nginx.conf"]
    done = subprocess.run(test, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    largest = re.search(r"client_max_body_size (\d+)m", BALANCER)[1]
    assert int(largest) * 2**20 > SETTINGS.server.max_body_bytes


def test_the_unit_is_sound_and_hardened(tmp_path):
    analyze = program("systemd-analyze")
    unit = tmp_path / "veridical.service"
    text, found = re.subn(r"^ExecStart=\S+", f"ExecStart={sys.executable}", UNIT, flags=re.MULTILINE)
    assert found == 1
    unit.write_text(text)
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    secure = [analyze, "security", "--offline=true", "--threshold=25", unit]
    done = subprocess.run(secure, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-300:]
