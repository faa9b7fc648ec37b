"""Certificates are watched: an alarm in time before the end, another after it, none for what is well."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from zone_agent.config import load
from zone_agent.upkeep.alarms import Alarms
from zone_agent.upkeep.certificates import Certificates, Watched, watched

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(days: float) -> bytes:
    """Return a certificate that lives so long from BEGIN on."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    builder = x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=KEY.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(BEGIN).not_valid_after(BEGIN + timedelta(days=days))
    return builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class Watch:
    """Looks at one file at a day that the test says."""

    def __init__(self, file: Path, *, authorities: bool = False) -> None:
        self._alarms = Alarms()
        self._day = 0.0
        files = [Watched("[http] tls_cert", file, authorities)]
        clock = lambda: BEGIN + timedelta(days=self._day)  # noqa: E731 -- of this test
        self._certificates = Certificates(lambda: files, self._alarms, clock)

    async def at(self, day: float) -> str:
        """Return the alarm of that day after BEGIN; empty: none."""
        self._day = day
        await self._certificates.look()
        return "".join(self._alarms.current())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "server.crt"


async def test_the_alarm_comes_21_days_before_the_end_and_names_file_setting_and_date(file: Path) -> None:
    file.write_bytes(certificate(365))
    watch = Watch(file)

    assert await watch.at(343.9) == ""
    soon = await watch.at(344)
    assert all(part in soon for part in (str(file), "[http] tls_cert", "2027-01-01 00:00 UTC", "in 21 days"))
    assert "has ended, on 2027-01-01" in await watch.at(365)


async def test_one_that_lives_for_a_week_is_renewed_in_its_last_days(file: Path) -> None:
    file.write_bytes(certificate(9))
    watch = Watch(file)

    assert await watch.at(5.9) == ""
    assert "in 3 days" in await watch.at(6)


async def test_a_file_is_read_anew_each_time(file: Path) -> None:
    file.write_bytes(certificate(30))
    watch = Watch(file)
    assert await watch.at(25)
    file.write_bytes(certificate(365))
    assert await watch.at(25) == ""
    file.unlink()
    assert "cannot be read (No such file" in await watch.at(25)
    file.write_text("nonsense")
    assert "it holds no certificate in PEM" in await watch.at(25)


async def test_of_a_chain_the_first_end_counts_and_of_authorities_the_last(file: Path) -> None:
    file.write_bytes(certificate(400) + certificate(100))
    assert "has ended" in await Watch(file).at(101)
    assert await Watch(file, authorities=True).at(101) == ""


def test_every_file_that_is_set_is_watched(tmp_path: Path, file: Path) -> None:
    file.write_bytes(certificate(365))
    listener = 'tls_cert = "server.crt"\ntls_key = "server.crt"\n'
    (tmp_path / "zone.toml").write_text(
        f'[zone]\nid = 1\nname = "one"\n[http]\n{listener}[grpc]\n{listener}'
        f'[etcd]\nembedded = false\nendpoints = ["127.0.0.1:1"]\ntls_ca = "server.crt"\n{listener}'
    )
    found = watched(load(tmp_path / "zone.toml"))
    settings = ["[http] tls_cert", "[grpc] tls_cert", "[etcd] tls_cert", "[etcd] tls_ca"]
    assert [each.setting for each in found] == settings
    assert {each.file for each in found} == {file}
