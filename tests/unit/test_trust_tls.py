import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from federation.trust import Identity, TlsSettings, ZoneKey
from federation.trust.tls import ServerCertificates
from fedmarket.errors import ConfigError, NotFound

BERLIN, TOKYO = 0, 100
BOUND_SECONDS = 30


class Clock:
    """A clock that a test sets; one that fails when it is set to None."""

    def __init__(self) -> None:
        self.now: datetime | None = datetime(2026, 5, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        if self.now is None:
            raise OSError("no clock")
        return self.now

    def advance(self, by: timedelta) -> None:
        self.now = self() + by


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokyo() -> ZoneKey:
    return ZoneKey.generate()


@pytest.fixture
def berlin(clock: Clock, tokyo: ZoneKey) -> Identity:
    return Identity(BERLIN, ZoneKey.generate(), {TOKYO: tokyo.public}, clock=clock)


def test_a_port_goes_on_with_its_certificate_while_nothing_changes(berlin: Identity, clock: Clock) -> None:
    certificates = ServerCertificates(berlin)
    clock.advance(timedelta(hours=11, minutes=59))
    assert certificates() is None


def test_a_port_renews_its_certificate_at_half_of_its_life(berlin: Identity, clock: Clock) -> None:
    certificates = ServerCertificates(berlin)
    clock.advance(TlsSettings().leaf_lifetime / 2)
    assert certificates() is not None
    assert certificates() is None


def test_a_port_renews_its_certificate_when_the_clock_is_set_back(berlin: Identity, clock: Clock) -> None:
    certificates = ServerCertificates(berlin)
    clock.advance(-timedelta(days=365))
    assert certificates() is not None
    assert certificates() is None


def test_every_port_learns_that_the_peers_changed(berlin: Identity) -> None:
    ports = [ServerCertificates(berlin), ServerCertificates(berlin)]
    berlin.set_peers({})
    assert all(port() is not None for port in ports)
    assert all(port() is None for port in ports)


def test_a_failure_to_renew_is_logged_and_does_not_reach_grpc(
    berlin: Identity, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    certificates = ServerCertificates(berlin)
    clock.now = None
    with caplog.at_level(logging.WARNING):
        assert certificates() is None
    assert "could not be renewed" in caplog.text
    clock.now = datetime(2026, 5, 2, 12, tzinfo=UTC)
    assert certificates() is not None


def test_threads_that_come_at_once_renew_once(berlin: Identity) -> None:
    certificates, threads = ServerCertificates(berlin), 8
    start = threading.Barrier(threads)

    def connect() -> bool:
        start.wait(BOUND_SECONDS)
        return certificates() is not None

    berlin.set_peers({TOKYO: ZoneKey.generate().public})
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(connect) for _ in range(threads)]
        assert sum(future.result(BOUND_SECONDS) for future in futures) == 1


def test_a_channel_is_made_for_one_peer_by_its_name(berlin: Identity, clock: Clock) -> None:
    made = berlin.channel_credentials(TOKYO)
    assert made.options == (("grpc.ssl_target_name_override", "zone-100.fedmarket"),)
    assert made.renew_at == clock() + timedelta(hours=12)


def test_there_is_no_channel_to_a_zone_that_is_no_peer(berlin: Identity) -> None:
    with pytest.raises(NotFound, match="zone 7 is no peer of zone 0"):
        berlin.channel_credentials(7)


def test_refuses_a_peer_with_its_own_id(berlin: Identity, tokyo: ZoneKey) -> None:
    with pytest.raises(ConfigError, match="id 0, which is this zone's own"):
        berlin.set_peers({BERLIN: tokyo.public})
    assert dict(berlin.trust.pinned) == {TOKYO: tokyo.public}


def test_refuses_one_key_for_two_zones(tokyo: ZoneKey) -> None:
    with pytest.raises(ConfigError, match="zones 100 and 7 have the same key"):
        Identity(BERLIN, ZoneKey.generate(), {TOKYO: tokyo.public, 7: tokyo.public})
    with pytest.raises(ConfigError, match="zones 0 and 100 have the same key"):
        Identity(BERLIN, tokyo, {TOKYO: tokyo.public})


def test_a_change_of_the_mapping_given_does_not_change_the_trust(clock: Clock, tokyo: ZoneKey) -> None:
    peers = {TOKYO: tokyo.public}
    berlin = Identity(BERLIN, ZoneKey.generate(), peers, clock=clock)
    peers.clear()
    assert list(berlin.trust.pinned) == [TOKYO]
