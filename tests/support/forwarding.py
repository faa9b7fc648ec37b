"""Two zones whose network and etcd lose, double and delay what they are given, and their users, in virtual time."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from federation.draft import Draft
from federation.head import Pair
from federation.memory import MemoryStore
from federation.requests import Requests
from federation.store import StoreUnavailable, Txn, TxnResult
from fedmarket.errors import FedmarketError, OutcomeUnknown, Timeout, Unavailable, error_of
from fedmarket.pb.fedmarket.v1.change_pb2 import Delete, Verb
from fedmarket.pb.fedmarket.v1.peer_pb2 import ForwardRequest, ForwardResponse, Refusal, SettleRequest
from fedmarket.pb.fedmarket.v1.record_pb2 import AppRecord, MarketRecord
from fedmarket.retry import Backoff
from tests.support.agent import AgentZone
from tests.support.virtual_time import VirtualTimeLoop
from zone_agent.services.changes import ChangeService
from zone_agent.services.forwarding import Forwarder
from zone_agent.services.once import Once
from zone_agent.services.principal import Principal

T = TypeVar("T")

BERLIN, TOKYO = 0, 100
MARKETS = 12
CALL_SECONDS = 2.0
DEADLINE_SECONDS = 6.0
LATEST_SECONDS = 20.0
"""How long a message may be under way, far beyond the deadline of whoever sent it."""
DELETE = Verb(delete=Delete())


class Chance:
    """What goes wrong, and how often, until it is healed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.faulty = False
        self.late: set[asyncio.Task[object]] = set()
        """What is still under way."""

    def happens(self, share: float) -> bool:
        return self.faulty and self.random.random() < share

    def later(self, work: Callable[[], Awaitable[object]]) -> None:
        """Do something when nobody waits for it any more."""

        async def run() -> None:
            await asyncio.sleep(self.random.random() * LATEST_SECONDS)
            with suppress(FedmarketError):  # nobody is there to be told
                await work()

        task = asyncio.create_task(run())
        self.late.add(task)
        task.add_done_callback(self.late.discard)


class Ledger(MemoryStore):
    """Berlin's etcd, which counts how often each record was written."""

    def __init__(self, chance: Chance) -> None:
        super().__init__()
        self.written: Counter[str] = Counter()
        self._chance = chance

    async def txn(self, txn: Txn) -> TxnResult:
        if self._chance.happens(0.05):
            if self._chance.happens(0.5):
                self._chance.later(lambda: self._apply_late(txn))
            raise StoreUnavailable("etcd does not answer")
        if self._chance.happens(0.5):
            await asyncio.sleep(self._chance.random.random() * CALL_SECONDS)
        result = await super().txn(txn)
        if self._chance.happens(0.05):
            raise StoreUnavailable("etcd's answer is lost")
        return result

    async def _apply_late(self, txn: Txn) -> None:
        self._apply(txn)

    def _apply(self, txn: Txn) -> TxnResult:
        result = super()._apply(txn)
        if result.succeeded:
            self.written.update(key.rpartition("catalog/0/")[2] for key in [*txn.puts, *txn.deletes])
        return result


class Network:
    """How tokyo asks berlin, one of whose agents answers, if any does."""

    def __init__(self, chance: Chance, agents: list[ChangeService]) -> None:
        self._chance = chance
        self._agents = agents

    async def reach(self, zone: int) -> None:
        if self._chance.happens(0.1):
            raise Unavailable("no connection")

    async def forward(self, zone: int, request: ForwardRequest) -> ForwardResponse:
        agent = self._chance.random.choice(self._agents)
        return await self._carry(
            lambda: agent.decide_for_peer(TOKYO, ForwardRequest.FromString(request.SerializeToString()))
        )

    async def settle(self, zone: int, request: SettleRequest) -> ForwardResponse:
        agent = self._chance.random.choice(self._agents)
        return await self._carry(lambda: agent.settle_for_peer(TOKYO, request.request_id))

    async def _carry(self, ask: Callable[[], Awaitable[T]]) -> T:
        if self._chance.happens(0.2):
            self._chance.later(ask)  # a copy of it
        if self._chance.happens(0.4):
            if self._chance.happens(0.5):
                self._chance.later(ask)
            await asyncio.sleep(CALL_SECONDS)
            raise Timeout("berlin said nothing")
        try:
            async with asyncio.timeout(CALL_SECONDS):
                answer = await ask()
        except TimeoutError as error:
            raise Timeout("berlin said nothing") from error
        if self._chance.happens(0.3):
            raise Unavailable("the answer was lost")
        return answer


class Model:
    """Berlin with two agents, tokyo, its users, and what each was answered."""

    def __init__(self, chance: Chance, store: Ledger, agents: list[AgentZone], tokyo: AgentZone) -> None:
        self.chance = chance
        self.store = store
        self.agents = agents
        homes = [changes_of(agent, NoNetwork()) for agent in agents]
        self.network = Network(chance, homes)
        self.tokyo = changes_of(tokyo, self.network)
        self.answers: defaultdict[str, list[str]] = defaultdict(list)

    async def ask(self, market: int, request: str, verb: Verb = DELETE) -> None:
        """Ask for a change, as a user of tokyo, and note what was answered."""
        await self._note(request, self.tokyo.change(Principal(TOKYO, 0, 0), "market", market, verb, request))

    async def resolve(self, request: str) -> None:
        """Make a request definite, and note what was answered."""

        async def resolved() -> None:
            outcome = await self.tokyo.resolve(request, BERLIN)
            if isinstance(outcome, Refusal):
                raise error_of(outcome.code, outcome.text)

        await self._note(request, resolved())

    async def _note(self, request: str, call: Awaitable[object]) -> None:
        begun = asyncio.get_running_loop().time()
        try:
            await call
            answer = "done"
        except OutcomeUnknown as error:
            answer = "unknown" if request in error.message else f"unknown, without its id: {error.message}"
        except Unavailable:
            answer = "not sent"
        except FedmarketError:
            answer = "refused"
        assert asyncio.get_running_loop().time() - begun < DEADLINE_SECONDS + 2 * CALL_SECONDS, "it ends in time"
        self.answers[request].append(answer)

    def made(self, market: int) -> int:
        """Return how often a market was deleted."""
        return self.store.written[f"market/{market}"]


class NoNetwork:
    """Berlin asks nobody."""

    async def reach(self, zone: int) -> None:
        raise AssertionError(f"zone {zone} was dialled")

    async def forward(self, zone: int, request: ForwardRequest) -> ForwardResponse:
        raise AssertionError(f"zone {zone} was asked")

    async def settle(self, zone: int, request: SettleRequest) -> ForwardResponse:
        raise AssertionError(f"zone {zone} was asked")


def changes_of(zone: AgentZone, network: Network | NoNetwork) -> ChangeService:
    async def wait_visible(home: int, pair: Pair) -> None:
        await zone.view.replicas[home].wait_for(pair, 5.0)

    forwarder = Forwarder(network, str, wait_visible, DEADLINE_SECONDS, Backoff(longest_seconds=4.0))
    once = Once(Requests(zone.store, zone.keyspace), 5.0)
    return ChangeService(zone.catalogs, once, forwarder, zone.markets, zone.apps, zone.images)


async def _market(home: AgentZone, name: str) -> int:
    """Create a market, which is not measured: there are no threads here."""
    record = MarketRecord(name=name, owner=home.admin.owner(), driver="http")
    return await home.catalogs.change(lambda draft: draft.create(record), private=False)


@asynccontextmanager
async def model(seed: int, directory: Path) -> AsyncGenerator[Model, None]:
    random.seed(seed)  # of the pauses between two tries
    chance = Chance(seed)
    store = Ledger(chance)
    async with AsyncExitStack() as stack:
        agents = [
            await stack.enter_async_context(AgentZone(directory, BERLIN, store=store, agent=name))
            for name in ("one", "two")
        ]
        tokyo = await stack.enter_async_context(AgentZone(directory, TOKYO, replicas={BERLIN: agents[0].own}))
        yield Model(chance, store, agents, tokyo)


def request_of(market: int) -> str:
    """Return the request id under which a market's deletion is asked for."""
    return f"request-{market:08}"


async def user(world: Model, market: int) -> None:
    """Ask for a market's deletion, or what became of it, or both at once, now and then."""
    chance = world.chance
    for _ in range(chance.random.randrange(1, 5)):
        await asyncio.sleep(chance.random.random() * 10)
        what = chance.random.randrange(4)
        async with asyncio.TaskGroup() as tasks:
            if what != 0:
                tasks.create_task(world.ask(market, request_of(market)))
            if what <= 1:
                tasks.create_task(world.resolve(request_of(market)))


async def remover(world: Model, app: int) -> None:
    """Take away what a refusal was for: the app that a market holds."""
    await asyncio.sleep(world.chance.random.random() * 30)
    while any(agent.view.get(AppRecord, app) for agent in world.agents):
        try:
            await world.agents[1].catalogs.change(lambda draft: draft.delete(AppRecord, app), private=False)
        except (Unavailable, OutcomeUnknown):
            await asyncio.sleep(1)


async def run_users(world: Model, markets: Sequence[int], apps: Sequence[int]) -> None:
    """Let users ask while everything fails, then heal it all and let what is under way arrive."""
    world.store.written.clear()
    world.chance.faulty = True
    async with asyncio.TaskGroup() as tasks:
        for market in markets:
            for _ in range(2):
                tasks.create_task(user(world, market))
        for app in apps:
            tasks.create_task(remover(world, app))
    world.chance.faulty = False
    while world.chance.late:
        await asyncio.wait(set(world.chance.late))
    await asyncio.sleep(60)  # for whatever is done when nobody asks


async def checked(seed: int, directory: Path) -> Counter[str]:
    """Run the model once, check what was promised, and return how often each answer was given."""
    async with model(seed, directory) as world:
        home = world.agents[0]
        markets = [await _market(home, f"m{n}") for n in range(MARKETS)]
        apps = [await home.catalogs.change(partial(_app_in, market), private=False) for market in markets[::2]]
        await run_users(world, markets, apps)
        for market in markets:
            request, before = request_of(market), world.made(market)
            await world.resolve(request)
            told = world.answers[request]
            assert set(told) - {"unknown", "not sent"} == {told[-1]}, (request, told)
            assert told[-1] in {"done", "refused"}, (request, told)
            await world.ask(market, request)
            assert told[-1] == told[-2], (request, told)
            assert before == world.made(market) == (told[-1] == "done"), (request, told)
        return Counter(answer for told in world.answers.values() for answer in told)


def _app_in(market: int, draft: Draft) -> int:
    return draft.create(AppRecord(name="a", market_id=market))


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run something in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(coroutine)
