"""One TimescaleDB and one Mosquitto for a whole pytest run, shared by its workers.

The first test that asks for `servers` starts them, in whichever xdist worker it runs; the other workers join. They stop
with the last worker, and die with a run that is killed. Their data stay in `.citybeat/test` for the next run, which starts
in a fraction of a second: tests make databases and sources of their own, with names that nobody else has.

CITYBEAT_TEST_DATABASE_URL and CITYBEAT_TEST_MQTT_URL: use these servers instead. CITYBEAT_TEST_ROOT: the private Debian
root, when it is not to be in `.citybeat/root`.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from citybeat import stack
from citybeat.stack import tether

CHECKOUT = Path(__file__).parent.parent
# By default, hypothesis fails a test of which one example takes 0.2 s: a measure of the machine, which other tests load too.
settings.register_profile("citybeat", deadline=None)
settings.load_profile("citybeat")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        tether.tether(os.getppid())  # an xdist worker does not outlive its controller, nor do the servers outlive both


def root_directory() -> Path:
    """Where CITYBEAT_TEST_ROOT says, or in the checkout."""
    given = os.environ.get("CITYBEAT_TEST_ROOT")
    return Path(given) if given else CHECKOUT / ".citybeat" / "root"


@pytest.fixture(scope="session")
def debian_root() -> Path:
    """Where the private root of servers is, or will be made by the first test that starts them."""
    return root_directory()


@pytest.fixture(scope="session")
def stack_settings(debian_root: Path) -> stack.StackSettings:
    """Settings of the run's servers, for `stack.credentials` above all."""
    return stack.StackSettings(
        home=CHECKOUT / ".citybeat" / "test",
        root=debian_root,
        pg_port=0,
        mqtt_port=0,
        database_url=os.environ.get("CITYBEAT_TEST_DATABASE_URL"),
        mqtt_url=os.environ.get("CITYBEAT_TEST_MQTT_URL"),
    )


@pytest.fixture(scope="session")
def servers(stack_settings: stack.StackSettings) -> Iterator[stack.Servers]:
    """The run's servers, with the durability that citybeat ships."""
    with stack.running(stack_settings) as servers:
        yield servers
