"""A run on S3 and on Google's storage: what one machine publishes is what another pulls, whole and in order."""

import multiprocessing
import time

import pytest
import s3fs

from dct_augment import files
from dct_augment.errors import BusyRunError, StoreError
from dct_augment.remote import urls
from dct_augment.remote.store import Store, is_on_store
from tests.gcs_server import GCSServer
from tests.remote.machines import Machines, here, stored, write
from tests.s3_server import S3Server
from tests.store_server import StoreServer


def test_what_one_machine_publishes_is_what_another_pulls(server: StoreServer, machines: Machines) -> None:
    url = server.new_url()
    one = machines.store("one", url)
    write(one, tokens__crane_json="{}", shards__a_tar="images", own__x_npy="mine", _hidden="mine")
    one.publish()
    assert set(stored(url)) == {"tokens/crane.json", "shards/a.tar"}
    two = machines.store("two", url)
    assert two.folder != one.folder
    two.pull()
    assert here(two) == {"tokens/crane.json": b"{}"}
    tar = two.folder / "shards" / "a.tar"
    assert is_on_store(tar, 6)
    assert not is_on_store(tar, 7)
    assert two.pull(images=True) == [tar]
    assert here(two) == {"tokens/crane.json": b"{}", "shards/a.tar": b"images"}
    assert two.pull(images=True) == []
    assert not is_on_store(tar, 6)  # it is here


def test_only_what_changed_moves_and_the_store_wins(server: StoreServer, machines: Machines) -> None:
    url = server.new_url()
    one, two = machines.store("one", url), machines.store("two", url)
    write(one, a_json="1", b_json="1")
    one.publish()
    two.pull()
    untouched = (two.folder / "a.json").stat().st_mtime_ns
    write(one, b_json="2")
    one.publish()
    write(two, c_json="of two")
    two.pull()
    assert here(two) == {"a.json": b"1", "b.json": b"2", "c.json": b"of two"}
    assert (two.folder / "a.json").stat().st_mtime_ns == untouched
    two.publish()
    one.pull()
    assert here(one) == here(two)
    system, root = urls.open_store(url)
    system.rm_file(f"{root}/a.json")  # as a user does who wants it made again
    one.pull()
    assert set(here(one)) == {"b.json", "c.json"}


def test_a_file_that_the_holder_removes_goes_from_the_store_but_images_stay(
    server: StoreServer, machines: Machines
) -> None:
    url = server.new_url()
    one = machines.store("one", url)
    write(one, crane_failed_json="{}", shards__a_tar="images")
    one.publish()
    (one.folder / "crane.failed.json").unlink()
    (one.folder / "shards" / "a.tar").unlink()
    one.publish()
    assert len(stored(url)) == 2  # this process does not hold the run
    with one.held():
        (one.folder / "crane.failed.json").unlink()
    assert set(stored(url)) == {"shards/a.tar"}


def _publish(url: str) -> None:
    Store(url).publish()


def test_a_kill_in_mid_upload_leaves_whole_objects_in_the_order_of_writing(
    server: StoreServer, machines: Machines
) -> None:
    url = server.new_url()
    one = machines.store("one", url)
    order = [f"{number:02d}.json" for number in range(12)]
    for name in order:
        files.write_text(one.folder / name, name * 50_000)
    counts = set()
    for kill_after in (0.15, 0.3, 0.6):
        process = multiprocessing.get_context("fork").Process(target=_publish, args=(url,))
        process.start()
        time.sleep(kill_after)
        process.kill()
        process.join()
        found = stored(url)
        assert list(found) == order[: len(found)]
        assert all(content == (name * 50_000).encode() for name, content in found.items())
        counts.add(len(found))
    with server.hangs():  # surely in the middle
        process = multiprocessing.get_context("fork").Process(target=_publish, args=(url,))
        process.start()
        time.sleep(0.5)
        process.kill()
        process.join()
    one.publish()
    assert list(stored(url)) == order
    two = machines.store("two", url)
    two.pull()
    assert here(two) == here(one)


@pytest.mark.filterwarnings("ignore:Sending a large body")  # aiohttp's, of gcsfs
def test_an_object_of_several_parts_is_whole_or_not_there(
    server: StoreServer, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda size, chunksize=None: 5 * 2**20)  # the least of S3
    url = server.new_url()
    one = machines.store("one", url)
    content = bytes(range(256)) * (24 * 2**20 // 256)
    files.write_bytes(one.folder / "shards" / "a.tar", content)
    process = multiprocessing.get_context("fork").Process(target=_publish, args=(url,))
    process.start()
    time.sleep(0.2)
    process.kill()
    process.join()
    assert stored(url) in ({}, {"shards/a.tar": content})
    one.publish()
    two = machines.store("two", url)
    two.pull(images=True)
    assert here(two) == {"shards/a.tar": content}


def test_a_worker_publishes_for_its_flow_alone(server: StoreServer, machines: Machines) -> None:
    url = server.new_url()
    flow, worker = machines.store("flow", url), machines.store("worker", url)
    with flow.held():
        worker.work_for(flow.lease)
        write(worker, a_json="1")
        worker.publish()
    assert set(stored(url)) == {"a.json"}
    write(worker, b_json="2")
    with pytest.raises(BusyRunError, match="the flow that this worker did a unit for has ended"):
        worker.publish()
    assert set(stored(url)) == {"a.json"}


def test_a_name_that_leads_out_of_the_folder_is_refused(server: StoreServer, machines: Machines) -> None:
    url = server.new_url()
    system, root = urls.open_store(url)
    system.pipe_file(f"{root}/x/../../../out.json", b"out")
    one = machines.store("one", url)
    with pytest.raises(StoreError, match=r"leads out of its folder; rename it"):
        one.pull()
    assert not one.folder.exists() or here(one) == {}


class TestMessages:
    def test_a_bucket_that_is_not_there(self, s3: S3Server, machines: Machines) -> None:
        one = machines.store("one", "s3://no-such-bucket/run")
        with pytest.raises(StoreError, match="s3://no-such-bucket/run: there is no such bucket; create it, or correct"):
            one.pull()
        write(one, a_json="1")
        with pytest.raises(StoreError, match="there is no such bucket"):
            one.publish()

    def test_no_credentials(self, s3: S3Server, machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(StoreError, match=r"there are no credentials .*set AWS_ACCESS_KEY_ID"):
            machines.store("one", s3.new_url()).pull()

    def test_no_network(self, s3: S3Server, machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(StoreError, match=r"the store cannot be reached .*AWS_ENDPOINT_URL"):
            machines.store("one", s3.new_url()).pull()

    def test_a_bucket_of_google_that_is_not_there(self, gcs: GCSServer, machines: Machines) -> None:
        one = machines.store("one", "gs://no-such-bucket/run")
        with pytest.raises(StoreError, match="gs://no-such-bucket/run: there is no such bucket; create it, or correct"):
            one.pull()
        write(one, a_json="1")
        with pytest.raises(StoreError, match="there is no such bucket"):
            one.publish()

    def test_no_permission(self) -> None:
        with (
            pytest.raises(StoreError, match=r"s3://bucket/run: permission is denied \(Access Denied\); set AWS_ACCESS"),
            urls.asking("s3://bucket/run"),
        ):
            raise PermissionError("Access Denied")

    def test_an_object_that_vanished(self, s3: S3Server, machines: Machines) -> None:
        one = machines.store("one", s3.new_url())
        with pytest.raises(StoreError, match=r"gone\.json: the object is not there, or vanished while it was read"):
            one._download("gone.json", {"size": 1})
        assert here(one) == {}

    def test_a_package_that_is_missing(self, machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(
            StoreError, match=r"s3://b/run: s3:// needs another package: pip install 'dct-augment\[s3\]'"
        ):
            machines.store("one", "s3://b/run")
        with pytest.raises(StoreError, match=r"pip install 'dct-augment\[gs\]'"):
            machines.store("one", "gs://b/run")
