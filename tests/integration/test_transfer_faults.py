"""Fetching from servers that do wrong: exact bytes, or one clear error, and nothing left behind."""

import hashlib
import logging
import random
import traceback
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import pytest

from drivers.market.http import HttpMarket
from fedmarket.errors import Corrupt, FedmarketError, NoSpace, Timeout, Unavailable
from fedmarket.retry import Backoff
from tests.support import hostile_http as bad
from tests.support.hostile_http import Behaviour, hostile
from zone_agent.transfer.fetch import fetch
from zone_agent.transfer.settings import TransferSettings

PART = 100_000
BLOB = random.Random(7).randbytes(3 * PART + 1234)
OTHER = random.Random(8).randbytes(len(BLOB))
RANGES = [(0, 99_999), (100_000, 199_999), (200_000, 299_999), (300_000, 301_233)]
SETTINGS = TransferSettings(
    part_bytes=PART,
    gain_bytes=10_000,
    attempts=3,
    idle_seconds=20.0,
    backoff=Backoff(first_seconds=0.001, longest_seconds=0.002),
)
IMPATIENT = replace(SETTINGS, idle_seconds=1.0)


@dataclass
class Zone:
    """The receiving side: a market's directory, and what of the fetch was seen."""

    market: HttpMarket
    directory: Path
    session: aiohttp.ClientSession
    seen: list[int]

    async def pull(self, *urls: str, blob: bytes = BLOB, settings: TransferSettings = SETTINGS) -> None:
        with self.market.stage("copy", "job-1", len(blob)) as staging:
            await fetch(self.session, urls, len(blob), _sha256(blob), staging.write, settings, self.seen.append)
            staging.commit()

    def stored(self) -> bytes:
        with self.market.open("copy") as blob:
            return blob.read()

    def files(self) -> list[Path]:
        return [path for path in self.directory.rglob("*") if path.is_file()]


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncIterator[Zone]:
    async with aiohttp.ClientSession() as session:
        yield Zone(HttpMarket(tmp_path), tmp_path, session, [])


@pytest.fixture
async def servers() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


def _sha256(blob: bytes) -> bytes:
    return hashlib.sha256(blob).digest()


async def refused(zone: Zone, error: type[FedmarketError], *urls: str, settings: TransferSettings = SETTINGS) -> str:
    """Pull, expect exactly that error, check that nothing is left and no secret told; return the sentence."""
    with pytest.raises(error) as caught:
        await zone.pull(*urls, settings=settings)
    assert type(caught.value) is error
    assert zone.files() == []
    told = str(caught.value)
    assert "secret" not in told
    assert "/blobs/" not in told
    return told


async def test_a_good_source_is_read_in_parts(zone: Zone) -> None:
    async with hostile(BLOB) as server:
        await zone.pull(server.url)
    assert server.ranges() == RANGES
    assert zone.stored() == BLOB
    assert zone.seen == sorted(zone.seen)
    assert zone.seen[-1] == len(BLOB)


RECOVERED: dict[str, list[Behaviour]] = {
    "cut before the first byte": [bad.cut_after(0)],
    "cut within each part": [bad.cut_after(40_000), bad.cut_after(40_000), bad.cut_after(40_000)],
    "cut in the last byte": [bad.cut_after(PART - 1)],
    "error 500 twice": [bad.status(500), bad.status(500)],
    "busy": [bad.status(503), bad.status(429)],
    "error page in the middle": [bad.honest, bad.status(502), bad.honest],
    "not HTTP once": [bad.speaks(b"SSH-2.0-OpenSSH_9.2\r\n")],
    "garbage instead of a chunk": [
        bad.speaks(
            b"HTTP/1.1 206 x\r\nContent-Range: bytes 0-99999/301234\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nno\r\n"
        )
    ],
    "one byte behind the body": [bad.appends(b"!")],
    "one byte more in the body": [bad.chunked(lambda body: body + b"!")],
}


@pytest.mark.parametrize("fault", RECOVERED)
async def test_what_passes_is_overcome_with_exact_bytes(zone: Zone, fault: str) -> None:
    async with hostile(BLOB, *RECOVERED[fault]) as server:
        await zone.pull(server.url)
    assert zone.stored() == BLOB


async def test_a_link_that_is_cut_for_ever_still_ends_as_long_as_each_try_gains(zone: Zone) -> None:
    async with hostile(BLOB, otherwise=bad.cut_after(20_000)) as server:
        await zone.pull(server.url)
    assert zone.stored() == BLOB
    assert len(server.requests) > 4 * SETTINGS.attempts


async def test_a_broken_part_goes_on_from_the_byte_it_had_reached(zone: Zone) -> None:
    async with hostile(BLOB, bad.honest, bad.stall_after(70_000)) as server:
        await zone.pull(server.url, settings=IMPATIENT)
    assert zone.stored() == BLOB
    assert server.ranges() == [RANGES[0], RANGES[1], (170_000, 269_999), (270_000, 301_233)]


async def test_a_slow_source_is_waited_for_as_long_as_bytes_come(zone: Zone) -> None:
    settings = replace(SETTINGS, idle_seconds=2.0, attempts=1)
    async with hostile(BLOB[:PART], bad.drip(10, 0.25)) as server:  # 2.25 s in all
        await zone.pull(server.url, blob=BLOB[:PART], settings=settings)
    assert len(server.requests) == 1


async def test_a_source_that_ignores_ranges_is_read_whole_in_one_request(zone: Zone) -> None:
    async with hostile(BLOB, otherwise=bad.ignores_range) as server:
        await zone.pull(server.url)
    assert zone.stored() == BLOB
    assert len(server.requests) == 1


async def test_a_whole_answer_without_a_length_is_read_to_its_end(zone: Zone) -> None:
    async with hostile(BLOB, otherwise=bad.whole_without_length) as server:
        await zone.pull(server.url)
    assert zone.stored() == BLOB


async def test_a_whole_answer_in_the_middle_passes_over_what_is_here(zone: Zone) -> None:
    async with hostile(BLOB, bad.honest, bad.cut_after(50_000), otherwise=bad.ignores_range) as server:
        await zone.pull(server.url)
    assert zone.stored() == BLOB
    assert len(server.requests) == 3


async def test_the_next_source_goes_on_where_the_first_broke_and_is_kept(zone: Zone, servers: AsyncExitStack) -> None:
    first = await servers.enter_async_context(hostile(BLOB, bad.honest, bad.cut_after(60_000)))
    second = await servers.enter_async_context(hostile(BLOB))
    await zone.pull(first.url, second.url)
    assert zone.stored() == BLOB
    assert len(first.requests) == 2
    assert [asked for asked in second.ranges() if asked][-1] == (
        len(BLOB) - 1 - (len(BLOB) - 1 - 260_000) % PART,
        301_233,
    )


async def test_a_silent_source_is_left_for_the_next(zone: Zone, servers: AsyncExitStack) -> None:
    silent = await servers.enter_async_context(hostile(BLOB, otherwise=bad.says_nothing))
    good = await servers.enter_async_context(hostile(BLOB))
    await zone.pull(silent.url, good.url, settings=IMPATIENT)
    assert zone.stored() == BLOB
    assert len(silent.requests) == 1


REFUSED: dict[str, tuple[Behaviour, type[FedmarketError], str]] = {
    "a range by another name": (
        bad.with_headers(Content_Range="bytes 1-100000/301234"),
        Unavailable,
        "answers bytes 1",
    ),
    "a longer range": (bad.with_headers(Content_Range="bytes 0-100000/301234"), Unavailable, "were asked for"),
    "a backward range": (bad.with_headers(Content_Range="bytes 0-0/301234"), Unavailable, "were asked for"),
    "no Content-Range": (bad.with_headers(Content_Range=""), Unavailable, "Content-Range"),
    "a length that is not the range's": (bad.with_headers(Content_Length="100001"), Unavailable, "were asked for"),
    "gzip": (bad.with_headers(Content_Encoding="gzip"), Unavailable, "'gzip'"),
    "another size": (bad.with_headers(Content_Range="bytes 0-99999/301235"), Corrupt, "holds 301235 bytes"),
    "a shorter blob": (bad.status(416), Corrupt, "less than the 301234 bytes"),
    "forbidden": (bad.status(403), Unavailable, "expired"),
    "gone": (bad.status(404), Unavailable, "does not hold the blob"),
    "an odd status": (bad.status(400), Unavailable, "status 400"),
    "a redirect to nowhere": (bad.status(302), Unavailable, "redirects more than 5 times"),
    "a redirect to a file": (bad.status(302, Location="file:///etc/passwd"), Unavailable, "no http or https URL"),
    "a redirect to nonsense": (bad.status(302, Location="http://[bad/"), Unavailable, "no http or https URL"),
    "errors for ever": (bad.status(500), Unavailable, "answered with an error (500)"),
    "cuts for ever": (bad.cut_after(100), Unavailable, "cut the connection"),
    "too short, in good order": (bad.chunked(lambda body: body[:500]), Unavailable, "ended too early"),
    "no HTTP": (bad.speaks(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n"), Unavailable, "HTTP"),
    "a flipped byte": (bad.flips(250_000), Corrupt, f"the record says {_sha256(BLOB).hex()}"),
}


@pytest.mark.parametrize("fault", REFUSED)
async def test_what_does_not_pass_is_one_sentence_with_the_host_and_leaves_nothing(zone: Zone, fault: str) -> None:
    behaviour, error, phrase = REFUSED[fault]
    async with hostile(BLOB, otherwise=behaviour) as server:
        told = await refused(zone, error, server.url)
    assert server.host in told
    assert phrase in told


@pytest.mark.parametrize("fault", REFUSED)
async def test_each_of_these_is_overcome_by_another_source(zone: Zone, servers: AsyncExitStack, fault: str) -> None:
    wrong = await servers.enter_async_context(hostile(BLOB, otherwise=REFUSED[fault][0]))
    good = await servers.enter_async_context(hostile(BLOB))
    await zone.pull(wrong.url, good.url)
    assert zone.stored() == BLOB


ASKED = {
    "errors for ever": SETTINGS.attempts,
    "cuts for ever": SETTINGS.attempts,
    "too short, in good order": SETTINGS.attempts,
    "no HTTP": SETTINGS.attempts,
    "a redirect to nowhere": SETTINGS.max_redirects + 1,
    "a flipped byte": len(RANGES),
}


@pytest.mark.parametrize("fault", REFUSED)
async def test_a_source_is_asked_again_only_where_that_may_help(zone: Zone, fault: str) -> None:
    behaviour, error, _ = REFUSED[fault]
    async with hostile(BLOB, otherwise=behaviour) as server:
        await refused(zone, error, server.url)
    assert len(server.requests) == ASKED.get(fault, 1)


async def test_redirects_are_followed_with_the_range_and_the_query_as_it_is(
    zone: Zone, servers: AsyncExitStack
) -> None:
    target = await servers.enter_async_context(hostile(BLOB))
    location = f"http://{target.host}/a%2Fb/~x?sig=a%2Fb%3D&x=%7e"
    entry = await servers.enter_async_context(hostile(BLOB, otherwise=bad.status(302, Location=location)))
    await zone.pull(entry.url)
    assert zone.stored() == BLOB
    assert target.ranges() == RANGES
    assert target.requests[0].target == "/a%2Fb/~x?sig=a%2Fb%3D&x=%7e"


async def test_a_relative_redirect_is_taken_from_where_it_was_met(zone: Zone) -> None:
    async with hostile(BLOB, bad.status(307, Location="../2/y?z=1")) as server:
        await zone.pull(server.url)
    assert [request.target for request in server.requests[:2]] == ["/blobs/1/x?expires=1&sig=secret", "/blobs/2/y?z=1"]


async def test_a_url_is_sent_as_it_was_signed(zone: Zone) -> None:
    async with hostile(BLOB) as server:
        await zone.pull(f"http://{server.host}/m/a%2Fb?X-Sig=%2b%2F~%7E+&y")
    assert server.requests[0].target == "/m/a%2Fb?X-Sig=%2b%2F~%7E+&y"


async def test_a_url_cannot_smuggle_a_header(zone: Zone) -> None:
    async with hostile(BLOB) as server:
        await zone.pull(f"http://{server.host}/x HTTP/1.1\r\nX-Evil: 1\r\n\r\n")
    assert not any(line.lower().startswith("x-evil") for line in server.requests[0].head.splitlines())
    assert server.ranges() == RANGES


@pytest.mark.parametrize("url", ["", "ftp://127.0.0.1/x", "/blobs/1/x?sig=secret", "http://", "http://[::1/x", "x:y"])
async def test_what_is_no_http_url_is_not_asked(zone: Zone, url: str) -> None:
    assert "not at an http or https URL" in await refused(zone, Unavailable, url)


async def test_no_source_at_all_is_said(zone: Zone) -> None:
    assert "no zone says that it holds these bytes" in await refused(zone, Unavailable)


async def test_a_blob_that_changes_between_parts_is_read_again_from_the_start(zone: Zone) -> None:
    async with hostile(OTHER, bad.honest, bad.honest, bad.changes_to(BLOB, '"two"')) as server:
        await zone.pull(server.url)
    assert zone.stored() == BLOB
    assert server.ranges() == [*RANGES[:3], *RANGES]
    assert zone.seen.index(len(BLOB)) == len(zone.seen) - 1


async def test_etags_that_never_agree_do_not_stop_right_bytes(zone: Zone) -> None:
    tags = iter(range(100))

    async def mirror(exchange: bad.Exchange) -> None:
        exchange.server.etag = f'"{next(tags)}"'
        await bad.honest(exchange)

    async with hostile(BLOB, otherwise=mirror) as server:
        await zone.pull(server.url)
    assert zone.stored() == BLOB
    assert len(server.requests) == 2 + len(RANGES)


async def test_a_lying_source_is_dropped_and_the_next_read_from_the_start(
    zone: Zone, servers: AsyncExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    liar = await servers.enter_async_context(hostile(BLOB, otherwise=bad.flips(5)))
    good = await servers.enter_async_context(hostile(BLOB))
    await zone.pull(liar.url, good.url)
    assert zone.stored() == BLOB
    assert good.ranges() == RANGES
    assert liar.host in caplog.text


async def test_when_several_gave_bytes_each_is_tried_alone(zone: Zone, servers: AsyncExitStack) -> None:
    first = await servers.enter_async_context(hostile(BLOB, bad.honest, bad.cut_after(60_000)))
    liar = await servers.enter_async_context(hostile(BLOB, otherwise=bad.flips(301_000)))
    await zone.pull(first.url, liar.url)
    assert zone.stored() == BLOB
    assert first.ranges()[2:] == RANGES


async def test_corruption_is_not_hidden_behind_a_source_that_is_down(zone: Zone, servers: AsyncExitStack) -> None:
    liar = await servers.enter_async_context(hostile(BLOB, otherwise=bad.flips(0)))
    down = await servers.enter_async_context(hostile(BLOB, otherwise=bad.status(500)))
    told = await refused(zone, Corrupt, down.url, liar.url)
    assert f"{down.host} answered with an error (500), and {liar.host} sent bytes" in told


async def test_nobody_listening_is_unavailable(zone: Zone) -> None:
    async with hostile(BLOB) as server:
        gone = server.url
    told = await refused(zone, Unavailable, gone)
    assert f"{server.host} could not be connected to" in told
    assert "check that the source is up and reachable from here, then try again" in told


async def test_a_name_that_does_not_resolve_is_said(zone: Zone) -> None:
    assert "has a name that does not resolve" in await refused(zone, Unavailable, "http://nobody.invalid/x?sig=secret")


async def test_silence_is_a_timeout(zone: Zone) -> None:
    async with hostile(BLOB, otherwise=bad.says_nothing) as server:
        told = await refused(zone, Timeout, server.url, settings=replace(IMPATIENT, attempts=1))
    assert f"{server.host} sent no byte for 1 s" in told


async def test_nothing_logged_holds_a_url(zone: Zone, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with hostile(BLOB, bad.status(500), bad.cut_after(10), bad.honest, otherwise=bad.flips(150_000)) as server:
        await refused(zone, Corrupt, server.url)
    assert server.host in caplog.text
    assert "secret" not in caplog.text
    assert "/blobs/" not in caplog.text


async def test_a_printed_traceback_holds_no_url(zone: Zone) -> None:
    async with hostile(BLOB, otherwise=bad.speaks(b"HTTP/1.1 zzz\r\n\r\n")) as server:
        with pytest.raises(Unavailable) as caught:
            await zone.pull(server.url)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


async def test_a_full_disk_ends_the_fetch_with_its_own_error(zone: Zone) -> None:
    def write(offset: int, data: bytes) -> None:
        raise NoSpace("the disk is full")

    async with hostile(BLOB) as server:
        with pytest.raises(NoSpace):
            await fetch(zone.session, [server.url], len(BLOB), _sha256(BLOB), write, SETTINGS, zone.seen.append)


async def test_an_empty_blob_needs_no_source(zone: Zone) -> None:
    await zone.pull(blob=b"")
    assert zone.stored() == b""


async def test_an_empty_blob_with_the_digest_of_another_is_corrupt(zone: Zone) -> None:
    with pytest.raises(Corrupt, match="empty blob"):
        await fetch(zone.session, [], 0, _sha256(BLOB), lambda *_: None, SETTINGS, zone.seen.append)
