"""Conversion with the real qemu-img (Debian: qemu-utils)."""

import os
import subprocess
from pathlib import Path

import pytest

from drivers.datastore.convert import ConvertSettings, convert
from drivers.datastore.formats import HEADER_BYTES, Format, ImageFormat, detect
from drivers.datastore.fs import FsDatastore
from drivers.testkit.blobs import is_visible, put
from fedmarket.errors import BadInput, Cancelled, NoSpace, Refused, Timeout
from fedmarket.units import MIB

SETTINGS = ConvertSettings(cancel_interval=0.01)


@pytest.fixture
def datastore(tmp_path: Path) -> FsDatastore:
    return FsDatastore(tmp_path / "images")


@pytest.fixture
def disk() -> bytes:
    """5 MiB: a hole in the middle, a size that no cluster divides."""
    return os.urandom(2 * MIB) + bytes(2 * MIB) + os.urandom(MIB - 512)


def format_of(path: Path) -> ImageFormat:
    with path.open("rb") as file:
        return detect(file.read(HEADER_BYTES), path.stat().st_size)


def qemu_img(*arguments: object) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True, timeout=60)


def run(
    datastore: FsDatastore, source: str, source_format: Format, name: str, target: Format, settings: ConvertSettings
) -> list[float]:
    """Convert one blob into another, and return the progress that was seen."""
    seen: list[float] = []
    with datastore.stage_file(name, "job") as staging:
        convert(
            datastore.path(source),
            source_format,
            staging.path,
            target,
            progress=seen.append,
            cancelled=lambda: False,
            settings=settings,
        )
        staging.commit()
    return seen


def test_there_and_back_is_the_same_disk(datastore: FsDatastore, disk: bytes) -> None:
    put(datastore, "a.raw", disk)
    run(datastore, "a.raw", Format.RAW, "a.qcow2", Format.QCOW2, SETTINGS)
    assert format_of(datastore.path("a.qcow2")) == ImageFormat(Format.QCOW2, len(disk))
    seen = run(datastore, "a.qcow2", Format.QCOW2, "b.raw", Format.RAW, SETTINGS)
    assert datastore.path("b.raw").read_bytes() == disk
    assert seen[-1] == 1
    assert seen == sorted(seen)


def test_a_raw_disk_that_looks_like_a_qcow2_is_not_probed(datastore: FsDatastore, tmp_path: Path) -> None:
    """A guest wrote a header into its own disk; told that it is raw, qemu-img must not follow it to another file."""
    (tmp_path / "secret").write_bytes(b"secret" * 10_000)
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", tmp_path / "secret", tmp_path / "evil")
    evil = (tmp_path / "evil").read_bytes().ljust(MIB, b"\0")
    put(datastore, "evil.raw", evil)
    run(datastore, "evil.raw", Format.RAW, "evil.qcow2", Format.QCOW2, SETTINGS)
    run(datastore, "evil.qcow2", Format.QCOW2, "again.raw", Format.RAW, SETTINGS)
    assert datastore.path("again.raw").read_bytes() == evil


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
@pytest.mark.parametrize("cluster_size", [512, 65536, 2 * MIB])
def test_real_qcow2_files_are_understood(tmp_path: Path, compat: str, cluster_size: int) -> None:
    image = tmp_path / "image"
    qemu_img("create", "-f", "qcow2", "-o", f"compat={compat},cluster_size={cluster_size}", image, "3M")
    assert format_of(image) == ImageFormat(Format.QCOW2, 3 * MIB)


@pytest.mark.parametrize("options", ["extended_l2=on", "lazy_refcounts=on", "compression_type=zstd"])
def test_real_qcow2_features_are_understood(tmp_path: Path, options: str) -> None:
    image = tmp_path / "image"
    qemu_img("create", "-f", "qcow2", "-o", options, image, "3M")
    assert format_of(image) == ImageFormat(Format.QCOW2, 3 * MIB)


def test_a_real_backing_file_is_refused(tmp_path: Path) -> None:
    qemu_img("create", "-f", "raw", tmp_path / "base", "1M")
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", tmp_path / "base", tmp_path / "image")
    with pytest.raises(Refused, match="backing file"):
        format_of(tmp_path / "image")


def test_a_real_external_data_file_is_refused(tmp_path: Path) -> None:
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'}", tmp_path / "image", "1M")
    with pytest.raises(Refused, match="external file"):
        format_of(tmp_path / "image")


def test_a_real_encrypted_image_is_refused(tmp_path: Path) -> None:
    secret = ["--object", "secret,id=s,data=hunter2"]
    options = "encrypt.format=aes,encrypt.key-secret=s"  # LUKS would time its key derivation on this CPU
    qemu_img("create", *secret, "-f", "qcow2", "-o", options, tmp_path / "image", "1M")
    with pytest.raises(Refused, match="encrypted"):
        format_of(tmp_path / "image")


def test_a_real_image_that_was_cut_is_truncated(tmp_path: Path) -> None:
    qemu_img("create", "-f", "qcow2", tmp_path / "image", "1M")
    os.truncate(tmp_path / "image", 65536)
    with pytest.raises(BadInput, match="truncated"):
        format_of(tmp_path / "image")


def test_an_image_that_qemu_cannot_read_is_refused_with_its_reason(datastore: FsDatastore) -> None:
    put(datastore, "broken", b"QFI\xfb" + bytes(1000))
    with pytest.raises(Refused, match=r"qemu-img measure failed .*Unsupported qcow2 version 0"):
        run(datastore, "broken", Format.QCOW2, "a.raw", Format.RAW, SETTINGS)
    assert not is_visible(datastore, "a.raw")
    assert datastore.sweep(lambda _: False) == 0


def test_without_qemu_img_the_error_says_what_to_install(datastore: FsDatastore, disk: bytes) -> None:
    put(datastore, "a.raw", disk)
    with pytest.raises(Refused, match=r"missing-qemu-img, .*install qemu-utils"):
        run(datastore, "a.raw", Format.RAW, "a.qcow2", Format.QCOW2, ConvertSettings(program="missing-qemu-img"))
    assert not is_visible(datastore, "a.qcow2")


def test_a_disk_that_does_not_fit_is_refused_before_it_is_written(datastore: FsDatastore, tmp_path: Path) -> None:
    free = os.statvfs(tmp_path)
    too_large = free.f_bavail * free.f_frsize // MIB + 1024 * 1024
    qemu_img("create", "-f", "qcow2", tmp_path / "sparse", f"{too_large}M")
    with datastore.stage_file("a.raw", "job") as staging:
        with pytest.raises(NoSpace, match="free another"):
            convert(
                tmp_path / "sparse",
                Format.QCOW2,
                staging.path,
                Format.RAW,
                progress=lambda _: None,
                cancelled=lambda: False,
                settings=SETTINGS,
            )
        assert staging.path.stat().st_size == 0


@pytest.fixture
def stuck(tmp_path: Path) -> ConvertSettings:
    """A qemu-img that never ends, and writes its process id to `pid` first."""
    program = tmp_path / "qemu-img"
    program.write_text(
        f"#!/bin/sh\necho $$ > {tmp_path}/pid.new\nmv {tmp_path}/pid.new {tmp_path}/pid\nexec sleep 600\n"
    )
    program.chmod(0o755)
    return ConvertSettings(program=str(program), timeout=600, cancel_interval=0.01)


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_a_cancel_kills_the_child_and_leaves_nothing(
    datastore: FsDatastore, tmp_path: Path, stuck: ConvertSettings
) -> None:
    put(datastore, "a.raw", b"disk")
    with (
        pytest.raises(Cancelled),
        datastore.stage_file("a.qcow2", "job") as staging,
    ):
        convert(
            datastore.path("a.raw"),
            Format.RAW,
            staging.path,
            Format.QCOW2,
            progress=lambda _: None,
            cancelled=(tmp_path / "pid").exists,
            settings=stuck,
        )
    assert not is_running(int((tmp_path / "pid").read_text()))
    assert not is_visible(datastore, "a.qcow2")
    assert datastore.sweep(lambda _: False) == 0


def test_a_conversion_that_takes_too_long_is_ended(
    datastore: FsDatastore, tmp_path: Path, stuck: ConvertSettings
) -> None:
    put(datastore, "a.raw", b"disk")
    with pytest.raises(Timeout, match="longer than 50 ms"):
        run(
            datastore,
            "a.raw",
            Format.RAW,
            "a.qcow2",
            Format.QCOW2,
            ConvertSettings(program=stuck.program, timeout=0.05, cancel_interval=0.01),
        )
    assert not is_visible(datastore, "a.qcow2")
