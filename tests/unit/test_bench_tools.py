"""Tools of measurements: payloads in a file, resources that a process used, and ratios below their bar."""

import os
import subprocess
import sys
import time
from itertools import islice

import numpy as np
import pytest

from bench import drain, end_to_end, growth, quick, scene, startup
from bench.sender import UnexpectedError, prepare
from bench.workload import LIVE, SINGLES, City, Traffic
from citybeat.devices.wire.mqtt import Frame, Version

START = 1_767_225_600_000_000


def test_publications_are_found_however_the_network_cuts_them():
    packets = [Frame(Version.V5, "city/v1/a/readings").packet(mid, b"y" * (mid * 50)) for mid in range(1, 6)]
    stream = b"".join(packets)
    whole = [sum(map(len, packets[:count])) for count in range(6)]
    for cut in range(len(stream) + 1):
        mids, size = drain.publications(stream[:cut])
        count = sum(end <= cut for end in whole[1:])
        assert mids == [number.to_bytes(2) for number in range(1, count + 1)]
        assert size == whole[count]


def test_another_packet_is_no_publication():
    with pytest.raises(UnexpectedError):
        drain.publications(b"\xd0\x00")


@pytest.mark.parametrize("shape", [LIVE, SINGLES], ids=["live", "singles"])
def test_packets_lie_in_the_file_in_the_order_in_which_they_are_sent(tmp_path, shape):
    traffic = Traffic(city=City(devices=100), shape=shape, start=START)
    payloads = prepare(tmp_path / "packets", traffic, traffic.city.sources, readings=2_000)
    assert payloads.packets["readings"].sum() >= 2_000
    for number, packet in enumerate(islice(traffic, len(payloads))):
        assert payloads.payload(number, f"city/v1/{traffic.city.sources[packet.gateway]}/readings") == packet.payload
        assert payloads.packets["seq"][number] == packet.seq
    assert (np.diff(payloads.packets["end"]) > 0).all()


def test_what_a_process_used_grows_with_what_it_does():
    before = scene.cpu(os.getpid())
    while time.process_time() < before + 0.05:
        sum(range(10_000))
    assert scene.cpu(os.getpid()) > before
    assert scene.tree(os.getpid())[0] == os.getpid()
    assert scene.peak(os.getpid()) > 1_000_000


def test_cities_have_about_as_many_series_as_are_asked_for():
    for series in growth.SERIES:
        assert growth.city_of(series).each * 10 == pytest.approx(series, rel=0.21)


@pytest.mark.parametrize(
    ("command", "module"),
    [("--help", "citybeat.cli"), ("ingest", "citybeat.commands.ingesting"), ("api", "citybeat.commands.serving")],
)
def test_the_limit_of_a_start_imports_nothing_that_the_command_does_not(command, module):
    code = f"import {module}, sys; print([name for name in {startup.LIBRARIES[command]!r} if name not in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def row(name, limit, ratio, **more):
    return {"name": name, "limit": limit, "ratio": ratio, **more}


def test_a_ratio_below_its_bar_is_told_and_nothing_else():
    rows = [row(name, limit or "whatever", bar) for (name, limit), bar in quick.BARS.items()]
    assert quick.missed(rows) == []
    rows[0]["ratio"] *= 0.99
    (told,) = quick.missed(rows)
    assert told.startswith(rows[0]["name"])


def test_books_and_memory_are_judged_too():
    rows = [row(name, limit or "whatever", bar) for (name, limit), bar in quick.BARS.items()]
    rows[0] |= {"wrong": ["5 readings are not there"], "rss": quick.MEMORY + 1_000_000}
    assert len(quick.missed(rows)) == 2


def test_a_bar_whose_row_is_gone_is_an_error():
    with pytest.raises(ValueError, match="expected 1"):
        quick.missed([])


def looks(*at):
    return [end_to_end.Sample(when, 10 * i, 1000 * i, 990 * i, {}) for i, when in enumerate(at)]


def test_what_counts_begins_behind_the_ramp_and_ends_with_the_last_commit_that_was_seen():
    first, last = end_to_end.steady(looks(5.0, 6.0, 7.9, 8.1, 9.0, 10.0, 11.0), ramp=3.0)
    assert (first.at, last.at) == (8.1, 11.0)


def test_too_few_commits_give_no_figure():
    with pytest.raises(RuntimeError, match="too few"):
        end_to_end.steady(looks(5.0, 6.0, 8.1, 9.0, 10.0), ramp=3.0)
