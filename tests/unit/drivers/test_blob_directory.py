"""What a directory of blobs does beyond the testkit: with links, strange files, and directories that do not hold."""

import os
import stat
from pathlib import Path

import pytest

from drivers.files import STAGING, BlobDirectory
from drivers.testkit.blobs import get, put
from fedmarket.errors import AlreadyExists, NoSpace, NotFound, Refused


@pytest.fixture
def store(tmp_path: Path) -> BlobDirectory:
    return BlobDirectory(tmp_path / "store", file_mode=0o640)


@pytest.fixture
def below_a_file(tmp_path: Path) -> BlobDirectory:
    (tmp_path / "file").write_text("not a directory")
    return BlobDirectory(tmp_path / "file" / "store", file_mode=0o640)


def test_its_directory_is_made_when_it_is_needed(store: BlobDirectory) -> None:
    store.check()
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o755


def test_the_permissions_of_a_directory_that_is_there_stay(store: BlobDirectory) -> None:
    store.root.mkdir()
    store.root.chmod(0o2770)
    put(store, "blob", b"")
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o2770


def test_a_check_leaves_nothing(store: BlobDirectory) -> None:
    store.check()
    assert [path.name for path in store.root.rglob("*")] == [STAGING]


@pytest.mark.parametrize("target", ["secret", "missing"])
def test_a_symbolic_link_is_not_a_blob(store: BlobDirectory, tmp_path: Path, target: str) -> None:
    (tmp_path / "secret").write_text("outside")
    store.check()
    (store.root / "link").symlink_to(tmp_path / target)
    with pytest.raises(NotFound):
        store.open("link")


@pytest.mark.parametrize("target", ["secret", "missing"])
def test_nothing_is_written_through_a_symbolic_link(store: BlobDirectory, tmp_path: Path, target: str) -> None:
    (tmp_path / "secret").write_text("outside")
    store.check()
    (store.root / "link").symlink_to(tmp_path / target)
    with pytest.raises(AlreadyExists):
        store.stage("link", "job", 1)
    assert (tmp_path / "secret").read_text() == "outside"
    assert not (tmp_path / "missing").exists()


def test_a_link_that_appears_before_the_commit_is_not_followed(store: BlobDirectory, tmp_path: Path) -> None:
    with store.stage("blob", "job", 1) as staging:
        staging.write(0, b"1")
        (store.root / "blob").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(AlreadyExists):
            staging.commit()
    assert not (tmp_path / "elsewhere").exists()


def test_deleting_a_link_spares_its_target(store: BlobDirectory, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("outside")
    store.check()
    (store.root / "link").symlink_to(tmp_path / "secret")
    store.delete("link")
    assert not (store.root / "link").is_symlink()
    assert (tmp_path / "secret").exists()


def test_a_staging_directory_that_leads_elsewhere_is_refused(store: BlobDirectory, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    store.root.mkdir()
    (store.root / STAGING).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match="symbolic link"):
        store.stage("blob", "job", 1)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_fifo_is_not_a_blob_and_does_not_hang(store: BlobDirectory) -> None:
    store.check()
    os.mkfifo(store.root / "fifo")
    with pytest.raises(NotFound):
        store.open("fifo")


def test_a_directory_is_not_a_blob(store: BlobDirectory) -> None:
    (store.root / "directory").mkdir(parents=True)
    with pytest.raises(NotFound):
        store.open("directory")
    with pytest.raises(Refused, match="is a directory where a blob should be"):
        store.delete("directory")


def test_below_a_file_nothing_works_and_each_says_why(below_a_file: BlobDirectory) -> None:
    for call in (
        below_a_file.check,
        below_a_file.usage,
        lambda: below_a_file.open("blob"),
        lambda: below_a_file.stage("blob", "job", 1),
        lambda: below_a_file.delete("blob"),
    ):
        with pytest.raises(Refused, match="is below something that is not a directory: choose another directory"):
            call()


def test_a_file_is_not_a_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    store = BlobDirectory(tmp_path / "file", file_mode=0o640)
    for call in (store.check, lambda: store.stage("blob", "job", 1)):
        with pytest.raises(Refused, match="not a directory"):
            call()


def test_a_directory_that_is_gone_is_no_proof_of_a_delete(store: BlobDirectory) -> None:
    with pytest.raises(Refused, match="mount the file system that holds it"):
        store.delete("blob")


def test_the_space_of_a_missing_directory_is_not_known(store: BlobDirectory) -> None:
    with pytest.raises(Refused, match="does not exist"):
        store.usage()


def test_a_blob_larger_than_the_disk_is_refused_before_a_byte_is_written(store: BlobDirectory) -> None:
    with pytest.raises(NoSpace, match=r"a blob of 1\.0 EiB does not fit into .*/store, .* free another .* there"):
        store.stage("huge", "job", 1 << 60)
    assert not list((store.root / STAGING).iterdir())


def test_the_space_of_a_blob_is_reserved_before_it_is_written(store: BlobDirectory) -> None:
    with store.stage("blob", "job", 1 << 20) as staging:
        status = staging.path.stat()
        assert status.st_blocks * 512 >= 1 << 20
        assert status.st_size == 0


def test_one_job_stages_a_blob_once_at_a_time(store: BlobDirectory) -> None:
    with store.stage("blob", "job", 1) as staging:
        with pytest.raises(AlreadyExists, match="by the same job"):
            store.stage("blob", "job", 1)
        staging.write(0, b"1")
        staging.commit()
    assert get(store, "blob") == b"1"


def test_another_process_finds_and_sweeps_what_a_killed_one_left(store: BlobDirectory) -> None:
    store.stage("blob", "killed", 1).write(0, b"1")
    store.stage("other", "alive", 1).write(0, b"1")
    restarted = BlobDirectory(store.root, file_mode=0o640)
    assert restarted.sweep(lambda fence: fence == "alive") == 1
    assert [path.name for path in (store.root / STAGING).iterdir()] == ["other.alive"]


def test_a_kill_between_publishing_and_tidying_loses_nothing(store: BlobDirectory) -> None:
    put(store, "blob", b"whole")
    os.link(store.path("blob"), store.root / STAGING / "blob.killed")
    assert store.sweep(lambda _: False) == 1
    assert get(store, "blob") == b"whole"


def test_a_sweep_before_anything_was_stored_finds_nothing(store: BlobDirectory) -> None:
    assert store.sweep(lambda _: False) == 0


def test_a_sweep_passes_over_what_is_no_leftover_of_ours(store: BlobDirectory) -> None:
    (store.root / STAGING / "directory").mkdir(parents=True)
    assert store.sweep(lambda _: False) == 0
    assert (store.root / STAGING / "directory").is_dir()
