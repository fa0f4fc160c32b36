"""See the package; the last line says whether anything was lost, and the exit code, too."""

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.made_files import made_files
from tests.processes import Program
from tests.small import SMALL

ROOT = Path(__file__).parent.parent.parent
SETTINGS = (
    *SMALL,
    "tokens.validate_every=1",
    "generation.per_class=2",
    "generation.shard_size=2",
    "benchmark.arms=[real, plain_prompt, class_token, class_token_few_shot_guide]",
    "benchmark.shots=2",
    "benchmark.processes=2",
    "metrics.per_class=2",
    "report.images_per_class=1",
)
WORDS = ["--config", "digits", "--classes", "one,seven", "--output", "run"]
WORDS += [part for setting in SETTINGS for part in ("--set", setting)]
COMMANDS = ("train", "generate", "benchmark", "fit", "report", "run")
"""`run` is the whole flow with a Prefect server; the others are its parts, in this order."""

HARMS = ("kill", "full", "stop", "child", "server", "two", "damage")
_GIVE_UP = 600.0  # seconds for a command


class Lost(Exception):
    """Something that must not be."""


@dataclass
class Soak:
    """Harms runs in a folder in a way that a seed decides."""

    folder: Path
    draw: random.Random
    print_line: Callable[[str], None]
    writes: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    expected: dict[str, str] = field(default_factory=dict)
    turns: Counter[str] = field(default_factory=Counter)

    def prepare(self) -> None:
        """Make the run that nothing harms, and count the writes of each command."""
        whole = self._new("whole")
        for command in COMMANDS[:-1]:
            begun = time.monotonic()
            printed = self._must(whole, command, "count", "0")
            self.seconds[command] = time.monotonic() - begun
            self.writes[command] = int(printed.rsplit("writes: ", 1)[1].split()[0])
        self.seconds["run"], self.writes["run"] = sum(self.seconds.values()) + 15, sum(self.writes.values())
        self.expected = made_files(whole / "run")
        self.print_line(f"writes of each command: {self.writes}; {len(self.expected)} files to compare")

    def cycle(self, number: int, harms: Sequence[str]) -> None:
        """Harm one run several times, let it end, and compare.

        Raises:
            Lost: a byte differs, something is left over, or a message is none.
        """
        folder = self._new(f"cycle-{number}")
        for kind in harms:
            # What is done is soon found done: a later command has more left to harm.
            command = self.draw.choice(COMMANDS)
            begun = time.monotonic()
            said = getattr(self, f"_{kind}")(folder, command)
            self.turns[kind] += 1
            self.print_line(f"cycle {number}: {kind} in {command}: {said}, {time.monotonic() - begun:.0f} s")
            self._check_ended(folder)
        for command in COMMANDS[:-1] if self.draw.random() < 0.7 else COMMANDS[-1:]:
            self._must(folder, command)
        self._compare(folder)
        shutil.rmtree(folder)

    def _kill(self, folder: Path, command: str) -> str:
        """Kill it at one of its writes."""
        at = self.draw.randint(1, self.writes[command])
        code, printed = self._start(folder, command, "kill", str(at)).end()
        self._expect(code, printed, (0, -signal.SIGKILL))
        return f"write {at}, exit code {code}"

    def _full(self, folder: Path, command: str) -> str:
        """Let the disk be full from one of its writes on."""
        at = self.draw.randint(1, self.writes[command])
        code, printed = self._start(folder, command, "full", str(at)).end()
        self._expect(code, printed, (0, 1, 2) if command == "run" else (0, 2))
        if code and os.strerror(28) not in " ".join(printed.split()):
            raise Lost(f"a full disk is not named:\n{printed}")
        return f"write {at}, exit code {code}"

    def _stop(self, folder: Path, command: str) -> str:
        """Stop it by a signal at some moment."""
        number = self.draw.choice((signal.SIGINT, signal.SIGTERM))
        program = self._start(folder, command)
        self._wait(program, command)
        code, printed = program.end(number)
        self._expect(code, printed, (0, 128 + number))
        return f"{number.name}, exit code {code}"

    def _child(self, folder: Path, command: str) -> str:
        """Kill one of the processes that it has started."""
        return self._kill_one(folder, command, lambda line: "server start" not in line)

    def _server(self, folder: Path, _: str) -> str:
        """Kill the Prefect server of a flow."""
        return self._kill_one(folder, "run", lambda line: "server start" in line)

    def _kill_one(self, folder: Path, command: str, is_meant: Callable[[str], bool]) -> str:
        program = self._start(folder, command)
        give_up, killed = time.monotonic() + self.seconds[command], ""
        self._wait(program, command)
        while program.process.is_alive() and not killed and time.monotonic() < give_up:
            for process, line in self._processes(folder):
                if process != program.process.pid and is_meant(line) and "resource_tracker" not in line:
                    os.kill(process, signal.SIGKILL)
                    killed = line
                    break
            time.sleep(0.05)
        code, printed = program.end()
        self._expect(code, printed, (0, 1, 2))
        return f"{'killed' if killed else 'none was there'}, exit code {code}"

    def _two(self, folder: Path, command: str) -> str:
        """Start two commands in one folder; one of them may be refused, and the first may be killed."""
        first = self._start(folder, command)
        self._wait(first, command)
        log, variables = self.folder / "second.log", self._environment()
        second = Program.start(folder, "dct_augment", command, *WORDS, environment=variables, log=log)
        number = signal.SIGKILL if self.draw.random() < 0.5 else None
        codes = []
        for program, sent in ((first, number), (second, None)):
            code, printed = program.end(sent)
            self._expect(code, printed, (0, 2, -signal.SIGKILL))
            if code == 2 and "is being written by another process" not in " ".join(printed.split()):
                raise Lost(f"refused for another reason:\n{printed}")
            codes.append(code)
        return f"exit codes {codes}"

    def _damage(self, folder: Path, command: str) -> str:
        """Flip a byte of a file, remove it or empty it; `verify --repair` finds it, or it is no result."""
        names = [name for name in made_files(folder / "run") if (folder / "run" / name).stat().st_size]
        if not names:
            return "nothing is there yet"
        path = folder / "run" / self.draw.choice(names)
        data, way = bytearray(path.read_bytes()), self.draw.choice(("flip", "cut", "remove"))
        if way == "remove":
            path.unlink()
        else:
            data[self.draw.randrange(len(data))] ^= 1 << self.draw.randrange(8)
            path.write_bytes(bytes(data if way == "flip" else data[: len(data) // 2]))
        code, printed = self._verify(folder, "--repair")
        self._expect(code, printed, (0,))
        return f"{way} {path.relative_to(folder / 'run')}"

    def _wait(self, program: Program, command: str) -> None:
        """Wait for a moment in the life of a program."""
        until = time.monotonic() + self.draw.random() * self.seconds[command]
        program.until(lambda: time.monotonic() > until)

    def _start(self, folder: Path, command: str, how: str = "kill", number: str = "0") -> Program:
        words = [how, number, str(folder), command, *WORDS]
        return Program.start(folder, "tests.soak.harmed", *words, environment=self._environment())

    def _must(self, folder: Path, command: str, how: str = "kill", number: str = "0") -> str:
        """Run a command that nothing harms."""
        code, printed = self._start(folder, command, how, number).end()
        self._expect(code, printed, (0,))
        return printed

    def _verify(self, folder: Path, *more: str) -> tuple[int | None, str]:
        words = ["verify", *more, "--output", "run"]
        return Program.start(folder, "dct_augment", *words, environment=self._environment()).end()

    def _environment(self) -> dict[str, str]:
        home = {"PREFECT_API_URL": "", "DCT_AUGMENT_CACHE": str(self.folder / "cache")}
        return {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **home}

    def _new(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        return folder

    def _expect(self, code: int | None, printed: str, allowed: Sequence[int]) -> None:
        if code not in allowed or "Traceback" in printed:
            raise Lost(f"exit code {code}, allowed are {[int(one) for one in allowed]}:\n{printed}")

    def _compare(self, folder: Path) -> None:
        made = made_files(folder / "run")
        differ = sorted(name for name in made | self.expected if made.get(name) != self.expected.get(name))
        if differ:
            raise Lost(f"these files differ from those of a run without harm: {differ}")
        partial = list(folder.rglob("*.partial"))
        if partial:
            raise Lost(f"left over: {partial}")
        code, printed = self._verify(folder)
        self._expect(code, printed, (0,))
        if "all agree" not in printed:
            raise Lost(printed)

    def _check_ended(self, folder: Path) -> None:
        """Every process of a command ends with it, soon."""
        give_up = time.monotonic() + 60
        while left := self._processes(folder):
            if time.monotonic() > give_up:
                raise Lost(f"these processes did not end: {left}")
            time.sleep(0.1)

    def _processes(self, folder: Path) -> list[tuple[int, str]]:
        """List the processes whose working folder is this one."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if (entry / "cwd").resolve() == folder:
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    found.append((int(entry.name), line))
            except OSError:
                continue
        return found


def soak(folder: Path, seed: int, harms: Callable[[random.Random], Sequence[str] | None]) -> Soak:
    """Harm runs until `harms` gives no more for the next one.

    Raises:
        Lost: something was lost; the folder shows what.
    """
    draw = random.Random(seed)
    it = Soak(folder, draw, lambda line: print(line, flush=True))
    it.prepare()
    number = 0
    while (chosen := harms(draw)) is not None:
        it.cycle(number, chosen)
        number += 1
    return it


def main() -> None:
    """Read the options, and soak."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["dct_augment.pipeline.run", "dct_augment.report.page", "dct_augment.classifiers.timm_models"]
    )
    folder, until = Path(tempfile.mkdtemp(prefix="soak-")).resolve(), time.monotonic() + 60 * options.minutes

    def harms(draw: random.Random) -> Sequence[str] | None:
        return draw.choices(HARMS, k=draw.randint(2, 6)) if time.monotonic() < until else None

    try:
        done = soak(folder, options.seed, harms)
    except Lost as error:
        print(f"LOST with seed {options.seed}; {folder} is as it was left.\n{error}")
        sys.exit(1)
    shutil.rmtree(folder)
    print(
        f"nothing was lost: {done.turns.total()} harms ({', '.join(f'{n} {kind}' for kind, n in done.turns.items())})"
    )


if __name__ == "__main__":
    main()
