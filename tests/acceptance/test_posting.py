"""Readings over HTTP beside MQTT, of one source. SIGKILL of the API in the middle of requests loses and doubles nothing."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from citybeat.devices.device import Device, Sensor
from citybeat.devices.wire import reports
from citybeat.stack.process import free_port
from citybeat.storage.accounts import ledger
from citybeat.storage.registry import records
from tests.acceptance.conftest import PATIENCE, connected, wait_for

SOURCE = "post-gw"
CLIENTS = 4
REQUESTS = 60  # of each client
MESSAGES = 300
KILLS = 4


class Client:
    """Posts each of its requests until it is answered, always under the same key."""

    def __init__(self, number, url, key):
        self.number, self.url, self.key = number, url, key
        self.answers = []
        self.broken = 0

    def run(self):
        for request in range(REQUESTS):
            body = [{"device": f"post-{self.number}", "ts": START + request * 1000, "values": {"temperature": 20}}]
            body.append({"device": f"post-{self.number}", "values": {"pm25": request % 50}})  # only its key tells it from another
            headers = {"X-API-Key": self.key, "Idempotency-Key": f"client-{self.number}-{request:04}"}
            deadline = time.monotonic() + PATIENCE
            while True:
                assert time.monotonic() < deadline
                try:
                    answer = httpx.post(self.url, json=body, headers=headers, timeout=30)
                except httpx.TransportError as exc:
                    self.broken += not isinstance(exc, httpx.ConnectError)
                    continue
                if answer.status_code == 200:
                    break
                assert answer.status_code == 503, answer.text
            self.answers.append(answer.json())


START = (int(time.time()) - 1000) * 1000


def test_nothing_is_lost_and_nothing_doubled(service):
    """The service's ingest takes the messages; the API that is killed is one beside the service's own."""
    town = service.town
    sensors = tuple(Sensor(metric=metric) for metric in ("temperature", "pm25"))
    with town.database() as database:
        names = [f"post-{i}" for i in range(CLIENTS + 1)]
        records.register(database, [Device(id=name, source=SOURCE, domain="environment", sensors=sensors) for name in names])
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    key = town.run("keys", "create", "test", "--scope", "write").stdout.strip()
    clients = [Client(number, f"{url}/v1/readings?source={SOURCE}", key) for number in range(CLIENTS)]

    def api():
        return town.start("api", CITYBEAT_API_PORT=str(port), CITYBEAT_API_REQUESTS_PER_MINUTE="1000000")

    def publish():
        with connected(town, SOURCE) as client:
            for number in range(MESSAGES):
                report = reports.encode_report(
                    f"post-{CLIENTS}", (START + number * 1000) * 1000, {"temperature": 20.0 + number % 3}
                )
                client.publish(f"city/v1/{SOURCE}/readings", reports.encode(report), qos=1).wait_for_publish(PATIENCE)

    served = api()
    with ThreadPoolExecutor(CLIENTS + 1) as pool:
        running = [pool.submit(publish), *[pool.submit(client.run) for client in clients]]

        def answered():
            return sum(len(client.answers) for client in clients)

        for kill in range(KILLS):
            wait_for(lambda kill=kill: answered() > (kill + 1) * CLIENTS * REQUESTS // (KILLS + 2), served.log.read_text)
            served.kill()
            served = api()
        for each in running:
            each.result(4 * PATIENCE)
    expected = CLIENTS * REQUESTS * 2 + MESSAGES
    with town.database() as database:
        wait_for(
            lambda: ledger.totals(database, sources=[SOURCE]).received >= expected,
            lambda: ledger.totals(database, sources=[SOURCE]),
        )
        total = ledger.totals(database, sources=[SOURCE])
        assert (total.received, total.stored) == (expected, expected)
        assert ledger.discrepancies(database) == []
        assert ledger.rollup_differences(database) == []
    # Every request was told of its own readings, and of all of them, whichever try it was that stored them.
    for client in clients:
        assert {(answer["ledger"]["received"], answer["ledger"]["stored"]) for answer in client.answers} == {(2, 2)}
    assert sum(client.broken for client in clients) > 0
    served.stop()
