"""What is kept for a while only: it goes when its time is over, not before, and nothing else goes with it."""

import pytest

from federation.expiry import MARK_SECONDS, PAGE, Marks, expire
from federation.keys import Keyspace
from federation.memory import MemoryStore, Moment
from federation.store import KeyValue, Txn
from fedmarket.pb.fedmarket.v1.peer_pb2 import RequestRecord
from tests.support.stores import put
from zone_agent.upkeep.expiry import Expiry

DAY = 86400
MONTH = 30 * DAY
KEYS = Keyspace("/fedmarket/1/", 1)
LOST = f"{KEYS.replica(2)}lost/3/app/"


class Clock:
    """The wall clock of a test, in Unix seconds."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def expiry(store: MemoryStore, clock: Clock) -> Expiry:
    return Expiry(store, KEYS, [2], clock)


async def below(store: MemoryStore, prefix: str) -> list[str]:
    return [item.key.removeprefix(prefix) for item in (await store.snapshot(prefix)).items]


async def test_what_is_old_is_deleted_page_by_page(store: MemoryStore) -> None:
    for number in range(2 * PAGE + 50):
        await put(store, f"/a/{number}")
    await put(store, "/b/1")
    last = await put(store, "/a/new")

    assert await expire(store, "/a/", lambda item: item.mod_revision < last) == 2 * PAGE + 50
    assert await below(store, "/") == ["a/new", "b/1"]


async def test_what_changes_meanwhile_is_left_for_the_next_time(store: MemoryStore) -> None:
    await put(store, "/a/1")

    def overtake(txn: Txn, moment: Moment) -> None:
        if moment == "before" and txn.deletes:
            store._items["/a/1"] = KeyValue("/a/1", b"new", 99)

    store.fault = overtake
    assert await expire(store, "/a/", lambda item: True) == 0
    assert await below(store, "/a/") == ["1"]


async def test_lost_records_go_after_their_days_and_no_sooner(store: MemoryStore, expiry: Expiry, clock: Clock) -> None:
    await put(store, f"{LOST}200")
    await put(store, f"{KEYS.replica(2)}app/300")
    for _ in range(30):
        await expiry.lost(MONTH)
        clock.now += DAY
    late = await put(store, f"{LOST}201")
    assert await below(store, LOST) == ["200", "201"]
    await expiry.lost(MONTH)
    assert await below(store, LOST) == ["201"]
    for _ in range(31):
        clock.now += DAY
        await expiry.lost(MONTH)
    assert late
    assert await below(store, KEYS.replica(2)) == ["app/300"]


async def test_marks_are_few(store: MemoryStore, clock: Clock) -> None:
    marks = Marks(store, KEYS.marks, clock)
    for _ in range(24 * 40):
        await marks.reached(MONTH)
        clock.now += 3600
    item = await store.get(KEYS.marks)
    assert item is not None
    assert item.value.count(b"[") - 1 <= MONTH / MARK_SECONDS + 2


@pytest.mark.parametrize("damaged", [b"", b"{}", b"[[1]]", b'[["a", "b"]]', b"\xff"])
async def test_marks_that_cannot_be_read_begin_anew(store: MemoryStore, clock: Clock, damaged: bytes) -> None:
    await put(store, KEYS.marks, damaged)
    marks = Marks(store, KEYS.marks, clock)
    assert await marks.reached(MONTH) == 0
    clock.now += MONTH
    assert await marks.reached(MONTH) > 0


async def test_marks_of_another_store_or_clock_count_for_nothing(store: MemoryStore, clock: Clock) -> None:
    marks = Marks(store, KEYS.marks, clock)
    long_ago = int(clock.now) - 2 * MONTH
    await put(store, KEYS.marks, f"[[1000, {long_ago}]]".encode())  # of a store that had come further
    assert await marks.reached(MONTH) == 0
    await put(store, KEYS.marks, f"[[1, {long_ago}], [2, {int(clock.now) + DAY}]]".encode())  # the clock went back
    assert await marks.reached(MONTH) == 0


async def test_requests_go_when_they_are_old_unless_they_are_being_made(
    store: MemoryStore, expiry: Expiry, clock: Clock
) -> None:
    records = {
        "old": RequestRecord(time=int(clock.now) - 8 * DAY),
        "running": RequestRecord(time=int(clock.now) - 8 * DAY, running=True),
        "new": RequestRecord(time=int(clock.now) - 6 * DAY),
    }
    for name, record in records.items():
        await put(store, KEYS.request(2, name), record.SerializeToString())
    await put(store, KEYS.request(2, "strange"), b"\xff\xff")

    await expiry.requests(7 * DAY)

    assert await below(store, f"{KEYS.requests}2/") == ["new", "running", "strange"]
