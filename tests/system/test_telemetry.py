"""Two zones under a collector: one trace per story, applies that link to it, metrics, logs, and no secret in any."""

import base64
import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.collector import Collector, Recorded, collector
from tests.support.zones import Pair, Zone, Zones, until, yard

IMAGE = bytes(range(256)) * 4096
"""1 MiB."""


@pytest.fixture(scope="module")
def heard() -> Iterator[Collector]:
    with collector() as keeps:
        yield keeps


@pytest.fixture(scope="module")
def pair(heard: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Berlin and tokyo, told to export to the collector and to log JSON, after the story that the tests look at."""
    with pytest.MonkeyPatch.context() as environment, yard(tmp_path_factory.mktemp("zones")) as zones:
        for name, value in heard.variables.items():
            environment.setenv(name, value)
        pair = told(zones)
        pair.start()
        story(pair, tmp_path_factory.mktemp("files"))
        yield pair


def told(zones: Zones) -> Pair:
    berlin, tokyo = zones.make(0, "berlin"), zones.make(100, "tokyo")
    berlin.follow(tokyo.id, tokyo.peer, tokyo.key)
    tokyo.follow(berlin.id, berlin.peer, berlin.key)
    for zone in (berlin, tokyo):
        zone.set("log", format="json", level="debug")
    return Pair(berlin, tokyo)


def story(pair: Pair, directory: Path) -> None:
    """Make an app in berlin and export it in tokyo, with failures on the way, all by commands."""
    file = directory / "image.raw"
    file.write_bytes(IMAGE)
    pair.berlin.ask("image", "import", file, "--name", "image", "--datastore", "default")
    pair.berlin.ask("market", "create", "--name", "bazaar", "--driver", "http")
    pair.berlin.ask("app", "create", "--name", "app", "--image", "image", "--market", "bazaar")
    pair.wait_equal()
    pair.tokyo.ask("app", "export", "app", "--datastore", "default", "--name", "copy")
    pair.tokyo.fails(4, "app", "create", "--name", "other", "--image", "copy", "--market", "bazaar")
    pair.tokyo.fails(3, "app", "show", "nothing")


def trace_of(heard: Collector, command: str) -> list[Recorded]:
    """Return the spans of the trace that a command began, once the agents have told theirs."""
    (root,) = until(lambda: heard.named(command), f"the trace of `{command}` comes")
    assert root.parent == ""
    return [span for span in heard.spans() if span.trace == root.trace]


def test_an_export_is_one_trace_from_the_command_through_agent_peer_and_driver(pair: Pair, heard: Collector) -> None:
    def whole() -> list[Recorded] | None:
        spans = trace_of(heard, "fedmarket app export")
        return spans if {"job export", "fedmarket.v1.JobService/Watch"} <= {span.name for span in spans} else None

    spans = until(whole, "the job's span comes")
    by_id = {span.id: span for span in spans}

    def path(span: Recorded) -> list[str]:
        above = by_id.get(span.parent)
        return [*(path(above) if above else []), f"{span.zone or 'command'}: {span.name}"]

    paths = {tuple(path(span)) for span in spans}
    job = (
        "command: fedmarket app export",
        "command: fedmarket.v1.AppService/Export",
        "tokyo: fedmarket.v1.AppService/Export",
        "tokyo: job export",
    )
    locate = "fedmarket.v1.PeerService/Locate"
    assert (*job, f"tokyo: {locate}", f"berlin: {locate}") in paths
    assert (*job, "tokyo: driver stage") in paths
    assert (*job, "tokyo: driver commit") in paths
    assert any(names[:4] == job and names[-2:] == ("tokyo: commit", "tokyo: etcd TxnRequest") for names in paths)
    assert not any(span.failed for span in spans)


def test_a_commit_in_berlin_and_its_apply_in_tokyo_are_linked(pair: Pair, heard: Collector) -> None:
    trace = trace_of(heard, "fedmarket market create")[0].trace

    def applies() -> list[Recorded]:
        return [span for span in heard.named("apply") if trace in span.links]

    for apply in until(applies, "the apply comes"):
        assert (apply.zone, apply.attributes["fedmarket.home"]) == ("tokyo", 0)
        assert apply.trace != trace
    commits = [span for span in trace_of(heard, "fedmarket market create") if span.name == "commit"]
    assert {span.zone for span in commits} == {"berlin"}


def test_a_refusal_is_no_failure_of_the_agent_and_one_of_the_command(pair: Pair, heard: Collector) -> None:
    spans = until(
        lambda: [span for span in heard.named("fedmarket.v1.AppService/Show") if span.zone == "tokyo"], "the call comes"
    )
    assert {(span.failed, span.attributes["rpc.response.status_code"]) for span in spans} >= {(False, "NOT_FOUND")}
    assert any(span.failed for span in heard.named("fedmarket app show"))


def scraped(zone: Zone) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Return each sample of /metrics by its labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{zone.http}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        text = answer.read().decode()
    samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return samples


def value(samples: dict[str, dict[tuple[tuple[str, str], ...], float]], name: str, **labels: str) -> float:
    return samples[f"fedmarket_{name}"][tuple(sorted(labels.items()))]


def test_metrics_tell_of_heads_links_requests_jobs_and_bytes(pair: Pair) -> None:
    berlin, tokyo = scraped(pair.berlin), scraped(pair.tokyo)
    head = pair.berlin.native.status().self.head
    for samples in (berlin, tokyo):
        assert value(samples, "head_epoch", zone="0", catalog="federation") == head.epoch
        assert value(samples, "catalog_records", zone="0", catalog="federation") == head.count
        assert 0 < value(samples, "head_seq", zone="0", catalog="federation") <= head.seq + 1
    assert value(tokyo, "link_state", peer="0", state="tail") == 1
    assert value(tokyo, "link_state", peer="0", state="down") == 0
    assert 0 <= value(tokyo, "link_age_seconds", peer="0") < 60
    assert value(tokyo, "requests_total", api="native", method="fedmarket.v1.AppService/Show", code="NOT_FOUND") >= 1
    assert value(berlin, "requests_total", api="peer", method="fedmarket.v1.PeerService/Locate", code="OK") == 1
    assert value(tokyo, "request_seconds_count", api="native", method="fedmarket.v1.AppService/Export") == 1
    assert value(berlin, "commits_total", catalog="federation") >= 3
    assert value(tokyo, "jobs_ended_total", kind="export", state="done") == 1
    assert value(tokyo, "jobs", kind="export", state="running") == 0
    assert value(tokyo, "transferred_bytes_total", direction="in", kind="export") == len(IMAGE)
    assert value(berlin, "transferred_bytes_total", direction="out", kind="blob") == len(IMAGE)
    assert value(berlin, "transferred_bytes_total", direction="in", kind="import") == len(IMAGE)
    assert value(berlin, "etcd_up", endpoint=f"127.0.0.1:{pair.berlin.etcd_port}") == 1
    assert berlin["process_start_time_seconds"][()] > 0


def test_metrics_are_pushed_as_they_are_scraped(pair: Pair, heard: Collector) -> None:
    name = "fedmarket_jobs_ended_total"
    until(lambda: name in heard.metrics(), "metrics come")
    points = heard.metrics()["fedmarket_request_seconds"].histogram.data_points
    assert any(point.count and sum(point.bucket_counts) == point.count for point in points)


def test_each_log_line_is_an_object_and_those_of_a_call_name_its_trace(pair: Pair, heard: Collector) -> None:
    lines = [json.loads(line) for line in pair.tokyo.log.read_text().splitlines()]
    assert all(line.keys() >= {"time", "level", "logger", "message"} for line in lines)
    traces = {span.trace for span in heard.spans()}
    assert traces & {line["trace_id"] for line in lines if "trace_id" in line}


def secrets_of(zone: Zone) -> list[str]:
    """Return what must never be told, in the forms in which it could be."""
    user, _, secret = zone.credentials.read_text().strip().partition(":")
    key = (zone.directory / "keys" / "zone.key").read_bytes()
    found = [secret, base64.b64encode(f"{user}:{secret}".encode()).decode()]
    found += [line for line in key.decode("latin-1").splitlines() if len(line) > 20 and not line.startswith("-")]
    return found


def test_no_secret_is_in_any_log_span_or_metric(pair: Pair, heard: Collector) -> None:
    until(lambda: heard.named("fedmarket app show"), "the last command's trace comes")
    told_of: dict[str, Any] = {"the collector": heard.raw.decode("latin-1")}
    for zone in (pair.berlin, pair.tokyo):
        told_of[f"the log of {zone.name}"] = zone.log.read_text()
        with urllib.request.urlopen(f"http://127.0.0.1:{zone.http}/metrics", timeout=10) as answer:
            told_of[f"the metrics of {zone.name}"] = answer.read().decode()
    for where, text in told_of.items():
        assert len(text) > 1000, where
        for zone in (pair.berlin, pair.tokyo):
            for secret in secrets_of(zone):
                assert secret not in text, where
        assert not re.search(r"sig=|expires=|authorization|PRIVATE KEY|Basic ", text), where


def test_a_collector_that_is_away_breaks_nothing_and_is_told_once(tmp_path: Path) -> None:
    with collector() as gone:
        variables = gone.variables
    with pytest.MonkeyPatch.context() as environment, yard(tmp_path) as zones:
        for name, text in variables.items():
            environment.setenv(name, text)
        zone = zones.make(0, "berlin")
        zone.start()
        for _ in range(3):
            zone.ask("zone", "list")
        until(lambda: "the collector takes no spans" in zone.log.read_text(), "the agent has noticed")
        zone.ask("zone", "list")
        assert zone.terminate() == 0
        assert zone.log.read_text().count("the collector takes no spans") == 1
        assert "Traceback" not in zone.log.read_text()
