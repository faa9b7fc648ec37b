"""`fedmarket etcd status` and the rest on real etcds: what they do, and what they say when they cannot."""

import asyncio
import hashlib
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from federation.etcd.child import ChildSettings, EmbeddedEtcd
from fedmarket.pb.etcd import rpc_pb2 as rpc
from fedmarket.pb.etcd import rpc_pb2_grpc as stubs
from tests.support.etcd import VERSIONS, EtcdFactory, EtcdServer
from tests.support.etcd_cluster import EtcdCluster
from tests.support.etcd_users import ROOT, ZONE, add_role, add_user, enable, let_in, wall
from tests.unit.cli.conftest import Ran
from zone_agent.cli.main import run

Fedmarket = Callable[..., Ran]

SMALL_QUOTA = 4 * 2**20
LARGE = b"x" * 100_000


def configure(directory: Path, endpoints: Sequence[str], *settings: str) -> Path:
    """Write the zone.toml of a zone whose etcd runs elsewhere, with these lines in [etcd] too."""
    file = directory / "zone.toml"
    lines = ["embedded = false", f"endpoints = {list(endpoints)}".replace("'", '"'), *settings]
    file.write_text(
        '[zone]\nid = 7\nname = "seven"\n[etcd]\n' + "\n".join(lines) + "\n[timeouts]\netcd_call_seconds = 2\n"
    )
    return file


def secret(directory: Path, name: str, text: str) -> Path:
    file = directory / name
    file.touch(mode=0o600)
    file.write_text(text)
    return file


@pytest.fixture
def fedmarket(capsys: pytest.CaptureFixture[str]) -> Fedmarket:
    """Run `fedmarket etcd` with these arguments."""

    def command(*arguments: object) -> Ran:
        capsys.readouterr()
        status = run(["etcd", *map(str, arguments)])
        return Ran(status, *capsys.readouterr())

    return command


@pytest.fixture(params=VERSIONS)
def server(request: pytest.FixtureRequest, etcd_factory: EtcdFactory) -> EtcdServer:
    return etcd_factory(f"--quota-backend-bytes={SMALL_QUOTA}", version=request.param)


@pytest.fixture
def config(server: EtcdServer, tmp_path: Path) -> Path:
    return configure(tmp_path, [server.endpoint])


def put(server: EtcdServer, times: int, value: bytes = b"value") -> None:
    """Overwrite one key."""
    with grpc.insecure_channel(server.endpoint) as channel:
        for _ in range(times):
            stubs.KVStub(channel).Put(rpc.PutRequest(key=b"key", value=value), timeout=30)


def fill(server: EtcdServer) -> None:
    """Overwrite one key until etcd has no space left for its history."""
    with suppress(grpc.RpcError):
        put(server, 1000, LARGE)


def test_status_tells_what_each_member_says_of_itself(fedmarket: Fedmarket, server: EtcdServer, config: Path) -> None:
    put(server, 3)
    (member,) = fedmarket("status", "--config", config, "--json").json

    assert (member["endpoint"], member["name"], member["leader"]) == (server.endpoint, "test", True)
    assert (member["revision"], member["alarms"], member["errors"]) == (4, [], [])
    assert member["db_bytes"] >= member["in_use_bytes"] > 0
    assert member["raft_index"] >= member["revision"]
    shown = fedmarket("status", "--config", config)
    assert (shown.status, shown.err) == (0, "")
    assert all(word in shown.out for word in ("DB SIZE", server.endpoint, member["version"]))


def test_members_are_listed_with_where_they_are(fedmarket: Fedmarket, server: EtcdServer, config: Path) -> None:
    (member,) = fedmarket("members", "--config", config, "--json").json

    assert (member["name"], member["learner"], member["answers"]) == ("test", False, True)
    assert member["client_urls"] == [f"http://{server.endpoint}"]
    assert int(member["id"], 16) > 0


def test_compact_leaves_the_history_that_somebody_may_want(
    fedmarket: Fedmarket, server: EtcdServer, config: Path
) -> None:
    put(server, 19)
    assert "nothing to compact" in fedmarket("compact", "--config", config).out
    assert fedmarket("compact", "--config", config, "--keep", 10, "--json").json["target"] == 10
    with grpc.insecure_channel(server.endpoint) as channel:
        kv = stubs.KVStub(channel)
        kept = kv.Range(rpc.RangeRequest(key=b"key", revision=10), timeout=30)
        with pytest.raises(grpc.RpcError, match="compacted"):
            kv.Range(rpc.RangeRequest(key=b"key", revision=9), timeout=30)
    assert kept.kvs[0].version == 9
    again = fedmarket("compact", "--config", config, "--revision", 10, "--json").json
    assert (again["compacted"], again["revision"]) == (False, 20)
    assert fedmarket("compact", "--config", config, "--revision", 21).status == 2
    assert fedmarket("compact", "--config", config, "--revision", 2, "--keep", 1).status == 2


def test_defrag_gives_space_back(fedmarket: Fedmarket, server: EtcdServer, config: Path) -> None:
    put(server, 20, LARGE)
    fedmarket("compact", "--config", config, "--keep", 0)
    (done,) = fedmarket("defrag", "--config", config, "--json").json["members"]

    assert done["before_bytes"] > 2_000_000
    assert done["after_bytes"] < 1_000_000


def test_a_full_etcd_is_shown_and_cured(fedmarket: Fedmarket, server: EtcdServer, config: Path) -> None:
    fill(server)
    (member,) = fedmarket("status", "--config", config, "--json").json
    assert member["alarms"] == ["NOSPACE"]
    for command in ("compact", "defrag", "disarm"):
        ran = fedmarket(command, "--config", config)
        assert (ran.status, ran.err) == (0, "")
    put(server, 1)
    assert fedmarket("disarm", "--config", config).out == "no alarm is on\n"


def test_a_snapshot_is_whole_private_and_never_over_another_file(
    fedmarket: Fedmarket, server: EtcdServer, config: Path, tmp_path: Path
) -> None:
    put(server, 1, b"something to be kept")
    file = tmp_path / "zone.snapshot"
    told = fedmarket("snapshot", file, "--config", config, "--json").json

    content = file.read_bytes()
    assert hashlib.sha256(content[:-32]).digest() == content[-32:] == bytes.fromhex(told["sha256"])
    assert b"something to be kept" in content
    assert (told["bytes"], told["revision"]) == (len(content), 2)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = fedmarket("snapshot", file, "--config", config)
    assert (again.status, "--force" in again.sentence) == (4, True)
    assert file.read_bytes() == content
    assert fedmarket("snapshot", file, "--config", config, "--force").status == 0


def test_an_etcd_that_does_not_answer_is_said_in_one_sentence(
    fedmarket: Fedmarket, server: EtcdServer, config: Path
) -> None:
    server.stop()
    for command in ("status", "members", "compact", "defrag", "disarm"):
        ran = fedmarket(command, "--config", config)
        assert (ran.status, ran.out, server.endpoint in ran.sentence) == (6, "", True)


# -- access control


@pytest.fixture
async def walled(etcd_factory: EtcdFactory, tmp_path: Path) -> tuple[EtcdServer, Path]:
    """An etcd that lets in users by their passwords, on loopback without TLS, and the zone.toml of its user."""
    server = etcd_factory()
    await wall(server)
    secret(tmp_path, "zone.password", ZONE.password)
    config = configure(tmp_path, [server.endpoint], f'user = "{ZONE.user}"', 'password_file = "zone.password"')
    return server, config


def test_a_zone_logs_in_and_what_only_root_may_do_says_so(
    fedmarket: Fedmarket, walled: tuple[EtcdServer, Path], tmp_path: Path
) -> None:
    _, config = walled
    assert fedmarket("status", "--config", config).status == 0
    assert fedmarket("compact", "--config", config, "--keep", 0).status == 0  # every user of etcd may
    for command in (("defrag",), ("snapshot", tmp_path / "s")):
        ran = fedmarket(*command, "--config", config)
        assert (ran.status, ran.out) == (5, "")
        assert ZONE.user in ran.sentence
        assert "--root-user" in ran.sentence
    assert not (tmp_path / "s").exists()
    as_root = ("--root-user", ROOT.user, "--root-password-file", secret(tmp_path, "root.password", ROOT.password))
    assert fedmarket("defrag", "--config", config, *as_root).status == 0
    assert fedmarket("snapshot", tmp_path / "s", "--config", config, *as_root).status == 0


def test_a_wrong_password_is_refused_and_not_shown(
    fedmarket: Fedmarket, walled: tuple[EtcdServer, Path], tmp_path: Path
) -> None:
    _, config = walled
    wrong = ("--root-user", ROOT.user, "--root-password-file", secret(tmp_path, "root.password", "open sesame"))
    ran = fedmarket("status", "--config", config, *wrong)
    assert (ran.status, "password" in ran.sentence) == (5, True)
    assert "open sesame" not in ran.err
    assert fedmarket("status", "--config", config, "--root-user", ROOT.user).status == 2


# -- a cluster


@pytest.fixture(params=VERSIONS)
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EtcdCluster]:
    made = EtcdCluster(tmp_path / "cluster", ("root", "fedmarket-zone-7"), version=request.param)
    try:
        made.start()
        asyncio.run(_wall(made))
        yield made
    finally:
        made.stop()


async def _wall(cluster: EtcdCluster) -> None:
    async with cluster.client("root") as client:
        for user in ("root", "fedmarket-zone-7"):
            await add_user(client, user)
        await add_role(client, "zone")
        await let_in(client, "fedmarket-zone-7", "zone")
        await enable(client)


def tls(cluster: EtcdCluster, user: str) -> list[str]:
    authority = cluster.authority
    files = {"tls_ca": authority.ca, "tls_cert": authority.certificate(user), "tls_key": authority.key(user)}
    return [f'{key} = "{file}"' for key, file in files.items()]


def test_every_member_of_a_cluster_is_seen_to_the_leader_last(
    fedmarket: Fedmarket, cluster: EtcdCluster, tmp_path: Path
) -> None:
    config = configure(tmp_path, cluster.endpoints, *tls(cluster, "fedmarket-zone-7"))
    root = ("--cert", cluster.authority.certificate("root"), "--key", cluster.authority.key("root"))

    status = fedmarket("status", "--config", config, "--json").json
    assert sorted(member["name"] for member in status) == ["m1", "m2", "m3"]
    assert [member["leader"] for member in status] == [False, False, True]
    denied = fedmarket("defrag", "--config", config)
    assert (denied.status, "--cert and --key" in denied.sentence) == (5, True)
    done = fedmarket("defrag", "--config", config, *root, "--json").json["members"]
    assert [member["name"] for member in done] == [member["name"] for member in status]
    assert fedmarket("snapshot", tmp_path / "s", "--config", config, *root).status == 0

    one = configure(tmp_path, cluster.endpoints[:1], *tls(cluster, "root"))
    left_out = fedmarket("defrag", "--config", one)
    assert (left_out.status, "m2, m3" in left_out.sentence) == (6, True)
    assert [member["answers"] for member in fedmarket("members", "--config", one, "--json").json].count(False) == 2

    follower = next(member for member in cluster.members if member.endpoint == status[0]["endpoint"])
    follower.stop()
    config = configure(tmp_path, cluster.endpoints, *tls(cluster, "root"))
    silent = [each for each in fedmarket("status", "--config", config, "--json").json if each["errors"]]
    assert [each["endpoint"] for each in silent] == [follower.endpoint]
    assert fedmarket("compact", "--config", config, "--keep", 0).status == 0
    assert f"zone.toml: {status[0]['name']};" in fedmarket("defrag", "--config", config).sentence


# -- an embedded etcd


def embedded(directory: Path) -> Path:
    file = directory / "zone.toml"
    file.write_text('[zone]\nid = 7\nname = "seven"\n[etcd]\nquota_mb = 16\n')
    return file


async def test_an_embedded_etcd_is_found_while_its_agent_runs(fedmarket: Fedmarket, tmp_path: Path) -> None:
    config = embedded(tmp_path)

    async def asked() -> Ran:
        return await asyncio.to_thread(fedmarket, "status", "--config", config, "--json")

    async with EmbeddedEtcd(tmp_path / "etcd", ChildSettings()) as child:
        (member,) = (await asked()).json
        assert (member["endpoint"], member["quota_bytes"]) == (child.endpoint, 16 * 2**20)
        stale = child.endpoint
    stopped = await asked()
    assert (stopped.status, "fedmarket agent run" in stopped.sentence) == (6, True)
    (tmp_path / "etcd" / "endpoint").write_text(stale)  # as a kill leaves it
    killed = await asked()
    assert (killed.status, killed.sentence) == (6, stopped.sentence)
    async with EmbeddedEtcd(tmp_path / "other", ChildSettings()) as other:
        (tmp_path / "etcd" / "endpoint").write_text(other.endpoint)
        of_another = await asked()
    assert (of_another.status, of_another.sentence) == (6, stopped.sentence)
