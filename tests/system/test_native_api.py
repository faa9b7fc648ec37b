"""The native gRPC API as a program meets it: what it offers, whom it lets in, and what breaks off half way."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from fedmarket.pb.fedmarket.v1 import app_pb2, change_pb2, image_pb2, job_pb2, market_pb2, zone_pb2
from fedmarket.pb.fedmarket.v1.change_pb2 import ChangeRequest, Delete, Verb
from fedmarket.pb.fedmarket.v1.common_pb2 import SCOPE_FEDERATION, SCOPE_ZONE, Page, Ref
from fedmarket.pb.fedmarket.v1.image_pb2 import ImportImageRequest, ImportStart
from fedmarket.pb.fedmarket.v1.record_pb2 import APP_STATE_READY
from tests.support.native import SECONDS, Native, code, ref, refused
from tests.support.zones import Zone, until

FILES = (zone_pb2, market_pb2, app_pb2, change_pb2, image_pb2, job_pb2)
SERVICES = [service for file in FILES for service in file.DESCRIPTOR.services_by_name.values()]
METHODS = [method for service in SERVICES for method in service.methods]
MIB = 1 << 20

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture(scope="module")
def native(alone: Zone) -> Native:
    return alone.native


# -- what it offers


def test_reflection_lists_the_services_for_clients_and_not_those_for_peers(native: Native) -> None:
    listed = set(ProtoReflectionDescriptorDatabase(native.channel).get_services())
    infrastructure = {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    assert listed == {service.full_name for service in SERVICES} | infrastructure


def test_reflection_describes_a_message_as_the_proto_does(native: Native) -> None:
    described = ProtoReflectionDescriptorDatabase(native.channel).FindFileContainingSymbol("fedmarket.v1.App")
    names = [field.name for message in described.message_type if message.name == "App" for field in message.field]
    assert names == [field.name for field in app_pb2.App.DESCRIPTOR.fields]


def test_health_says_that_the_agent_and_each_of_its_services_serve(native: Native) -> None:
    check = health_pb2_grpc.HealthStub(native.channel).Check  # type: ignore[attr-defined]  # of no stub
    for name in ["", *(service.full_name for service in SERVICES)]:
        answer = check(health_pb2.HealthCheckRequest(service=name), timeout=SECONDS)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING, name
    with pytest.raises(grpc.RpcError) as caught:
        check(health_pb2.HealthCheckRequest(service="fedmarket.v1.PeerService"), timeout=SECONDS)
    assert caught.value.code() is NOT_FOUND


def test_peers_cannot_be_served_at_the_port_for_clients(native: Native) -> None:
    locate: grpc.UnaryUnaryMultiCallable[bytes, bytes] = native.channel.unary_unary("/fedmarket.v1.PeerService/Locate")
    with pytest.raises(grpc.RpcError) as caught:
        locate(b"", metadata=native.metadata, timeout=SECONDS)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


# -- whom it lets in


@pytest.mark.parametrize(
    "authorization",
    ["", "Basic", "Basic !!!", "Basic b25lYWRtaW46d3Jvbmc=", "Bearer b25lYWRtaW46d3Jvbmc=", "Basic b25lYWRtaW4="],
)
def test_no_method_answers_who_is_not_known(native: Native, authorization: str) -> None:
    metadata = (("authorization", authorization),) if authorization else ()
    for method in METHODS:
        with pytest.raises(grpc.RpcError) as caught:
            call(native.channel, method, metadata)
        assert caught.value.code() is UNAUTHENTICATED, method.full_name
        assert code(caught.value) == "unauthenticated"


def call(channel: Any, method: Any, metadata: tuple[tuple[str, str], ...]) -> object:
    """Call a method of any shape with an empty request."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    if method.client_streaming:
        return channel.stream_unary(path)(iter([b""]), metadata=metadata, timeout=SECONDS)
    if method.server_streaming:
        return list(channel.unary_stream(path)(b"", metadata=metadata, timeout=SECONDS))
    return channel.unary_unary(path)(b"", metadata=metadata, timeout=SECONDS)


# -- lists


def pages(native: Native, size: int) -> Iterator[list[int]]:
    page = Page(size=size)
    while True:
        answer = native.call(native.images.List, image_pb2.ListImagesRequest(page=page))
        yield [image.id for image in answer.images]
        if answer.next == -1:
            return
        page = Page(size=size, after=answer.next)


def test_a_list_comes_in_pages_ascending_by_id_and_says_which_was_the_last(native: Native) -> None:
    made = [native.import_image(f"paged-{n}", b"x").id for n in range(5)]
    everything = list(next(pages(native, 0)))
    assert everything == sorted(everything)
    assert set(made) <= set(everything)
    for size in (1, 2, len(everything) - 1, len(everything), len(everything) + 1):
        got = list(pages(native, size))
        assert list(chain.from_iterable(got)) == everything
        assert [len(page) for page in got[:-1]] == [size] * (len(got) - 1)
        assert 0 < len(got[-1]) <= size
    for image in made:
        native.delete_image(image)


def test_a_page_of_the_apps_of_one_market_leaves_the_others_out(native: Native) -> None:
    image = native.import_image("of-two-markets", b"two")
    one, other = (native.create_market(f"of-two-{n}", SCOPE_ZONE) for n in (1, 2))
    ours = [native.create_app(f"in-one-{n}", image.id, one.id).id for n in range(3)]
    native.create_app("in-other", image.id, other.id)
    seen: list[int] = []
    after = None
    while after != -1:
        request = app_pb2.ListAppsRequest(market=ref(one.id), page=Page(size=2, after=after))
        answer = native.call(native.apps.List, request)
        seen += [app.id for app in answer.apps]
        after = answer.next
    assert seen == ours


# -- bytes


@pytest.fixture(scope="module")
def app(native: Native, tmp_path_factory: pytest.TempPathFactory) -> tuple[app_pb2.App, bytes]:
    content = bytes(range(256)) * 4096 * 3 + b"the end"
    image = native.import_image("downloaded", content)
    market = native.create_market("downloads", SCOPE_ZONE)
    return native.create_app("downloaded", image.id, market.id), content


@pytest.mark.parametrize("offset", [0, 1, MIB, 2 * MIB + 17, 3 * MIB + 6, 3 * MIB + 7])
def test_a_download_goes_on_from_its_offset(native: Native, app: tuple[app_pb2.App, bytes], offset: int) -> None:
    made, content = app
    request = app_pb2.DownloadAppRequest(app=ref(made.id), offset=offset)
    first, *rest = native.call(native.apps.Download, request)
    assert first.start.app == made
    assert b"".join(part.data for part in rest) == content[offset:]


def test_a_download_from_beyond_the_end_is_bad_input(native: Native, app: tuple[app_pb2.App, bytes]) -> None:
    made, content = app
    with refused(INVALID, "bad-input"):
        list(native.call(native.apps.Download, app_pb2.DownloadAppRequest(app=ref(made.id), offset=len(content) + 1)))


def test_a_reader_that_leaves_in_the_middle_does_not_disturb_the_next(
    native: Native, app: tuple[app_pb2.App, bytes]
) -> None:
    made, content = app
    for _ in range(5):
        stream = native.apps.Download(
            app_pb2.DownloadAppRequest(app=ref(made.id)), metadata=native.metadata, timeout=SECONDS
        )
        next(stream)
        stream.cancel()
    _, *rest = native.call(native.apps.Download, app_pb2.DownloadAppRequest(app=ref(made.id)))
    assert b"".join(part.data for part in rest) == content


# -- requests that say nothing, or what is not known


UNNAMED = [
    ("images", "Show", image_pb2.ShowImageRequest()),
    ("images", "Show", image_pb2.ShowImageRequest(image=Ref())),
    ("changes", "Change", ChangeRequest(kind="image", verb=Verb(delete=Delete()))),
    ("datastores", "Show", image_pb2.ShowDatastoreRequest()),
    ("markets", "Show", market_pb2.ShowMarketRequest()),
    ("changes", "Change", ChangeRequest(kind="market", verb=Verb(delete=Delete()))),
    ("apps", "Show", app_pb2.ShowAppRequest()),
    ("changes", "Change", ChangeRequest(kind="app", verb=Verb(delete=Delete()))),
    ("apps", "Create", app_pb2.CreateAppRequest(name="n")),
    ("apps", "Export", app_pb2.ExportAppRequest(name="n")),
]


@pytest.mark.parametrize(("service", "method", "request_"), UNNAMED)
def test_a_request_that_names_nothing_is_bad_input_and_does_not_mean_id_0(
    alone: Zone, service: str, method: str, request_: object
) -> None:
    native = alone.native
    before = alone.kept()
    with refused(INVALID, "bad-input"):
        native.call(getattr(getattr(native, service), method), request_)
    assert alone.kept() == before


@pytest.mark.parametrize(
    ("service", "method", "request_"),
    [
        ("images", "Show", image_pb2.ShowImageRequest(image=ref(999_999))),
        ("changes", "Change", ChangeRequest(kind="image", ref=ref(-1), verb=Verb(delete=Delete()))),
        ("datastores", "Show", image_pb2.ShowDatastoreRequest(datastore=ref("nowhere"))),
        ("markets", "Show", market_pb2.ShowMarketRequest(market=ref(2**31 - 1))),
        ("changes", "Change", ChangeRequest(kind="market", ref=ref("nowhere@lima"), verb=Verb(delete=Delete()))),
        ("apps", "Show", app_pb2.ShowAppRequest(app=ref("@"))),
        ("changes", "Change", ChangeRequest(kind="app", ref=ref("nowhere@mars"), verb=Verb(delete=Delete()))),
        ("apps", "List", app_pb2.ListAppsRequest(market=ref("nowhere"))),
        ("zones", "Show", zone_pb2.ShowZoneRequest(zone=ref(2146))),
    ],
)
def test_what_is_not_there_is_not_found(alone: Zone, service: str, method: str, request_: object) -> None:
    native = alone.native
    with refused(NOT_FOUND, "not-found"):
        native.call(getattr(getattr(native, service), method), request_)


def test_a_job_that_is_not_known_is_not_found(native: Native) -> None:
    for job_id in ("", "nowhere", "x" * 5000):
        with refused(NOT_FOUND, "not-found") as seen:
            native.wait(job_id)
        assert len(str(seen[0].details())) < 300


def test_a_scope_that_is_none_is_bad_input(alone: Zone) -> None:
    before = alone.kept()
    request = market_pb2.CreateMarketRequest(name="scoped", driver="http")
    request.scope = 7  # type: ignore[assignment] # an open enum carries any number
    with refused(INVALID, "bad-input"):
        alone.native.call(alone.native.markets.Create, request)
    assert alone.kept() == before


def test_an_image_type_that_is_none_is_bad_input(alone: Zone) -> None:
    before = alone.kept()
    start = ImportStart(name="typed", datastore=ref("default"), size_bytes=1)
    start.type = 77  # type: ignore[assignment] # an open enum carries any number
    with refused(INVALID, "bad-input"):
        alone.native.call(alone.native.images.Import, iter([ImportImageRequest(start=start)]))
    assert alone.kept() == before


def test_a_message_over_the_limit_is_refused_and_the_agent_goes_on(alone: Zone) -> None:
    native, before = alone.native, alone.kept()
    request = market_pb2.CreateMarketRequest(name="n" * (5 * MIB), driver="http")
    with pytest.raises(grpc.RpcError) as caught:
        native.call(native.markets.Create, request)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert alone.kept() == before


def test_a_record_over_the_limit_is_refused_and_its_neighbours_are_not(alone: Zone) -> None:
    native = alone.native
    request = market_pb2.CreateMarketRequest(
        name="heavy", driver="http", scope=SCOPE_FEDERATION, attributes={"PUBLIC_NOTE": "x" * (300 << 10)}
    )
    with ThreadPoolExecutor() as pool:
        neighbours = [pool.submit(native.create_market, f"light-{n}") for n in range(5)]
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "too-large"):
            native.call(native.markets.Create, request)
    assert [market.result().name for market in neighbours] == [f"light-{n}" for n in range(5)]
    assert "heavy" not in native.market_names()


# -- at once


def test_of_many_that_take_one_name_at_once_exactly_one_gets_it(native: Native) -> None:
    def create() -> str:
        try:
            return str(native.create_market("wanted").id)
        except grpc.RpcError as error:
            return code(error)

    with ThreadPoolExecutor(16) as pool:
        answers = [future.result() for future in [pool.submit(create) for _ in range(32)]]
    assert sorted(answers)[1:] == ["already-exists"] * 31
    assert native.market_names().count("wanted") == 1


def test_what_was_changed_is_seen_by_the_next_question(native: Native) -> None:
    for n in range(20):
        made = native.create_market(f"seen-{n}")
        assert native.market(made.id).name == f"seen-{n}"
        native.delete_market(made.id)
        with refused(NOT_FOUND, "not-found"):
            native.market(made.id)


def test_an_id_is_never_given_twice(native: Native) -> None:
    first = native.create_market("once")
    native.delete_market(first.id)
    again = native.create_market("once")
    assert again.id > first.id
    assert again.uid != first.uid


# -- jobs


def test_a_job_is_watched_to_its_end_and_known_after_it(native: Native, tmp_path: Path) -> None:
    image = native.import_image("watched", bytes(8 * MIB))
    market = native.create_market("watched", SCOPE_ZONE)
    begun = native.begin_app("watched", image.id, market.id)
    states = list(native.call(native.jobs.Watch, job_pb2.WatchJobRequest(id=begun.job_id)))
    for last in (states[-1], native.wait(begun.job_id)):
        assert (last.id, last.kind, last.object_id) == (begun.job_id, job_pb2.JOB_KIND_CREATE, begun.app.id)
        assert (last.state, last.error, last.total_bytes) == (job_pb2.JOB_STATE_DONE, "", 8 * MIB)
        assert last.ended.ToMilliseconds() >= last.started.ToMilliseconds() > 0
    assert {state.state for state in states[:-1]} <= {job_pb2.JOB_STATE_RUNNING}


def test_deleting_an_app_ends_the_upload_that_makes_it(alone: Zone, tmp_path: Path) -> None:
    native = alone.native
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(128 * MIB)
    image = native.import_image("long", sparse)
    market = native.create_market("long", SCOPE_ZONE)
    begun = native.begin_app("long", image.id, market.id)
    native.delete_app(begun.app.id)
    ended = native.wait(begun.job_id)
    assert ended.state == job_pb2.JOB_STATE_CANCELLED
    assert alone.files(of=("markets",)).count(f"markets/{market.id}/") == 0
    native.delete_market(market.id)
    native.delete_image(image.id)


def test_a_create_whose_client_goes_away_at_any_moment_is_done_or_was_never_begun(alone: Zone) -> None:
    native = alone.native
    image = native.import_image("left-alone", b"left alone")
    market = native.create_market("left-alone", SCOPE_ZONE)
    of_market = app_pb2.ListAppsRequest(market=ref(market.id))
    for delay in range(0, 40, 2):
        request = app_pb2.CreateAppRequest(name=f"left-{delay}", image=ref(image.id), market=ref(market.id))
        call = native.apps.Create.future(request, metadata=native.metadata, timeout=SECONDS)
        time.sleep(delay / 1000)
        call.cancel()
    until(
        lambda: all(app.state == APP_STATE_READY for app in native.call(native.apps.List, of_market).apps),
        "every app that was begun is READY",
    )
    for app in native.call(native.apps.List, of_market).apps:
        native.delete_app(app.id)
    native.delete_market(market.id)
    native.delete_image(image.id)
