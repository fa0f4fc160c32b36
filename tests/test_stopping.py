"""Ctrl-C, as a terminal sends it to a command and all its processes, from the first moment on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from flows import server
from tests.small import SMALL

COMMAND = [sys.executable, "-m", "dct_augment"]
FORKING = ("train", "--classes", "crane,kiwi", "--set", "tokens.classes_per_work_unit=1", "--set", "runner.processes=2")
WORK = (
    "--config",
    "digits",
    "--classes",
    "one,seven",
    *(word for line in (*SMALL, "runner.processes=2", "benchmark.processes=2") for word in ("--set", line)),
)
Moment = Callable[[int], bool]


def answers(process: int) -> bool:
    """Whether it answers SIGTERM: the first thing that a command does."""
    status = Path(f"/proc/{process}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def imports_torch(process: int) -> bool:
    return "libtorch_cpu" in Path(f"/proc/{process}/maps").read_text()


def has_begun(words: str) -> Moment:
    """Whether the command has begun a process with these words."""
    return lambda process: any(words in line for line in listed("--ppid", str(process)))


def has_made(pattern: str) -> Moment:
    """Whether the command has made a file in its folder."""
    return lambda process: any(Path(f"/proc/{process}/cwd").glob(pattern))


def listed(*selection: str) -> list[str]:
    """The processes that `ps` selects."""
    printed = subprocess.run(
        ["ps", "-ww", "-o", "stat=,args=", *selection], capture_output=True, text=True, check=False
    )
    return [line for line in printed.stdout.splitlines() if not line.startswith("Z")]


def of_folder(folder: Path) -> list[str]:
    """The processes that work in a folder, whatever their session."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cwd").readlink() == folder:
                found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


def interrupt(folder: Path, words: tuple[str, ...], moment: Moment) -> tuple[int, str]:
    """Send Ctrl-C to a command and its processes when the moment has come; its exit code, and what all printed."""
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*COMMAND, *words],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PREFECT_HOME": str(folder / "prefect"), "PREFECT_API_URL": ""},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # tests may ignore it
        )
        try:
            while not moment(process.pid):
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.002)
            os.killpg(process.pid, signal.SIGINT)
            code = process.wait(60)
        finally:
            process.kill()
        give_up = time.monotonic() + 30
        while left := of_folder(folder):
            assert time.monotonic() < give_up, left
            time.sleep(0.05)
    return code, (folder / "log").read_text()


@pytest.mark.parametrize(
    ("words", "moment"),
    [
        (("doctor",), answers),
        (("train",), imports_torch),
        (("serve", "--port", "{port}"), has_begun("prefect server start")),
        (FORKING, has_begun("forkserver")),
        (("init", "photos", "--yes"), has_begun("spawn_main")),
        (("run", *WORK), has_made("runs/*/tokens/*.safetensors")),
        (("benchmark", *WORK), has_made("runs/*/benchmark/trials/*.json")),
    ],
    ids=["first-moment", "imports", "serve", "forkserver", "reading-processes", "run", "trials"],
)
@pytest.mark.slow
def test_ctrl_c_is_answered_at_once_with_one_line(words: tuple[str, ...], moment: Moment, tmp_path: Path) -> None:
    if words[0] == "init":
        for name in "abc":
            (tmp_path / "photos" / name).mkdir(parents=True)
            for number in range(500):
                Image.new("RGB", (8, 8), (number % 256, number // 256, ord(name))).save(
                    tmp_path / "photos" / name / f"{number}.png"
                )
    words = tuple(word.format(port=server.free_port()) for word in words)
    code, printed = interrupt(tmp_path, words, moment)
    assert code == 130, printed
    assert printed.count("stopped") == 1, printed
    for unwanted in ("Traceback", "leaked", "Aborted", "Error"):
        assert unwanted not in printed


SWALLOWS = """
import os, signal, sys
from dct_augment import stopping

def program():
    try:
        os.kill(os.getpid(), signal.{name})
    except BaseException as error:
        raise ValueError("of a library") from error

stopping.run(program)
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_error_that_a_library_makes_of_a_stop_is_not_shown(name: str, code: int) -> None:
    done = subprocess.run([sys.executable, "-c", SWALLOWS.format(name=name)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "stopped\n")


def test_errors_of_a_program_that_nobody_stops_are_its_own() -> None:
    program = "from dct_augment import stopping\nstopping.run(lambda: 1 / 0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "stopped" not in done.stderr


DEAF = """
import threading, time
from dct_augment import processes, stopping
stopping._PATIENCE = 0.5
def program():
    processes.begin_server()
    threading.Thread(target=stopping.abort, args=("error: the server of this run ended",)).start()
    while True:
        try:
            time.sleep(60)
        except BaseException:  # a library that catches everything
            pass
stopping.run(program)
"""


def left_behind(folder: Path, program: str) -> tuple[int, str, list[str]]:
    """Run a program; its exit code, what it printed, and the servers that still import a second after its end."""
    log = folder / "log"
    with log.open("w") as stream:  # a pipe would be waited for until what is left has ended, too
        code = subprocess.run([sys.executable, "-c", program], cwd=folder, stderr=stream, check=False).returncode
    until = time.monotonic() + 1
    while (left := [line for line in of_folder(folder) if "forkserver" in line]) and time.monotonic() < until:
        time.sleep(0.02)
    return code, log.read_text(), left


def test_a_program_that_is_aborted_and_does_not_listen_leaves_no_server(tmp_path: Path) -> None:
    assert left_behind(tmp_path, DEAF) == (1, "error: the server of this run ended\n", [])


def test_a_program_that_ends_leaves_no_server(tmp_path: Path) -> None:
    program = "from dct_augment import processes, stopping\nstopping.run(processes.begin_server)"
    assert left_behind(tmp_path, program) == (0, "", [])
