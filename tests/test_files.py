import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dct_augment import files
from dct_augment.errors import BusyRunError

HOLDER = """
import sys, time
from pathlib import Path
from dct_augment import files
with files.lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of `tmp_path / "run"`."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_atomic_makes_missing_folders_and_the_whole_file(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a" / "b" / "text", "whole é")
    assert (tmp_path / "a" / "b" / "text").read_text(encoding="utf-8") == "whole é"
    assert listing(tmp_path / "a" / "b") == ["text"]


@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt, SystemExit, OSError])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, interruption: type[BaseException]
) -> None:
    path = tmp_path / "text"
    files.write_text(path, "old")

    def write() -> None:
        with files.atomic(path) as partial:
            partial.write_text("half of the ne")
            raise interruption

    with pytest.raises(interruption):
        write()
    assert (listing(tmp_path), path.read_text()) == (["text"], "old")


def test_a_new_file_is_invisible_until_it_is_whole(tmp_path: Path) -> None:
    with files.atomic(tmp_path / "text") as partial:
        partial.write_text("half")
        assert not (tmp_path / "text").exists()
    assert (tmp_path / "text").read_text() == "half"


def test_two_writers_with_one_process_number_do_not_disturb_each_other(tmp_path: Path) -> None:
    """As in two containers that share a folder: each has a process 1, perhaps on hosts of the same name."""
    with files.atomic(tmp_path / "text") as first, files.atomic(tmp_path / "text") as second:
        first.write_text("first")
        second.write_text("second")
        assert all(os.uname().nodename[:8] in path.name for path in (first, second))
    assert (tmp_path / "text").read_text() == "first"
    assert listing(tmp_path) == ["text"]


def test_forgetting_to_write_is_an_error_and_keeps_the_old_file(tmp_path: Path) -> None:
    files.write_text(tmp_path / "text", "old")
    with pytest.raises(FileNotFoundError), files.atomic(tmp_path / "text"):
        pass
    assert (tmp_path / "text").read_text() == "old"


def test_sha256_is_the_known_one(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert files.sha256(tmp_path / "abc").startswith("ba7816bf8f01cfea")


def test_sweep_removes_what_a_killed_writer_left_and_nothing_else(tmp_path: Path) -> None:
    with files.atomic(tmp_path / "text") as partial:
        partial.write_text("x")
        os.link(partial, left := partial.with_name(partial.name.replace(str(os.getpid()), "1")))
    (tmp_path / ".hidden").touch()
    (tmp_path / "my.partial").touch()
    assert left.exists()
    files.sweep(tmp_path)
    assert listing(tmp_path) == [".hidden", "my.partial", "text"]


def test_sweeping_a_folder_that_is_not_there_does_nothing(tmp_path: Path) -> None:
    files.sweep(tmp_path / "gone")
    assert listing(tmp_path) == []


@pytest.mark.usefixtures("holder")
def test_a_folder_locked_by_another_process_is_refused_and_named(tmp_path: Path) -> None:
    with pytest.raises(BusyRunError, match=r"run is being written by another process.*--output"):
        files.lock(tmp_path / "run").__enter__()


def test_the_lock_is_free_after_its_holder_is_killed(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with files.lock(tmp_path / "run"):
        pass


def can_be_locked_elsewhere(folder: Path) -> bool:
    """Whether another process gets the lock of a folder now."""
    code = "import sys, pathlib; from dct_augment import files; files.lock(pathlib.Path(sys.argv[1])).__enter__()"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, check=False)
    return done.returncode == 0


def test_a_lock_that_is_taken_twice_is_held_until_the_outer_one_ends(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with files.lock(folder):
        with files.lock(tmp_path / "x" / ".." / "run"):
            pass
        assert not can_be_locked_elsewhere(folder)
    assert can_be_locked_elsewhere(folder)


def test_the_lock_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), files.lock(tmp_path):
        raise ValueError("inside")
    assert can_be_locked_elsewhere(tmp_path)


def test_a_folder_that_was_locked_and_not_used_is_gone_with_the_lock(tmp_path: Path) -> None:
    with files.lock(tmp_path / "new"):
        pass
    assert listing(tmp_path) == []
    (tmp_path / "old").mkdir()
    for used in ("old", "new"):
        with files.lock(tmp_path / used):
            (tmp_path / "new").mkdir(exist_ok=True)
            (tmp_path / "new" / "result").touch()
    assert (tmp_path / "old").is_dir()
    assert "result" in listing(tmp_path / "new")


def test_one_process_at_a_time_holds_the_lock_of_a_folder_that_comes_and_goes(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from dct_augment import files\n"
        "root, alone = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])\n"
        "for _ in range(300):\n"
        "    with files.lock(root, wait=True):\n"
        "        alone.touch(exist_ok=False)\n"
        "        alone.unlink()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run"), str(tmp_path / "alone")]
    working = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[1] for process in working] == [""] * 3
    assert not (tmp_path / "alone").exists()


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    with files.atomic_folder(tmp_path / "out") as partial:
        (partial / "text").write_text("whole")
        assert not (tmp_path / "out").exists()
    assert listing(tmp_path) == ["out"]


def test_a_folder_is_replaced_when_the_new_one_is_whole(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with files.atomic_folder(tmp_path / "out", replace=True) as partial:
        (partial / "new").touch()
        assert listing(tmp_path / "out") == ["old"]
    assert listing(tmp_path / "out") == ["new"]
    assert listing(tmp_path) == ["out"]


@pytest.mark.parametrize("replace", [False, True])
def test_an_interrupted_folder_leaves_the_old_one_and_nothing_else(tmp_path: Path, replace: bool) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()

    def interrupted() -> None:
        with files.atomic_folder(tmp_path / "out", replace=replace) as partial:
            (partial / "new").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert listing(tmp_path) == ["out"]
    assert listing(tmp_path / "out") == ["old"]


def test_a_folder_with_files_is_not_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with pytest.raises(OSError, match="not empty"), files.atomic_folder(tmp_path / "out"):
        pass
    assert listing(tmp_path) == ["out"]


REPLACER = """
import sys
from pathlib import Path
from dct_augment import files
print("ready", flush=True)
sys.stdin.readline()
for number in range(200):
    with files.atomic_folder(Path(sys.argv[1]), replace=True) as partial:
        (partial / "a").write_text(f"{sys.argv[2]} {number}")
        (partial / "b").write_text(f"{sys.argv[2]} {number}")
"""


def test_processes_that_replace_one_folder_do_not_stop_each_other(tmp_path: Path) -> None:
    """Workers that each make the same guide."""
    command = [sys.executable, "-c", REPLACER, str(tmp_path / "out")]
    pipe = subprocess.PIPE
    writers = [subprocess.Popen([*command, name], stdin=pipe, stdout=pipe, stderr=pipe, text=True) for name in "xyz"]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()
    assert [writer.communicate("go\n")[1] for writer in writers] == ["", "", ""]
    assert listing(tmp_path) == ["out"]
    assert (tmp_path / "out" / "a").read_text() == (tmp_path / "out" / "b").read_text()


def test_a_link_to_a_folder_is_kept(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "old").touch()
    (tmp_path / "link").symlink_to("real")
    with files.atomic_folder(tmp_path / "link", replace=True) as partial:
        (partial / "new").touch()
    assert listing(tmp_path / "real") == ["new"]
    assert listing(tmp_path) == ["link", "real"]


def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(NotADirectoryError), files.atomic_folder(tmp_path / "out", replace=True):
        pass
    assert (tmp_path / "out").read_text() == "mine"


def test_what_killed_processes_left_of_a_folder_is_removed_and_that_of_running_ones_is_not(tmp_path: Path) -> None:
    done = subprocess.Popen(["true"])
    done.wait()
    host = os.uname().nodename
    left = [f".out.{host}-{done.pid}-0a1b.partial", f".out.{host}-{done.pid}-2c3d.partial"]
    kept = [f".out.{host}-{os.getppid()}-0a.partial", f".other.{host}-{done.pid}-0a.partial", ".out.x.partial"]
    kept.append(f".out.another-machine-{done.pid}-0a.partial")
    for name in (*left, *kept):
        (tmp_path / name).mkdir()
    with files.atomic_folder(tmp_path / "out"):
        pass
    assert listing(tmp_path) == sorted([*kept, "out"])


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_files_have_the_mode_that_the_umask_gives(tmp_path: Path, umask: int, mode: int) -> None:
    """safetensors gives its files 0600, whatever the umask says."""
    before = os.umask(umask)
    try:
        with files.atomic(tmp_path / "token.safetensors") as partial:
            save_file({"token": np.zeros(2, np.float32)}, partial)
        with files.atomic_folder(tmp_path / "guide") as folder:
            save_file({"token": np.zeros(2, np.float32)}, folder / "heads.safetensors")
    finally:
        os.umask(before)
    written = [tmp_path / "token.safetensors", tmp_path / "guide" / "heads.safetensors"]
    assert [oct(path.stat().st_mode & 0o777) for path in written] == [oct(mode)] * 2
    assert [path.name for path in (tmp_path / "guide").iterdir()] == ["heads.safetensors"]


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    files.check_writable(tmp_path)
    files.check_writable(tmp_path / "new" / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path, error in (
        (tmp_path / "file", FileExistsError),
        (tmp_path / "file" / "run", NotADirectoryError),
        (Path("/proc/run"), PermissionError),
    ):
        with pytest.raises(error) as caught:
            files.check_writable(path)
        assert caught.value.filename in (str(tmp_path / "file"), "/proc")


def test_a_json_file_is_damaged_whose_hash_has_lost_its_name_and_another_key_too(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    files.write_json(path, {"accuracy": 0.625, "truth": [0, 1]})
    text = path.read_text().replace("sha256", "sha2v6").replace("accuracy", "accurasy")
    path.write_text(text)
    assert files.read_json(path) == {}


def test_a_json_file_in_the_place_of_another_is_damaged_but_one_of_an_older_version_is_read(tmp_path: Path) -> None:
    files.write_json(tmp_path / "guide.json", {"accuracy": 1})
    (tmp_path / "judge.json").write_bytes((tmp_path / "guide.json").read_bytes())
    assert files.read_json(tmp_path / "guide.json") == {"accuracy": 1}
    assert files.read_json(tmp_path / "judge.json") == {}
    (tmp_path / "old.json").write_text(json.dumps(files.signed({"accuracy": 1})))
    assert files.read_json(tmp_path / "old.json") == {"accuracy": 1}


def test_a_pipe_has_no_hash_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert files.sha256(tmp_path / "pipe") == ""


FULL = """
import resource, signal, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from dct_augment import files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with files.atomic_folder(Path(sys.argv[1])) as folder:
        save_file({"x": torch.zeros(9999)}, folder / "model.safetensors")
except OSError as error:
    print(error.errno, error.filename)
"""


def test_a_disk_that_is_full_for_safetensors_is_an_error_of_the_system_that_names_the_place(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path / "guide")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(errno.EFBIG), str(tmp_path / "guide")], done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_gives_way_to_a_file_and_one_that_holds_something_stays(tmp_path: Path) -> None:
    for name in ("empty", "full"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    files.write_text(tmp_path / "empty", "y")
    assert (tmp_path / "empty").read_text() == "y"
    with pytest.raises(IsADirectoryError):
        files.write_text(tmp_path / "full", "y")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "full", "mine"]
