"""The files that the stack and compose.yaml share, and the Dockerfile, which takes the Makefile's steps."""

import re
import tomllib
from pathlib import Path

import yaml

from citybeat.dashboards.board import Context
from citybeat.dashboards.texts import Texts
from citybeat.settings import Settings
from citybeat.stack import docker, postgres
from citybeat.stack.model import Home
from citybeat.stack.passwords import Passwords

CHECKOUT = Path(__file__).parent.parent.parent
CONFIG = CHECKOUT / "stack" / "config"

COMPOSE = yaml.safe_load((CHECKOUT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]


def test_services_wait_for_each_other_by_health():
    assert set(SERVICES) == {"timescaledb", "mosquitto", "migrate", "ingest", "api", "dashboards", "grafana"}
    for name, service in SERVICES.items():
        assert "healthcheck" in service, name
        for condition in service.get("depends_on", {}).values():
            assert condition["condition"] in {"service_healthy", "service_completed_successfully"}
    assert set(SERVICES["ingest"]["depends_on"]) == {"timescaledb", "mosquitto", "migrate"}


def test_ports_are_bound_to_the_loopback_interface():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 5
    assert all(port.startswith("127.0.0.1:${CITYBEAT_") for port in ports)


def test_no_secret_stands_in_the_file_and_each_is_in_the_environment_file(tmp_path: Path):
    text = (CHECKOUT / "compose.yaml").read_text()
    needed = set(re.findall(r"\$\{(\w+):\?", text))
    passwords = Passwords(tmp_path / "credentials.json")
    passwords.add_own()
    made = docker.environment(Home(tmp_path), passwords, 5433, 1884)
    assert needed <= {line.partition("=")[0] for line in made.splitlines()}
    for match in re.finditer(r"PASSWORD\w*: (.*)", text):
        assert match[1].startswith("${"), match[0]
    for user, url in re.findall(r"://(\w+):([^@]*)@", text):
        assert url.startswith("${"), user


def test_defaults_are_those_of_the_settings():
    defaults = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", (CHECKOUT / "compose.yaml").read_text()))
    made = Context(catalogue={}, words=Texts("en"))
    expected = {"CITYBEAT_ZONE": made.zone, "CITYBEAT_PG_SHARED_BUFFERS": DATABASE_SETTINGS["shared_buffers"]} | {
        f"CITYBEAT_{name.upper()}": str(Settings.model_fields[name].default) for name in ("api_port", "ingest_port")
    }
    assert {name: defaults[name] for name in expected} == expected
    assert {name for name in defaults if name.removeprefix("CITYBEAT_").lower() in Settings.model_fields} <= set(expected)
    inside = SERVICES["migrate"]["environment"]
    assert inside["CITYBEAT_API_PORT"] == SERVICES["api"]["ports"][0].rpartition(":")[2]
    assert inside["CITYBEAT_INGEST_PORT"] == SERVICES["ingest"]["ports"][0].rpartition(":")[2]


def test_what_is_mounted_exists_and_data_are_in_named_volumes():
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.replace("${CITYBEAT_BROKER_SECRETS:?run python3 -m citybeat.stack env .citybeat first}", "secrets")
            source = source.partition(":")[0]
            if source.startswith("./"):
                assert (CHECKOUT / source).exists(), source
            elif source != "secrets":
                assert source in COMPOSE["volumes"]


def test_compose_and_the_local_stack_make_the_same_cluster():
    assert tuple(SERVICES["timescaledb"]["environment"]["POSTGRES_INITDB_ARGS"].split()) == postgres.INITDB_OPTIONS


def settings_of(path: Path, separator: str) -> dict[str, str]:
    pairs = {}
    for line in path.read_text().splitlines():
        name, _, value = line.partition("#")[0].strip().partition(separator)
        if name:
            pairs[name.strip()] = value.strip()
    return pairs


DATABASE_SETTINGS = settings_of(CONFIG / "postgres" / "postgresql.conf", "=")


def test_the_database_loses_nothing_that_was_committed():
    settings = DATABASE_SETTINGS
    assert settings["fsync"] == settings["synchronous_commit"] == settings["full_page_writes"] == "on"
    assert int(settings["max_locks_per_transaction"]) >= 1024
    assert settings["shared_preload_libraries"] == "'timescaledb'"
    assert settings["timescaledb.telemetry_level"] == "off"


def test_the_broker_keeps_what_it_has_acknowledged():
    settings = settings_of(CONFIG / "mosquitto" / "conf.d" / "citybeat.conf", " ")
    assert settings["persistence"] == "true"
    assert (settings["autosave_interval"], settings["autosave_on_changes"]) == ("1", "false")
    assert settings["allow_anonymous"] == "false"
    assert int(settings["max_queued_messages"]) >= 100_000
    assert int(settings["max_packet_size"]) == 4 * 1024 * 1024
    assert "message_size_limit" not in settings  # it acknowledges what it drops


def test_hba_lets_nobody_in_without_a_password():
    lines = [line.split() for line in (CONFIG / "postgres" / "pg_hba.conf").read_text().splitlines()]
    rules = [line for line in lines if line and not line[0].startswith("#")]
    assert rules
    assert {rule[-1] for rule in rules} == {"scram-sha-256"}


def test_the_dockerfile_takes_the_steps_of_the_makefile():
    options = "--quiet --disable-pip-version-check --no-input"
    makefile = (CHECKOUT / "Makefile").read_text()
    assert f"PIP := $(VENV)/bin/python -m pip {options}\n" in makefile
    demo = makefile.partition("$(VENV)/.demo:")[2].partition("touch")[0]
    steps = re.findall(r"@\$\(PIP\) (install .*)", demo)
    assert len(steps) == 2
    image = re.findall(rf"\.venv/bin/python -m pip {options} (install .*)", (CHECKOUT / "Dockerfile").read_text())
    assert image == steps


def test_the_image_has_every_package_and_the_context_no_more():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["citybeat"]
    packages = {"citybeat", *(path.name for path in (CHECKOUT / "citybeat").iterdir() if path.is_symlink())}
    copied = set(re.findall(r"^COPY (\w+) \1$", (CHECKOUT / "Dockerfile").read_text(), re.MULTILINE))
    assert copied == packages
    ignored = (CHECKOUT / ".dockerignore").read_text().split()
    assert packages <= {line.removeprefix("!") for line in ignored if line.startswith("!")}


def test_the_image_does_not_run_as_root():
    assert "\nUSER citybeat\n" in (CHECKOUT / "Dockerfile").read_text()
