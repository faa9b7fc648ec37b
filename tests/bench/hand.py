"""One more agent of a zone, in the bench's own process, that only writes: the hand that makes and changes apps."""

import asyncio
import base64
import hashlib
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from federation.catalog import Catalog
from federation.commit import Origin
from federation.draft import Draft
from federation.etcd.client import connect
from federation.etcd.store import EtcdStore
from federation.head import FEDERATION
from federation.highwater import HighWater
from federation.keys import FIRST_FEDERATED, IDS_PER_ZONE, Keyspace
from federation.opening import open_catalog
from federation.trust.keys import ZoneKey
from federation.writer import Committed, Writer, WriterSettings
from fedmarket.pb.fedmarket.v1.record_pb2 import (
    APP_STATE_READY,
    APP_TYPE_IMAGE,
    AppRecord,
    Attribute,
    MarketRecord,
    Owner,
    Template,
)
from zone_agent.config import load

BATCH = 90
"""Apps that one commit takes."""
DESCRIPTION = (
    "Debian 12 with the current security updates, cloud-init and contextualisation, one disk of 8 GiB on a virtio bus, "
    "for KVM hosts. The password of root is locked: give a key in the template."
)
GUEST_TEMPLATE = b"""CPU = "1"
MEMORY = "1024"
OS = [ ARCH = "x86_64" ]
GRAPHICS = [ LISTEN = "0.0.0.0", TYPE = "vnc" ]
CONTEXT = [ NETWORK = "YES", SSH_PUBLIC_KEY = "$USER[SSH_PUBLIC_KEY]" ]
SCHED_REQUIREMENTS = "HYPERVISOR = kvm"
"""


def app(number: int, market: int) -> AppRecord:
    """Return an app as a market's users see it; with its envelope and key some 850 bytes."""
    sha256 = hashlib.sha256(str(number).encode())
    attributes = {
        "DESCRIPTION": DESCRIPTION,
        "VERSION": "12.5-1",
        "TAGS": "debian, linux, server",
        "APPTEMPLATE64": base64.b64encode(GUEST_TEMPLATE).decode(),
    }
    return AppRecord(
        name=f"Debian 12 build {number}",
        owner=Owner(zone=0, uid=2, gid=1),
        mode=0o644,
        register_time=1_700_000_000 + number,
        market_id=market,
        state=APP_STATE_READY,
        type=APP_TYPE_IMAGE,
        origin_id=number,
        source=f"http://market.berlin.example:7633/blobs/{market}/{sha256.hexdigest()}",
        object=sha256.hexdigest(),
        format="qcow2",
        md5=sha256.digest()[:16],
        sha256=sha256.digest(),
        size_bytes=734_003_200,
        virtual_bytes=8_589_934_592,
        template=Template(attributes=[Attribute(name=name, value=value) for name, value in attributes.items()]),
    )


class Hand:
    """Makes and changes the apps of one zone, through the writer that agents use."""

    def __init__(self, catalog: Catalog, writer: Writer) -> None:
        self._first = catalog.home * IDS_PER_ZONE + FIRST_FEDERATED
        self._catalog = catalog
        self._writer = writer

    @property
    def root(self) -> str:
        """The root of the records as they are now, as hex."""
        return self._catalog.tree.root.hex()

    async def market(self) -> int:
        """Make a market."""
        return (await self._writer.commit(lambda draft: draft.create(MarketRecord(name="apps")))).value

    async def make(self, count: int) -> int:
        """Make a market and `count` apps in it, and return the market's id."""
        market = await self.market()
        for start in range(0, count, BATCH):
            await self.add(range(start, min(start + BATCH, count)), market)
        return market

    async def add(self, numbers: Iterable[int], market: int) -> None:
        """Make apps in one commit."""
        apps = [app(number, market) for number in numbers]
        await self._writer.commit(lambda draft: [draft.create(one) for one in apps])

    async def change(self, number: int) -> Committed[None]:
        """Give one app another version, in a commit of its own unless others change some at the same time."""
        return await self.change_all([number])

    async def change_all(self, numbers: Sequence[int]) -> Committed[None]:
        """Give apps another version, in one commit."""

        def change(draft: Draft) -> None:
            for number in numbers:
                record = draft.get(AppRecord, self._first + number)
                assert record is not None
                release = int(record.message.template.attributes[1].value.rpartition("-")[2]) % 9 + 1
                record.message.template.attributes[1].value = f"12.5-{release}"
                draft.put(self._first + number, record)

        return await self._writer.commit(change)


@asynccontextmanager
async def hand_of(path: Path) -> AsyncGenerator[Hand, None]:
    """Be one more agent of a zone, given by its zone.toml, whose own agent, and with it its etcd, runs."""
    config = load(path)
    key, keyspace = ZoneKey.load(config.layout.key), Keyspace(config.etcd.prefix, config.zone.id)
    catalog = Catalog(config.zone.id, keyspace.own, key.public, own=True)
    origin = Origin(config.zone.id, FEDERATION, keyspace.own, key, "bench")
    async with connect([f"127.0.0.1:{config.etcd.client_port}"]) as client, asyncio.TaskGroup() as tasks:
        store = EtcdStore(client)
        await open_catalog(store, origin, HighWater(config.layout.high_water), int(time.time() * 1000))
        writer = Writer(store, catalog, origin, WriterSettings())
        running = [tasks.create_task(catalog.follow(store)), tasks.create_task(writer.run())]
        try:
            await catalog.wait_listed()
            yield Hand(catalog, writer)
        finally:
            for task in running:
                task.cancel()
