"""docker-compose.yml and Dockerfile fit each other, the shop and the real commands: all one can tell without Docker."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from tests.example_project.support import PROJECT, ROOT
from walex_celery.settings.model import WalExSettings

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SHOP = {name: service for name, service in SERVICES.items() if service.get("build")}
CELERY = {name: service["command"] for name, service in SHOP.items() if service["command"][0] == "celery"}
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_all_that_is_needed_is_there() -> None:
    assert set(SERVICES) == {"postgres", "rabbitmq", "cache", "producer", "worker", "flower", "load"}
    assert SERVICES["worker"]["deploy"]["replicas"] == 2
    assert SERVICES["load"]["profiles"] == ["load"]
    assert "wal_level=logical" in SERVICES["postgres"]["command"]


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_restarts_and_waits_for_healthy_ones(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert service.get("healthcheck", {}).get("test") or name == "load"
    for other, condition in service.get("depends_on", {}).items():
        assert condition == {"condition": "service_healthy"}
        assert "healthcheck" in SERVICES[other]


@pytest.mark.parametrize("name", SERVICES)
def test_volumes_and_files_exist(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source = volume.split(":")[0]
        assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]


def test_postgres_keeps_its_data_where_the_image_of_18_puts_it() -> None:
    assert SERVICES["postgres"]["image"] == "postgres:18"
    assert "postgres:/var/lib/postgresql" in SERVICES["postgres"]["volumes"]


def test_ports_are_open_to_this_machine_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_passwords_come_from_the_environment() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for password in re.findall(r"://shop:([^@]*)@|PASS(?:WORD)?: (.+)", text):
        assert re.fullmatch(r"\$\{\w+_PASSWORD:-shop\}", "".join(password))


@pytest.mark.parametrize("name", SHOP)
def test_each_variable_is_read_by_somebody(name: str) -> None:
    sources = "".join(path.read_text() for path in PROJECT.rglob("*.py"))
    settings = {f"WALEX_{setting.upper()}" for setting in WalExSettings.model_fields}
    for variable in SHOP[name]["environment"]:
        assert variable in settings or f'"{variable}"' in sources or variable.startswith("FLOWER_")


def _run(*command: str) -> str:
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", CELERY)
def test_each_celery_command_and_its_options_exist(name: str) -> None:
    words = [word for word in CELERY[name][1:] if not word.startswith("--")]
    options = [word.partition("=")[0] for word in CELERY[name][1:] if word.startswith("--")]

    help_text = _run(sys.executable, "-m", "celery", *words, "--help")

    assert all(option in help_text for option in options)


def test_the_load_generator_takes_its_options() -> None:
    program, *arguments = SERVICES["load"]["command"][1:]
    help_text = _run(sys.executable, program, "--help")
    assert all(argument.partition("=")[0] in help_text for argument in arguments)


def test_the_producer_s_health_check_asks_the_port_that_it_opens() -> None:
    [option] = [word for word in SERVICES["producer"]["command"] if word.startswith("--metrics-port=")]
    port = option.partition("=")[2]
    assert f"http://127.0.0.1:{port}/readyz" in SERVICES["producer"]["healthcheck"]["test"][-1]
    assert SERVICES["producer"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert "[redis,metrics]" in DOCKERFILE


def test_the_image_copies_what_is_there_and_not_ignored() -> None:
    rules = (ROOT / ".dockerignore").read_text().split()
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)", DOCKERFILE, re.M)
        for source in line.split()[:-1]
    ]
    for source in copied:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in rules, f"{source} would not reach the image"
        assert not any(fnmatch.fnmatch(source, rule) for rule in rules if rule.startswith("**"))
    assert rules[0] == "*", "what is not named stays out: .env, .git, environments"


def test_the_image_does_not_run_as_root() -> None:
    [user] = re.findall(r"^USER (.+)", DOCKERFILE, re.M)
    assert user == "shop"
    assert DOCKERFILE.index("USER shop") < DOCKERFILE.index("CMD ")
