"""Ends in the middle: what a zone makes of the work that a kill, a stop or a restored backup has interrupted."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from fedmarket.pb.fedmarket.v1.job_pb2 import JOB_STATE_DONE, WatchJobRequest
from fedmarket.pb.fedmarket.v1.record_pb2 import (
    APP_STATE_READY,
    IMAGE_STATE_ERROR,
    IMAGE_STATE_LOCKED,
    IMAGE_STATE_READY,
)
from tests.support.native import SECONDS, parts
from tests.support.zones import Zone, Zones, link, until

MIB = 1 << 20
SPARSE = 128 * MIB
"""An image that takes long enough to copy for the test to do something meanwhile."""


def sparse(directory: Path) -> Path:
    file = directory / "sparse"
    with file.open("wb") as made:
        made.truncate(SPARSE)
    return file


def test_an_upload_that_a_kill_interrupts_goes_on_when_the_agent_is_back(zones: Zones, tmp_path: Path) -> None:
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
    ended = native.wait(begun.job_id)
    assert (ended.state, ended.attempts) == (JOB_STATE_DONE, 2)
    app = native.app("big")
    assert (app.state, app.error, app.sha256) == (APP_STATE_READY, "", image.sha256)
    assert len(zone.files(of=("markets",))) == 1
    assert native.image("big").state == IMAGE_STATE_READY
    native.delete_app("big")
    native.delete_market(market.id)
    assert zone.files(of=("markets",)) == []


def test_an_export_that_a_kill_interrupts_goes_on_when_the_agent_is_back(zones: Zones, tmp_path: Path) -> None:
    zone = zones.make(0, "berlin")
    zone.start()
    native = zone.native
    image = native.import_image("big", sparse(tmp_path))
    market = native.create_market("big")
    native.create_app("big", image.id, market.id)
    files = zone.files()
    begun = native.begin_export("big", "brought")
    until(lambda: zone.files() != files, "bytes are on their way")
    zone.kill()
    zone.start()
    native = zone.native
    ended = native.wait(begun.job_id)
    assert (ended.state, ended.attempts) == (JOB_STATE_DONE, 2)
    brought = native.image("brought")
    assert (brought.state, brought.error, brought.sha256) == (IMAGE_STATE_READY, "", image.sha256)
    assert len(zone.files()) == len(files) + 1
    native.delete_image("brought")
    assert zone.files() == files
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
    until(lambda: zone.files() == [], "what was staged is removed")
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


def test_what_an_agent_was_doing_when_it_was_told_to_stop_goes_on_afterwards(zones: Zones, tmp_path: Path) -> None:
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
    assert native.wait(begun.job_id).state == JOB_STATE_DONE  # it goes on, if it had not ended
    assert native.app("big").state == APP_STATE_READY
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
