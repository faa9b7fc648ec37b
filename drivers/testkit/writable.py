"""Promises of Writable: nothing is visible before it is whole, nothing is left of what failed."""

import io
from concurrent.futures import ThreadPoolExecutor

import pytest

from drivers.testkit.blobs import HOSTILE_NAMES, Store, get, is_visible, new_fence, new_name, put, sweep_of
from drivers.testkit.readable import ReadableSuite
from fedmarket.errors import AlreadyExists, BadInput, Corrupt, FedmarketError, Refused

DATA = bytes(range(256)) * 16


class WritableSuite(ReadableSuite):
    """A store that can be written and read."""

    def test_a_usable_store_passes_its_check(self, driver: Store) -> None:
        """Twice, since the first may have made what it needs."""
        driver.check()
        driver.check()

    @pytest.mark.parametrize("size", [0, 1, 4096, 5 * 1024 * 1024 + 1])
    def test_what_was_written_is_read_back(self, driver: Store, size: int) -> None:
        """Byte for byte, empty blobs too."""
        name, data = new_name(), (DATA * (size // len(DATA) + 1))[:size]
        put(driver, name, data)
        assert get(driver, name) == data

    def test_a_blob_is_read_from_the_middle(self, driver: Store) -> None:
        """As ranged reads need."""
        name = new_name()
        put(driver, name, DATA)
        with driver.open(name) as blob:
            blob.seek(1000)
            assert blob.read(24) == DATA[1000:1024]
            assert blob.seek(0, io.SEEK_END) == len(DATA)

    def test_writes_come_in_any_order(self, driver: Store) -> None:
        """As parallel ranges do."""
        name = new_name()
        with driver.stage(name, new_fence(), len(DATA)) as staging:
            for start in (2048, 0, 3072, 1024):
                staging.write(start, memoryview(DATA)[start : start + 1024])
            staging.commit()
        assert get(driver, name) == DATA

    def test_writes_come_from_several_threads(self, driver: Store) -> None:
        """Into one staging."""
        name, part = new_name(), 64 * 1024
        data = b"".join(bytes([number]) * part for number in range(16))
        with driver.stage(name, new_fence(), len(data)) as staging, ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda start: staging.write(start, data[start : start + part]), range(0, len(data), part)))
            staging.commit()
        assert get(driver, name) == data

    def test_a_staged_blob_is_invisible_until_its_commit(self, driver: Store) -> None:
        """Also when every byte is there."""
        name = new_name()
        with driver.stage(name, new_fence(), len(DATA)) as staging:
            assert not is_visible(driver, name)
            staging.write(0, DATA)
            assert not is_visible(driver, name)
            staging.commit()
            assert is_visible(driver, name)

    def test_an_abort_leaves_nothing(self, driver: Store) -> None:
        """No blob, no leftover; and the name is free."""
        name, fence = new_name(), new_fence()
        with driver.stage(name, fence, len(DATA)) as staging:
            staging.write(0, DATA)
        assert not is_visible(driver, name)
        assert sweep_of(driver, fence) == 0
        put(driver, name, DATA)

    def test_an_exception_leaves_nothing(self, driver: Store) -> None:
        """It passes through unchanged."""
        name, fence = new_name(), new_fence()
        with pytest.raises(ZeroDivisionError), driver.stage(name, fence, len(DATA)) as staging:
            staging.write(0, DATA)
            raise ZeroDivisionError
        assert not is_visible(driver, name)
        assert sweep_of(driver, fence) == 0

    @pytest.mark.parametrize("announced", [0, len(DATA) - 1, len(DATA) + 1])
    def test_another_size_than_announced_is_refused(self, driver: Store, announced: int) -> None:
        """Fewer or more bytes: Corrupt, and nothing is left."""
        name, fence = new_name(), new_fence()
        with pytest.raises(Corrupt), driver.stage(name, fence, announced) as staging:
            staging.write(0, DATA)
            staging.commit()
        assert not is_visible(driver, name)
        assert sweep_of(driver, fence) == 0

    def test_a_blob_is_committed_once(self, driver: Store) -> None:
        """A second commit is refused and changes nothing."""
        name = new_name()
        with driver.stage(name, new_fence(), len(DATA)) as staging:
            staging.write(0, DATA)
            staging.commit()
            with pytest.raises(Refused):
                staging.commit()
        assert get(driver, name) == DATA

    def test_a_committed_blob_cannot_be_written(self, driver: Store) -> None:
        """Its staging has ended."""
        name = new_name()
        with driver.stage(name, new_fence(), len(DATA)) as staging:
            staging.write(0, DATA)
            staging.commit()
            with pytest.raises(Refused):
                staging.write(0, b"other")
        assert get(driver, name) == DATA

    def test_a_stored_blob_is_never_overwritten(self, driver: Store) -> None:
        """Its name is taken."""
        name = new_name()
        put(driver, name, DATA)
        with pytest.raises(AlreadyExists, match=name):
            put(driver, name, b"other")
        assert get(driver, name) == DATA

    def test_of_two_jobs_with_one_name_the_first_commit_wins(self, driver: Store) -> None:
        """The other is told, and leaves nothing."""
        name, loser = new_name(), new_fence()
        with driver.stage(name, new_fence(), 5) as first, driver.stage(name, loser, 6) as second:
            second.write(0, b"second")
            first.write(0, b"first")
            first.commit()
            with pytest.raises(AlreadyExists):
                second.commit()
        assert get(driver, name) == b"first"
        assert sweep_of(driver, loser) == 0

    def test_jobs_write_different_blobs_at_once(self, driver: Store) -> None:
        """Without touching each other."""
        blobs = {new_name(): bytes([number]) * 100_000 for number in range(8)}
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda name: put(driver, name, blobs[name]), blobs))
        assert {name: get(driver, name) for name in blobs} == blobs

    def test_what_a_killed_job_left_is_swept(self, driver: Store) -> None:
        """Killed between the last write and the commit: never visible, and gone after one sweep."""
        name, fence = new_name(), new_fence()
        driver.stage(name, fence, len(DATA)).__enter__().write(0, DATA)
        assert not is_visible(driver, name)
        assert sweep_of(driver, fence) == 1
        assert sweep_of(driver, fence) == 0
        put(driver, name, DATA)
        assert get(driver, name) == DATA

    def test_a_sweep_spares_running_jobs_and_stored_blobs(self, driver: Store) -> None:
        """Only the dead job's leftover goes."""
        stored, name, dead, running = new_name(), new_name(), new_fence(), new_fence()
        put(driver, stored, DATA)
        driver.stage(new_name(), dead, 3).__enter__().write(0, b"abc")
        with driver.stage(name, running, len(DATA)) as staging:
            staging.write(0, DATA)
            assert sweep_of(driver, dead) == 1
            staging.commit()
        assert get(driver, name) == DATA
        assert get(driver, stored) == DATA

    def test_a_job_that_was_swept_cannot_commit(self, driver: Store) -> None:
        """It was taken for dead, and another may have taken its place."""
        name, fence = new_name(), new_fence()
        with driver.stage(name, fence, len(DATA)) as staging:
            staging.write(0, DATA)
            sweep_of(driver, fence)
            with pytest.raises(Refused):
                staging.commit()
        assert not is_visible(driver, name)

    @pytest.mark.parametrize("name", HOSTILE_NAMES)
    def test_a_hostile_name_is_not_written(self, driver: Store, name: str) -> None:
        """It never reaches a path or a key."""
        with pytest.raises(BadInput):
            driver.stage(name, new_fence(), 1)

    @pytest.mark.parametrize("fence", ["", "a/b", "../x", "a.b", "a\0b", "a" * 300])
    def test_a_hostile_fence_is_not_written(self, driver: Store, fence: str) -> None:
        """It becomes part of a name in staging."""
        with pytest.raises(BadInput):
            driver.stage(new_name(), fence, 1)

    def test_the_longest_name_and_fence_fit(self, driver: Store) -> None:
        """190 bytes and 64."""
        name = new_name().ljust(190, "x")
        with driver.stage(name, new_fence().ljust(64, "x"), 1) as staging:
            staging.write(0, b"1")
            staging.commit()
        assert get(driver, name) == b"1"

    def test_an_error_is_one_sentence(self, driver: Store) -> None:
        """It ends without a full stop and spans one line, so that it can stand after `error: `."""
        name = new_name()
        put(driver, name, DATA)
        with pytest.raises(FedmarketError) as caught:
            driver.stage(name, new_fence(), 1)
        assert "\n" not in caught.value.message
        assert not caught.value.message.endswith(".")
