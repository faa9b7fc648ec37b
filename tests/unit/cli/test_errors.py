import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from fedmarket.errors import CAUSES, FedmarketError, cause_of
from fedmarket.pb.fedmarket.v1 import market_pb2
from tests.unit.cli.conftest import Fedmarket
from tests.unit.cli.fake_agent import FakeAgent

TINY = "0.3"


@pytest.mark.parametrize("cls", [cls for cls in CAUSES if cls is not FedmarketError])
def test_an_error_of_the_agent_is_its_sentence_and_its_exit_code(
    fedmarket: Fedmarket, agent: FakeAgent, cls: type[FedmarketError]
) -> None:
    agent.error = cls("this is wrong: do that")

    for json in ([], ["--json"]):
        ran = fedmarket("app", "list", *json)
        assert ran.sentence == "this is wrong: do that"
        assert (ran.status, ran.out) == (cause_of(cls).exit_code, "")


def test_a_sentence_stays_one_line(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    agent.error = FedmarketError("first\nsecond \x1b[2J")

    assert fedmarket("app", "list").sentence == "first second  [2J"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read (No such file"),
        ("", "is empty"),
        (" \n", "is empty"),
        ("oneadmin", "does not hold user:secret"),
        (":secret", "does not hold user:secret"),
        ("user:", "does not hold user:secret"),
        ("user:hidden\nuser:hidden", "does not hold user:secret"),
    ],
)
def test_a_credentials_file_that_is_none_is_named(
    fedmarket: Fedmarket, tmp_path: Path, content: str | None, says: str
) -> None:
    file = tmp_path / "odd"
    if content is not None:
        file.write_text(content)

    ran = fedmarket("--credentials", file, "zone", "list")

    assert ran.status == 2
    assert str(file) in ran.sentence
    assert says in ran.sentence
    assert "hidden" not in ran.err


def test_a_directory_as_credentials_is_refused(fedmarket: Fedmarket, tmp_path: Path) -> None:
    ran = fedmarket("--credentials", tmp_path, "zone", "list")

    assert ran.status == 2
    assert "Is a directory" in ran.sentence


def test_no_credentials_at_all_says_where_they_come_from(bare: Fedmarket) -> None:
    ran = bare("zone", "list")

    assert ran.status == 2
    assert "FEDMARKET_CREDENTIALS" in ran.sentence


def test_wrong_credentials_are_the_agents_sentence(fedmarket: Fedmarket, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("oneadmin:guess")

    ran = fedmarket("--credentials", tmp_path / "other", "zone", "list")

    assert ran.status == 5
    assert "credentials" in ran.sentence
    assert "guess" not in ran.err


@pytest.mark.parametrize(
    "endpoint", ["nonsense", "host:99999", "http://host:1", ":7634", "[::1:7634", "host:1/path", "https://"]
)
def test_an_endpoint_that_is_none_is_refused(fedmarket: Fedmarket, endpoint: str) -> None:
    ran = fedmarket("zone", "list", "--endpoint", endpoint)

    assert ran.status == 2
    assert "endpoint" in ran.sentence


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_a_timeout_that_is_none_is_refused(fedmarket: Fedmarket, seconds: str) -> None:
    ran = fedmarket("zone", "list", f"--timeout={seconds}")

    assert ran.status == 2
    assert "--timeout" in ran.sentence


def test_nobody_listening_is_said(fedmarket: Fedmarket) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{closed.getsockname()[1]}"
        ran = fedmarket("zone", "list", "--endpoint", endpoint)

    assert ran.status == 6
    assert ran.sentence == f"no agent listens at {endpoint}: start it, or give its address by --endpoint"


def test_an_agent_that_does_not_answer_in_time_is_said(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    agent.silent = True

    ran = fedmarket("zone", "list", "--timeout", TINY)

    assert ran.status == 6
    assert "did not answer within 0.3 s" in ran.sentence


def test_a_change_without_an_answer_is_unknown(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    agent.silent = True
    agent.markets = [market_pb2.Market(id=1)]

    for command in (["market", "create", "--name", "m", "--driver", "http"], ["market", "delete", "1"]):
        ran = fedmarket(*command, "--timeout", TINY)
        assert ran.status == 7
        assert "may or may not" in ran.sentence


def test_a_change_that_was_never_sent_is_not_unknown(fedmarket: Fedmarket) -> None:
    assert fedmarket("market", "delete", "1", "--endpoint", "127.0.0.1:1").status == 6


def test_a_connection_that_breaks_under_a_change_leaves_it_unknown(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    agent.silent = True
    stopper = threading.Thread(target=_stop_once_asked, args=(agent,))
    stopper.start()

    ran = fedmarket("market", "delete", "1")
    stopper.join()

    assert ran.status == 7
    assert "may or may not" in ran.sentence


def _stop_once_asked(agent: FakeAgent) -> None:
    assert agent.was_asked.wait(60)
    agent.stop()


Answer = Callable[[socket.socket], None]


def _http_1(peer: socket.socket) -> None:
    peer.recv(4096)
    peer.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def _ssh(peer: socket.socket) -> None:
    peer.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    peer.recv(4096)


def _hang_up(_peer: socket.socket) -> None:
    pass


@pytest.fixture
def stranger() -> Iterator[Callable[[Answer], str]]:
    """Listens as something that is no agent."""
    listeners: list[socket.socket] = []

    def listen(answer: Answer) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    answer(peer)

        threading.Thread(target=serve, daemon=True).start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield listen
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.mark.parametrize(
    ("answer", "scheme", "says"),
    [
        (_http_1, "", "does not speak gRPC"),
        (_ssh, "", "does not speak gRPC"),
        (_hang_up, "", "closed the connection"),
        (_ssh, "https://", "does not speak TLS"),
        (_hang_up, "tls://", "closed the connection"),
    ],
)
def test_another_protocol_at_the_endpoint_is_said(
    fedmarket: Fedmarket, stranger: Callable[[Answer], str], answer: Answer, scheme: str, says: str
) -> None:
    ran = fedmarket("zone", "list", "--endpoint", f"{scheme}{stranger(answer)}", "--timeout", "5")

    assert ran.status == 6
    assert says in ran.sentence


def test_another_grpc_server_at_the_endpoint_is_said(fedmarket: Fedmarket) -> None:
    from concurrent.futures import ThreadPoolExecutor

    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        ran = fedmarket("zone", "list", "--endpoint", f"127.0.0.1:{port}")
    finally:
        server.stop(None).wait()

    assert ran.status == 1
    assert "does not know this command" in ran.sentence


@pytest.fixture(scope="module")
def certificate() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agent")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem, built.public_bytes(Encoding.PEM)


@pytest.fixture
def tls_agent(certificate: tuple[bytes, bytes]) -> Iterator[FakeAgent]:
    agent = FakeAgent(grpc.ssl_server_credentials([certificate]))
    yield agent
    agent.stop()


def test_a_tls_endpoint_is_reached_with_its_ca(
    fedmarket: Fedmarket, tls_agent: FakeAgent, certificate: tuple[bytes, bytes], tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(certificate[1])

    for scheme in ("https", "tls"):
        ran = fedmarket("zone", "list", "--endpoint", f"{scheme}://{tls_agent.endpoint}", "--ca-file", ca, "--json")
        assert (ran.status, ran.err) == (0, "")


def test_what_is_wrong_with_tls_is_said(
    fedmarket: Fedmarket, tls_agent: FakeAgent, certificate: tuple[bytes, bytes], tmp_path: Path
) -> None:
    ca, junk = tmp_path / "ca.pem", tmp_path / "junk.pem"
    ca.write_bytes(certificate[1])
    junk.write_text("no certificate")
    port = tls_agent.port
    cases: list[tuple[list[object], int, str]] = [
        ([f"127.0.0.1:{port}"], 6, "write https://"),
        ([f"https://127.0.0.1:{port}"], 6, "not trusted"),
        ([f"https://localhost:{port}", "--ca-file", ca], 6, "for another name"),
        ([f"https://127.0.0.1:{port}", "--ca-file", junk], 6, "no usable certificate"),
        ([f"https://127.0.0.1:{port}", "--ca-file", tmp_path / "missing"], 2, "cannot be read"),
        ([f"127.0.0.1:{port}", "--ca-file", ca], 2, "plaintext"),
    ]
    for args, status, says in cases:
        ran = fedmarket("zone", "list", "--endpoint", *args)
        assert ran.status == status
        assert says in ran.sentence


@pytest.mark.parametrize(
    "args", [["nonsense"], ["app", "lst"], ["app", "show"], ["app", "list", "--nonsense"], ["market", "create"]]
)
def test_a_usage_error_is_one_sentence(bare: Fedmarket, args: list[str]) -> None:
    ran = bare(*args)

    assert ran.status == 2
    assert "--help` tells how" in ran.sentence


def test_a_fault_of_our_own_shows_no_traceback(
    fedmarket: Fedmarket, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zone_agent.cli.commands.zone.COLUMNS", None)

    ran = fedmarket("zone", "list")

    assert ran.status == 1
    assert "a fault of fedmarket itself (TypeError" in ran.sentence
