"""A Grafana of the tests, on the loopback interface: it keeps what it is given, adds what Grafana adds, refuses what it refuses.

Every request is held against Grafana's own description of its API, where that lies beside the checkout.
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import jsonschema

SWAGGER = Path(__file__).parents[2] / "shared" / "schemas" / "grafana-http-api.swagger.json"
#: Fields that are newer than the description: pausing rules came with 9.5, receivers of their own with 10.4.
NEWER = {"ProvisionedAlertRule": {"isPaused", "notification_settings"}}
ADMIN, VIEWER = "glsa_admin", "glsa_viewer"


class Refused(Exception):  # noqa: N818  # it is an answer
    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message


class Grafana:
    """Its state, and what happened to it."""

    def __init__(self, version: str = "11.6.0") -> None:
        self.version = version
        self.folders: dict[str, Any] = {}
        self.sources: dict[str, Any] = {}
        self.passwords: dict[str, str] = {}
        self.dashboards: dict[str, Any] = {}
        self.rules: dict[str, Any] = {}
        self.contacts: dict[str, Any] = {}
        self.writes: list[str] = []
        self.undescribed: list[str] = []
        self.broken: str | None = None  # a path that fails
        self.described = json.loads(SWAGGER.read_text("utf-8")) if SWAGGER.exists() else None
        if self.described is not None:
            # The description has a Go duration; the API takes and gives text such as 5m (Grafana's own examples do).
            types = self.described["definitions"]["EmbeddedContactPoint"]["properties"]["type"]
            types["enum"] = [each.strip() for each in types["enum"]]  # it was a text with commas
            lasting = {"type": "string", "pattern": r"^(\d+[smhd])+$"}
            self.described["definitions"]["ProvisionedAlertRule"]["properties"]["for"] = lasting
        self.url = ""

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any, token: str) -> tuple[int, Any]:
        if path == "/health":
            return 200, {"database": "ok", "version": self.version, "commit": "x"}
        self._describe(method, path, query, body)
        if token not in {ADMIN, VIEWER}:
            raise Refused(401, "Invalid API key")
        if self.broken is not None and re.fullmatch(self.broken, f"{method} {path}"):
            raise Refused(500, "database is locked")
        if path == "/org":
            return 200, {"id": 1, "name": "Main Org."}
        if method != "GET":
            if token != ADMIN:
                raise Refused(403, "You'll need additional permissions")
            self.writes.append(f"{method} {path}")
        for pattern, name in self.ROUTES.items():
            if match := re.fullmatch(pattern, path):
                return getattr(self, f"{method.lower()}_{name}")(
                    *match.groups(), **({"query": query} if method == "GET" else {"body": body})
                )
        raise Refused(404, "Not found")

    ROUTES: ClassVar[dict[str, str]] = {
        "/folders": "folders",
        "/folders/([^/]+)": "folder",
        "/datasources": "sources",
        "/datasources/uid/([^/]+)": "source",
        "/dashboards/db": "dashboards",
        "/dashboards/uid/([^/]+)": "dashboard",
        "/search": "search",
        "/v1/provisioning/alert-rules": "rules",
        "/v1/provisioning/alert-rules/([^/]+)": "rule",
        "/v1/provisioning/contact-points": "contacts",
        "/v1/provisioning/contact-points/([^/]+)": "contact",
    }

    def _describe(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> None:
        if self.described is None:
            return
        for template, methods in self.described["paths"].items():
            # Paths of alerting stand there with the base path, those of the rest without.
            if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template.removeprefix("/api")), path) and method.lower() in methods:
                operation = methods[method.lower()]
                break
        else:
            self.undescribed.append(f"{method} {path}: no such operation")
            return
        parameters = operation.get("parameters", [])
        unknown = query.keys() - {each["name"] for each in parameters if each["in"] == "query"}
        self.undescribed += [f"{method} {path}: no parameter {name}" for name in unknown]
        schema = next((each["schema"] for each in parameters if each["in"] == "body"), None)
        if schema is None:
            if body is not None:
                self.undescribed.append(f"{method} {path}: takes no body")
            return
        name = schema["$ref"].rpartition("/")[2]
        validator = jsonschema.Draft4Validator({**schema, "definitions": self.described["definitions"]})
        self.undescribed += [f"{method} {path}: {error.json_path}: {error.message[:200]}" for error in validator.iter_errors(body)]
        known = self.described["definitions"][name]["properties"].keys() | NEWER.get(name, set())
        self.undescribed += [f"{method} {path}: {name} has no field {field}" for field in body.keys() - known]

    # --- folders ---

    def get_folder(self, uid: str, query: Any) -> tuple[int, Any]:
        return 200, self._there(self.folders, uid, "folder not found")

    def post_folders(self, body: Any) -> tuple[int, Any]:
        if body["uid"] in self.folders:
            raise Refused(409, "a folder with the same uid already exists")
        self.folders[body["uid"]] = {**body, "id": len(self.folders) + 1, "version": 1}
        return 200, self.folders[body["uid"]]

    # --- data sources ---

    def get_source(self, uid: str, query: Any) -> tuple[int, Any]:
        return 200, self._there(self.sources, uid, "Data source not found")

    def post_sources(self, body: Any) -> tuple[int, Any]:
        if any(source["name"] == body["name"] for source in self.sources.values()):
            raise Refused(409, "data source with the same name already exists")
        return self._keep_source(body["uid"], body, 1)

    def put_source(self, uid: str, body: Any) -> tuple[int, Any]:
        return self._keep_source(uid, body, self._there(self.sources, uid, "Data source not found")["version"] + 1)

    def _keep_source(self, uid: str, body: Any, version: int) -> tuple[int, Any]:
        body = dict(body)
        if secret := body.pop("secureJsonData", None):
            self.passwords[uid] = secret["password"]
        self.sources[uid] = {
            **body, "id": 7, "orgId": 1, "basicAuth": False, "readOnly": False, "version": version,
            "secureJsonFields": {"password": uid in self.passwords}, "typeLogoUrl": "",
        }  # fmt: skip
        return 200, {"datasource": self.sources[uid], "message": "Datasource added"}

    # --- dashboards ---

    def get_dashboard(self, uid: str, query: Any) -> tuple[int, Any]:
        return 200, self._there(self.dashboards, uid, "Dashboard not found")

    def post_dashboards(self, body: Any) -> tuple[int, Any]:
        uid = body["dashboard"]["uid"]
        if body["folderUid"] not in self.folders:
            raise Refused(404, "folder not found")
        before = self.dashboards.get(uid)
        if before is not None and not body.get("overwrite"):
            raise Refused(412, "The dashboard has been changed by someone else")
        version = 1 if before is None else before["dashboard"]["version"] + 1
        self.dashboards[uid] = {
            "dashboard": {**body["dashboard"], "id": len(self.dashboards) + 20, "version": version},
            "meta": {"folderUid": body["folderUid"], "provisioned": False, "version": version},
        }
        return 200, {"uid": uid, "status": "success", "version": version}

    def delete_dashboard(self, uid: str, body: Any) -> tuple[int, Any]:
        self._there(self.dashboards, uid, "Dashboard not found")
        return 200, {"title": self.dashboards.pop(uid)["dashboard"]["title"]}

    def get_search(self, query: dict[str, list[str]]) -> tuple[int, Any]:
        assert query["type"] == ["dash-db"]
        return 200, [
            {"uid": uid, "title": kept["dashboard"]["title"], "folderUid": kept["meta"]["folderUid"], "type": "dash-db"}
            for uid, kept in self.dashboards.items()
            if set(query["tag"]) <= set(kept["dashboard"].get("tags", []))
        ]

    # --- alerting ---

    def get_rules(self, query: Any) -> tuple[int, Any]:
        return 200, list(self.rules.values())

    def post_rules(self, body: Any) -> tuple[int, Any]:
        if body["uid"] in self.rules:
            raise Refused(400, "a rule with this uid exists")
        return 201, self._keep_rule(body)

    def put_rule(self, uid: str, body: Any) -> tuple[int, Any]:
        self._there(self.rules, uid, "rule not found")
        return 200, self._keep_rule(body)

    def _keep_rule(self, body: Any) -> Any:
        if body["folderUID"] not in self.folders:
            raise Refused(400, "folder does not exist")
        receiver = body.get("notification_settings", {}).get("receiver")
        if receiver is not None and receiver not in {point["name"] for point in self.contacts.values()}:
            raise Refused(400, f"receiver {receiver} does not exist")
        data = [{"queryType": "", **query} for query in body["data"]]
        self.rules[body["uid"]] = {
            **body,
            "data": data,
            "id": len(self.rules) + 1,
            "updated": "2026-01-01T00:00:00Z",
            "provenance": "api",
        }
        return self.rules[body["uid"]]

    def delete_rule(self, uid: str, body: Any) -> tuple[int, Any]:
        self._there(self.rules, uid, "rule not found")
        del self.rules[uid]
        return 204, None

    def get_contacts(self, query: dict[str, list[str]]) -> tuple[int, Any]:
        names = query.get("name")
        return 200, [point for point in self.contacts.values() if names is None or point["name"] in names]

    def post_contacts(self, body: Any) -> tuple[int, Any]:
        self.contacts[body["uid"]] = {**body, "disableResolveMessage": False, "provenance": "api"}
        return 202, self.contacts[body["uid"]]

    def put_contact(self, uid: str, body: Any) -> tuple[int, Any]:
        self._there(self.contacts, uid, "contact point not found")
        self.contacts[uid] = {**body, "disableResolveMessage": False, "provenance": "api"}
        return 202, {"message": "contactpoint updated"}

    def delete_contact(self, uid: str, body: Any) -> tuple[int, Any]:
        name = self._there(self.contacts, uid, "contact point not found")["name"]
        if any((rule.get("notification_settings") or {}).get("receiver") == name for rule in self.rules.values()):
            raise Refused(409, "contact point is in use")
        del self.contacts[uid]
        return 204, None

    @staticmethod
    def _there(kept: dict[str, Any], uid: str, otherwise: str) -> Any:
        if uid not in kept:
            raise Refused(404, otherwise)
        return kept[uid]


@contextmanager
def serving(grafana: Grafana, *, prefix: str = "") -> Iterator[str]:
    """Its URL, while it is served."""

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            try:
                if not parts.path.startswith(f"{prefix}/api/"):
                    raise Refused(404, "page not found")
                status, made = grafana.answer(
                    self.command, parts.path.removeprefix(f"{prefix}/api"), parse_qs(parts.query), body, token
                )
            except Refused as refused:
                status, made = refused.status, {"message": refused.message}
            text = b"" if made is None else json.dumps(made).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815  # names of the library

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}{prefix}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
