"""GET /metrics over a real connection, whatever is accepted."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families as text_families

from zone_agent.telemetry.instruments import INFO, REQUESTS, TABLE, Kind
from zone_agent.telemetry.scrape import Scrape


def live() -> list[Metric]:
    family = INFO.family()
    family.add_metric(("0", 'a "name"\\\n', "1"), 1)
    return [family]


@asynccontextmanager
async def answered(accept: str) -> AsyncIterator[aiohttp.ClientResponse]:
    app = web.Application()
    app.router.add_get("/metrics", Scrape(live).answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url, headers={"Accept": accept}) as response:
            yield response
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    "accept", ["", "*/*", "text/plain", "text/plain;version=0.0.4", "text/plain;version=nonsense", "application/json"]
)
async def test_the_text_format_is_the_answer_to_whatever_is_not_known(accept: str) -> None:
    REQUESTS.labels("scrape", "method", "OK").inc()
    async with answered(accept) as response:
        assert response.status == 200
        families = {family.name: family for family in text_families(await response.text())}
    assert families["fedmarket_info"].samples[0].labels["name"] == 'a "name"\\\n'
    assert any(sample.labels["api"] == "scrape" for sample in families["fedmarket_requests"].samples)


async def test_openmetrics_is_answered_to_whoever_asks_for_it() -> None:
    async with answered("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5") as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        text = await response.text()
    assert text.endswith("# EOF\n")
    names = {family.name for family in open_families(text)}  # type: ignore[no-untyped-call]  # the library's
    assert {"fedmarket_info", "fedmarket_requests"} <= names


def test_each_metric_has_a_name_of_ours_a_meaning_and_a_unit_in_its_name() -> None:
    assert len({row.name for row in TABLE}) == len(TABLE)
    for row in TABLE:
        assert row.name.startswith("fedmarket_")
        assert row.meaning.endswith(".")
        assert row.name.endswith("_total") is (row.kind is Kind.COUNTER)
        if row.unit in ("seconds", "bytes"):
            assert f"_{row.unit}" in row.name
