"""Ends in the middle: what a zone makes of the work that a kill, a stop or a restored backup has interrupted."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc

from fedmarket.pb.fedmarket.v1.job_pb2 import WatchJobRequest
from fedmarket.pb.fedmarket.v1.record_pb2 import (
    APP_STATE_ERROR,
    APP_STATE_LOCKED,
    APP_STATE_READY,
    IMAGE_STATE_ERROR,
    IMAGE_STATE_LOCKED,
    IMAGE_STATE_READY,
)
from tests.support.native import SECONDS, parts, refused
from tests.support.zones import Zone, Zones, link, until

MIB = 1 << 20
SPARSE = 128 * MIB
"""An image that takes long enough to copy for the test to do something meanwhile."""


def sparse(directory: Path) -> Path:
    file = directory / "sparse"
    with file.open("wb") as made:
        made.truncate(SPARSE)
    return file


def test_an_upload_that_a_kill_interrupts_ends_in_error_and_leaves_no_file(zones: Zones, tmp_path: Path) -> None:
    zone = zones.make(0, "berlin")
    zone.start()
    native = zone.native
    image = native.import_image("big", sparse(tmp_path))
    market = native.create_market("big")
    begun = native.begin_app("big", image.id, market.id)
    until(lambda: zone.files(of=("markets",)), "bytes are on their way")
    zone.kill()
    zone.start()
    native = zone.native
    app = until(lambda: seen if (seen := native.app("big")).state != APP_STATE_LOCKED else None, "the app is unlocked")
    assert app.state == APP_STATE_ERROR
    assert app.error
    assert zone.files(of=("markets",)) == []
    assert native.image("big").state == IMAGE_STATE_READY
    with refused(grpc.StatusCode.NOT_FOUND, "not-found"):
        native.wait(begun.job_id)
    native.delete_app("big")
    native.delete_market(market.id)


def test_an_export_that_a_kill_interrupts_ends_in_error_and_leaves_no_file(zones: Zones, tmp_path: Path) -> None:
    zone = zones.make(0, "berlin")
    zone.start()
    native = zone.native
    image = native.import_image("big", sparse(tmp_path))
    market = native.create_market("big")
    native.create_app("big", image.id, market.id)
    files = zone.files()
    native.begin_export("big", "brought")
    until(lambda: zone.files() != files, "bytes are on their way")
    zone.kill()
    zone.start()
    native = zone.native
    left = until(
        lambda: seen if (seen := native.image("brought")).state != IMAGE_STATE_LOCKED else None, "it is unlocked"
    )
    assert (left.state, bool(left.error)) == (IMAGE_STATE_ERROR, True)
    assert zone.files() == files
    native.delete_image("brought")
    assert native.image("big").sha256 == image.sha256


def test_an_import_that_a_kill_interrupts_leaves_an_image_in_error_and_no_file(zones: Zones) -> None:
    zone = zones.make(0, "berlin")
    zone.start()
    begin_import(zone)
    zone.kill()
    zone.start()
    native = zone.native
    left = until(
        lambda: seen if (seen := native.image("broken")).state != IMAGE_STATE_LOCKED else None, "it is unlocked"
    )
    assert (left.state, bool(left.error)) == (IMAGE_STATE_ERROR, True)
    assert zone.files() == []
    native.delete_image("broken")
    assert native.import_image("broken", b"whole").size_bytes == 5


def begin_import(zone: Zone) -> None:
    """Begin an import that goes on until its agent ends."""
    native = zone.native

    def data() -> Iterator[bytes]:
        yield bytes(MIB)
        threading.Event().wait(SECONDS)

    endless = native.images.Import.future(parts("broken", 2 * MIB, data()), metadata=native.metadata)
    until(lambda: "broken" in native.image_names() and zone.files(), "the import has begun")
    endless.add_done_callback(lambda call: None)


def test_a_market_whose_directory_is_gone_does_not_keep_its_agent_from_starting(zones: Zones, tmp_path: Path) -> None:
    """What a kill left in it cannot be removed now; everything else of the zone can be used."""
    public = tmp_path / "public"
    public.mkdir()
    zone = zones.make(0, "berlin")
    zone.start()
    native = zone.native
    image = native.import_image("big", sparse(tmp_path))
    market = native.create_market("unmounted", PUBLIC_DIR=str(public))
    native.begin_app("big", image.id, market.id)
    until(lambda: any((public / ".staging").iterdir()), "bytes are on their way")
    zone.kill()
    public.rename(tmp_path / "elsewhere")
    public.touch()
    zone.start()
    assert zone.native.market_names() == ["unmounted"]
    assert zone.native.import_image("small", b"small").state == IMAGE_STATE_READY


def test_an_agent_that_is_told_to_stop_ends_what_it_was_doing(zones: Zones, tmp_path: Path) -> None:
    zone = zones.make(0, "berlin")
    zone.set("timeouts", shutdown_seconds=2.0)
    zone.start()
    native = zone.native
    image = native.import_image("big", sparse(tmp_path))
    market = native.create_market("big")
    begin_import(zone)
    begun = native.begin_app("big", image.id, market.id)
    watch = native.jobs.Watch(WatchJobRequest(id=begun.job_id), metadata=native.metadata, timeout=SECONDS)
    next(watch)
    assert zone.terminate() == 0
    assert "Traceback" not in zone.log.read_text()
    zone.start()
    native = zone.native
    app = native.app("big")
    assert (app.state, bool(app.error)) in {(APP_STATE_ERROR, True), (APP_STATE_READY, False)}
    assert not [name for name in zone.files() if ".staging" in name]
    assert native.image("big").state == IMAGE_STATE_READY
    assert native.image_names() == ["big"]  # nothing is left of the import


def test_a_zone_whose_etcd_was_put_back_from_a_backup_begins_a_new_epoch(zones: Zones) -> None:
    """What was written since the backup is gone at home and then at the peer, and no id is given twice."""
    pair = zones.pair()
    berlin, tokyo = pair.berlin, pair.tokyo
    berlin.native.create_market("kept")
    assert berlin.terminate() == 0
    backup = berlin.directory / "backup"
    shutil.copytree(berlin.directory / "etcd" / "data", backup)
    berlin.start()
    lost = berlin.native.create_market("lost")
    pair.wait_equal()
    assert tokyo.native.market_names() == ["kept", "lost"]
    assert berlin.terminate() == 0
    shutil.rmtree(berlin.directory / "etcd" / "data")
    backup.rename(berlin.directory / "etcd" / "data")
    berlin.start()
    again = berlin.native.create_market("again")
    assert again.id > lost.id
    pair.wait_equal()
    assert link(tokyo).here.epoch == 2
    assert tokyo.native.market_names() == berlin.native.market_names() == ["kept", "again"]
