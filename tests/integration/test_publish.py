"""Publishing to a Grafana that keeps what it is given (tests/grafana_server.py)."""

import copy
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from citybeat.dashboards import publish
from citybeat.dashboards.board import Context
from citybeat.dashboards.boards import BOARDS
from citybeat.dashboards.datasource import Database
from citybeat.dashboards.files import DashboardsError
from citybeat.dashboards.texts import Texts
from citybeat.devices.catalogue import builtin
from tests.grafana_server import ADMIN, SWAGGER, VIEWER, Grafana, serving


@pytest.fixture
def grafana() -> Iterator[Grafana]:
    made = Grafana()
    with serving(made) as made.url:
        yield made


def wanted(language: str = "en", *, password: str | None = "secret", new_password: bool = False, **options: Any) -> publish.Wanted:
    context = Context(**{"catalogue": builtin(), "words": Texts(language), "contact": "ops@example.org"} | options)
    return publish.Wanted(context=context, database=Database(sslmode="require"), password=password, new_password=new_password)


def run(grafana: Grafana, what: publish.Wanted, token: str = ADMIN) -> list[str]:
    """The requests that were made."""
    done: list[str] = []
    with publish.connected(grafana.url, token) as api:
        publish.carry_out(publish.plan(api, what), done.append)
    return done


def connect(url: str, token: str) -> None:
    """Only see whether it can be talked to."""
    with publish.connected(url, token):
        pass


def state(grafana: Grafana) -> Any:
    return copy.deepcopy((grafana.folders, grafana.sources, grafana.passwords, grafana.dashboards, grafana.rules, grafana.contacts))


def test_the_first_makes_everything_and_the_second_changes_nothing(grafana):
    done = run(grafana, wanted(prometheus="prom"))
    assert len(done) == 1 + 1 + len(BOARDS) + 1 + 7
    assert all(line.startswith("create: ") for line in done)
    assert grafana.passwords == {"citybeat": "secret"}
    before = state(grafana)
    grafana.writes.clear()
    assert run(grafana, wanted(prometheus="prom")) == []
    assert grafana.writes == []
    assert state(grafana) == before


@pytest.mark.shared
@pytest.mark.skipif(not SWAGGER.exists(), reason="Grafana's description of its API is not beside this checkout")
def test_every_request_is_as_grafana_describes_its_api(grafana):
    run(grafana, wanted(prometheus="prom"))
    run(grafana, wanted("vi", password="other", new_password=True, contact="https://example.org/hook"))
    run(grafana, wanted("vi", contact=None))
    assert {line.split()[0] for line in grafana.writes} == {"POST", "PUT", "DELETE"}
    assert grafana.undescribed == []


def test_the_server_of_the_tests_would_notice(grafana):
    if grafana.described is None:
        pytest.skip("Grafana's description of its API is not beside this checkout")
    for method, path, body in (
        ("POST", "/v1/provisioning/alert-rules", {"uid": "x"}),
        ("POST", "/folders", {"title": 1}),
        ("PUT", "/datasources", {}),
        ("POST", "/datasources", {"nonsense": 1}),
    ):
        grafana.undescribed.clear()
        grafana._describe(method, path, {}, body)
        assert grafana.undescribed, path


def test_another_language_updates_what_people_read(grafana):
    run(grafana, wanted())
    done = run(grafana, wanted("vi"))
    assert len(done) == len(BOARDS) + 5
    assert all(line.startswith("update: ") for line in done)
    assert grafana.dashboards["citybeat-traffic"]["dashboard"]["title"] == "Giao thông"
    assert grafana.rules["citybeat-alert-lag"]["title"] == "Không nhận được dữ liệu"
    assert run(grafana, wanted("vi")) == []


def test_what_was_changed_by_hand_is_put_back_and_only_that(grafana):
    run(grafana, wanted())
    grafana.dashboards["citybeat-energy"]["dashboard"]["panels"].pop()
    grafana.rules["citybeat-alert-lag"]["data"][1]["model"]["conditions"][0]["evaluator"]["params"] = [9]
    grafana.sources["citybeat"]["jsonData"]["timescaledb"] = False
    grafana.contacts["citybeat"]["settings"]["addresses"] = "me@example.org"
    grafana.dashboards["citybeat-city"]["meta"]["folderUid"] = "elsewhere"
    done = [re.sub(r" \(.*", "", line) for line in run(grafana, wanted())]
    assert sorted(done) == [
        "update: alert rule citybeat-alert-lag",
        "update: contact point citybeat",
        "update: dashboard citybeat-city",
        "update: dashboard citybeat-energy",
        "update: data source citybeat",
    ]
    assert run(grafana, wanted()) == []


def test_a_new_password_is_handed_over_when_it_is_said_to_be_new(grafana):
    run(grafana, wanted())
    assert run(grafana, wanted(password="other")) == []
    assert run(grafana, wanted(password="other", new_password=True)) == ["update: data source citybeat"]
    assert grafana.passwords == {"citybeat": "other"}
    grafana.sources["citybeat"]["url"] = "elsewhere:5432"
    assert run(grafana, wanted(password=None)) == ["update: data source citybeat"]
    assert grafana.passwords == {"citybeat": "other"}


def test_only_what_was_once_made_is_removed(grafana):
    run(grafana, wanted(prometheus="prom"))
    old = copy.deepcopy(grafana.dashboards["citybeat-city"])
    for uid, tags, folder in (
        ("citybeat-older", ["citybeat"], "citybeat"),  # ours, of an earlier version
        ("citybeat-copy", [], "citybeat"),  # somebody's copy
        ("my-board", ["citybeat"], "citybeat"),
        ("citybeat-mine", ["citybeat"], "other"),
    ):
        made = copy.deepcopy(old)
        made["dashboard"] |= {"uid": uid, "title": uid, "tags": tags}
        made["meta"]["folderUid"] = folder
        grafana.dashboards[uid] = made
    grafana.rules["theirs"] = {**grafana.rules["citybeat-alert-lag"], "uid": "theirs", "labels": {}, "notification_settings": None}
    grafana.contacts["theirs"] = {"uid": "theirs", "name": "theirs", "type": "email", "settings": {}}
    done = run(grafana, wanted(contact=None))
    removed = {re.sub(r" \(.*", "", line) for line in done if line.startswith("remove: ")}
    assert removed == {
        "remove: dashboard citybeat-older",
        "remove: alert rule citybeat-alert-spool",
        "remove: alert rule citybeat-alert-commit",
        "remove: contact point citybeat",
    }
    assert {"citybeat-copy", "my-board", "citybeat-mine"} <= grafana.dashboards.keys()
    assert "theirs" in grafana.rules
    assert set(grafana.contacts) == {"theirs"}
    assert all("notification_settings" not in rule for uid, rule in grafana.rules.items() if uid != "theirs")
    assert run(grafana, wanted(contact=None)) == []


def test_what_is_somebody_elses_is_left_alone_and_nothing_is_written(grafana):
    run(grafana, wanted())
    for change, words in (
        (lambda: grafana.dashboards["citybeat-city"]["dashboard"].update(tags=["mine"]), "citybeat-city.*another dashboard"),
        (lambda: grafana.rules["citybeat-alert-lag"].update(labels={}), "citybeat-alert-lag.*another rule"),
        (lambda: grafana.sources["citybeat"].update(readOnly=True), "data source.*provisioning files"),
        (lambda: grafana.dashboards["citybeat-city"]["meta"].update(provisioned=True), "citybeat-city.*provisioning files"),
    ):
        kept = state(grafana)
        change()
        grafana.writes.clear()
        with pytest.raises(DashboardsError, match=words):
            run(grafana, wanted("vi"))
        assert grafana.writes == []
        grafana.folders, grafana.sources, grafana.passwords, grafana.dashboards, grafana.rules, grafana.contacts = kept


def test_a_run_that_breaks_off_is_finished_by_the_next(grafana):
    grafana.broken = "POST /v1/provisioning/alert-rules"
    with pytest.raises(DashboardsError, match=r"cannot create alert rule citybeat-alert-limit.*database is locked"):
        run(grafana, wanted())
    assert len(grafana.dashboards) == len(BOARDS)
    grafana.broken = None
    assert len(run(grafana, wanted())) == 5
    assert run(grafana, wanted()) == []


def test_who_may_not_is_told_what_is_needed(grafana):
    with pytest.raises(DashboardsError, match="role Admin"):
        run(grafana, wanted(), VIEWER)
    with pytest.raises(DashboardsError, match="does not know the token"):
        run(grafana, wanted(), "nonsense")
    with pytest.raises(DashboardsError, match="--database-password-file"):
        run(grafana, wanted(password=None))
    assert grafana.dashboards == {}


@pytest.mark.parametrize(
    ("version", "accepted"), [("9.5.2", False), ("10.3.9", False), ("10.4.0", True), ("12.1.0-pre", True), ("", True)]
)
def test_an_old_grafana_is_refused_by_its_version(version, accepted):
    made = Grafana(version)
    with serving(made) as made.url:
        if accepted:
            connect(made.url, ADMIN)
        else:
            with pytest.raises(DashboardsError, match=rf"this is Grafana {re.escape(version)}; 10\.4 or newer"):
                connect(made.url, ADMIN)


def test_a_grafana_below_a_path():
    made = Grafana()
    with serving(made, prefix="/monitoring") as made.url:
        assert len(run(made, wanted())) > 10
        assert run(made, wanted()) == []
        with pytest.raises(DashboardsError):
            connect(made.url.removesuffix("/monitoring"), ADMIN)


@pytest.mark.parametrize("url", ["grafana.example.org", "ftp://127.0.0.1", "http://"])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(DashboardsError, match="expected a URL such as https://"):
        connect(url, ADMIN)


def test_nobody_there_and_somebody_else_there():
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>welcome</html>")

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Page)
    url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    with pytest.raises(DashboardsError, match="is not a Grafana"):
        connect(url, ADMIN)
    server.shutdown()
    server.server_close()
    thread.join()
    with pytest.raises(DashboardsError, match="no Grafana answers there"):
        connect(url, ADMIN)


def test_the_command_shows_then_does_then_has_nothing_to_do(grafana, tmp_path):
    token, password = tmp_path / "token", tmp_path / "password"
    token.write_text(ADMIN + "\n")
    password.write_text("secret\n")

    def call(*more: str) -> "subprocess.CompletedProcess[str]":
        line = [
            sys.executable,
            "-m",
            "citybeat",
            "dashboards",
            "publish",
            "--url",
            grafana.url,
            "--token-file",
            str(token),
            "--lang",
            "vi",
        ]
        line += ["--database-password-file", str(password), *more]
        return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)

    shown = call("--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "would create: dashboard citybeat-city (Tổng quan thành phố)" in shown.stderr
    assert grafana.writes == []
    done = call()
    assert [line.removeprefix("would ") for line in shown.stderr.splitlines()] == done.stderr.splitlines()
    assert "secret" not in done.stderr
    assert call().stderr == "everything is up to date\n"
    refused = call("--standard", "nonsense")
    assert refused.returncode == 1
    assert "QCVN 05:2023" in refused.stderr


def test_the_command_builds_files_and_refuses_what_it_does_not_know(tmp_path):
    def call(*more: str) -> "subprocess.CompletedProcess[str]":
        line = [sys.executable, "-m", "citybeat", "dashboards", "build", "--out", str(tmp_path / "out"), *more]
        return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)

    done = call("--lang", "vi", "--database", "db:5432/city")
    assert (done.returncode, done.stderr) == (0, f"wrote {len(BOARDS) + 3} files to {tmp_path / 'out'}\n")
    made = "".join(path.read_text("utf-8") for path in (tmp_path / "out").rglob("*.*"))
    assert "Tổng quan thành phố" in made
    assert '"url": "db:5432"' in made
    for options, words in (
        (("--zone", "Mars/Olympus"), "no such time zone"),
        (("--standard", "none"), "the catalogue has limits of EU 2024/2881, QCVN 05:2023, WHO 2021"),
        (("--database", "db"), "expected HOST:PORT/NAME"),
    ):
        refused = call(*options)
        assert refused.returncode == 1
        assert words in refused.stderr
