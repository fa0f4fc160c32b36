"""Rehearses full size: builds fake data of the size of CUB and ImageNet, and runs the real commands within limits.

    python -m benchmarks.rehearse                  # about half an hour; the same command goes on
    python -m benchmarks.rehearse --table          # what was measured, as Markdown

A command that needs more memory than its limit is killed, and the exit code is 1. Nothing is downloaded. After each
row the result is written; a row that was measured with the same code is not measured again.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.rehearse import limits
from benchmarks.rehearse.rows import Row, rows
from benchmarks.rehearse.sizes import SIZES
from dct_augment import files

_ROOT = Path(__file__).parents[2]
_HEAD = ("row", "what", "CPU, s", "at most", "s", "peak, GB", "at most", "")

Record = dict[str, Any]


def main() -> int:
    """Measure what is missing, and print the table; return the exit code."""
    parser = _parser()
    options = parser.parse_args()
    every = rows(SIZES[options.size])
    chosen = _chosen(every, options.rows)
    if not chosen:
        parser.error(f"--rows {options.rows}: none of {', '.join(row.name for row in every)}")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that no process is left
    rehearsal = Rehearsal(options.out.absolute() / options.size, every, options.most_gb)
    if not options.table:
        rehearsal.measure(chosen, again=options.again)
    lines = [*rehearsal.table()]
    print("", *lines, sep="\n")
    failed = rehearsal.failed()
    if failed:
        print(f"\nnot within the limits: {', '.join(failed)}; what they printed is in {rehearsal.folder / 'logs'}")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rehearse",
        description=__doc__.partition("\n\n    ")[0],
        epilog="rows:\n" + "\n".join(f"  {row.name:26} {row.what}" for row in rows(SIZES["full"])),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", choices=list(SIZES), default="full", help="million: 1,000,000 images of ImageNet")
    parser.add_argument("--rows", default="", help="comma-separated names or their beginnings; all if not given")
    parser.add_argument("--out", type=Path, default=Path("runs/rehearse"), help="folder of everything (runs/rehearse)")
    parser.add_argument("--again", action="store_true", help="measure the chosen rows anew")
    parser.add_argument("--table", action="store_true", help="print what was measured, and measure nothing")
    parser.add_argument("--most-gb", type=float, help="no limit of memory is higher: shows that they are enforced")
    return parser


def _chosen(every: Sequence[Row], names: str) -> list[Row]:
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = {row.name for row in every}
    beginnings = tuple(name for name in wanted if name not in known)
    return [row for row in every if not wanted or row.name in wanted or row.name.startswith(beginnings)]


class Rehearsal:
    """The rows that were measured in one folder, of one size."""

    def __init__(self, folder: Path, every: Sequence[Row], most_gb: float | None = None) -> None:
        self.folder, self._most_gb = folder, most_gb
        self._rows = {row.name: row for row in every}
        self._code = _code()
        self._records: dict[str, Record] = dict(files.read_json(folder / "rows.json").get("rows", {}))

    def measure(self, chosen: Iterable[Row], *, again: bool = False) -> None:
        """Measure rows, after those that they need; not what is measured already, or made."""
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        wanted = [row.name for row in chosen]
        needed = {name for row in wanted for name in self._needed(row)}
        for name, row in self._rows.items():
            if name in needed and not self._is_done(row, again=again and name in wanted):
                print(f"{name} ...", end=" ", flush=True)
                self._records[name] = record = self._measured(row)
                took = f"{record['cpu_seconds']:.0f} s, {record['peak_bytes'] / 1e9:.2f} GB"
                print(record["problem"] or took, flush=True)
                self._write()

    def _needed(self, name: str) -> Iterator[str]:
        yield name
        for other in self._rows[name].needs:
            yield from self._needed(other)

    def _is_done(self, row: Row, *, again: bool) -> bool:
        record = self._records.get(row.name)
        if again or record is None or record["problem"] or record["what"] != row.what:
            return False
        return (self.folder / row.leaves).exists() if row.leaves else bool(record["code"] == self._code)

    def _measured(self, row: Row) -> Record:
        commit = _git("rev-parse", "--short=12", "HEAD")
        record: Record = {"what": row.what, "commit": commit, "code": self._code, "most_cpu": row.most_cpu, "note": ""}
        record |= {"cpu_seconds": 0.0, "wall_seconds": 0.0, "peak_bytes": 0, "most_bytes": None}
        if failed := [name for name in row.needs if self._records[name]["problem"]]:
            return {**record, "problem": f"not run: {failed[0]} has failed"}
        for path in row.fresh:
            _remove(self.folder / path)
        log = self.folder / "logs" / f"{row.name.replace('/', '-').replace(' ', '-')}.log"
        record["most_bytes"] = most = self._most_bytes(row)
        measured = limits.run(
            (sys.executable, "-m", *row.command),
            most_bytes=most,
            folder=self.folder,
            log=log,
            environment=self._environment(row.name.partition("/")[0]),
        )
        printed = log.read_text(encoding="utf-8", errors="replace")
        record |= {
            "cpu_seconds": round(measured.cpu_seconds, 1),
            "wall_seconds": round(measured.wall_seconds, 1),
            "peak_bytes": measured.peak_bytes,
            "enforced_by": measured.enforced_by,
            "problem": _problem(row, measured, most, printed),
        }
        return record if record["problem"] else {**record, "note": row.note(printed)}

    def _most_bytes(self, row: Row) -> int | None:
        if row.most_gb is None:
            return None
        alone = row.times * self._records[row.above]["peak_bytes"] if row.above else 0
        most = int(row.most_gb * 1e9) + alone
        return most if self._most_gb is None else min(most, int(self._most_gb * 1e9))

    def _environment(self, data: str) -> Mapping[str, str]:
        """Let nothing be downloaded, and nothing of the user's be read or written."""
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
        cache, home = self.folder / "cache" / data, self.folder / "home"
        own = {"DCT_AUGMENT_CACHE": str(cache), "HF_HOME": str(home), "PREFECT_HOME": str(home)}
        return {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", **own}

    def _write(self) -> None:
        result = {"machine": _machine(), "rows": {name: self._records[name] for name in self._ordered()}}
        files.write_text(self.folder / "rows.json", json.dumps(result, indent=1) + "\n")
        files.write_text(self.folder / "table.md", "\n".join(self.table()) + "\n")

    def _ordered(self) -> list[str]:
        return [name for name in self._rows if name in self._records]

    def failed(self) -> list[str]:
        """Name the rows that were not within their limits."""
        return [name for name in self._ordered() if self._records[name]["problem"]]

    def table(self) -> Iterator[str]:
        """Write what was measured as a table in Markdown, line by line."""
        machine = files.read_json(self.folder / "rows.json").get("machine") or _machine()
        yield ", ".join(f"{key} {value}" for key, value in machine.items()) + "\n"
        yield _line(_HEAD)
        yield "|" + " --- |" * len(_HEAD)
        records = [self._records[name] for name in self._ordered()]
        for name, record in zip(self._ordered(), records, strict=True):
            yield _line((name, record["what"], *_figures(record)))
        cpu, wall = (sum(record[key] for record in records) for key in ("cpu_seconds", "wall_seconds"))
        yield _line(("all", "", f"{cpu:,.0f}", "", f"{wall:,.0f}", "", "", ""))


def _figures(record: Record) -> Sequence[str]:
    most_cpu, most = record["most_cpu"], record["most_bytes"]
    return (
        f"{record['cpu_seconds']:,.1f}",
        "" if most_cpu is None else f"{most_cpu:g}",
        f"{record['wall_seconds']:,.0f}",
        f"{record['peak_bytes'] / 1e9:.2f}",
        "" if most is None else f"{most / 1e9:.2f}",
        record["problem"] or record["note"] or "ok",
    )


def _problem(row: Row, measured: limits.Measured, most: int | None, printed: str) -> str:
    """Say what was not as it must be; empty if all was."""
    if measured.is_over and most is not None:
        return f"**killed: more than {most / 1e9:.2f} GB**"
    if measured.code:
        last = next((line.strip() for line in reversed(printed.splitlines()) if line.strip()), "nothing printed")
        return f"**exit code {measured.code}: {last[:200].replace('|', '/')}**"
    if row.most_cpu is not None and measured.cpu_seconds > row.most_cpu:
        return f"**{measured.cpu_seconds:.0f} s, more than {row.most_cpu:g}**"
    found = row.problem(printed)
    return f"**{found}**" if found else ""


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _machine() -> Mapping[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "GB of memory": f"{memory / 1e9:.0f}",
        "threads of torch": os.environ.get("OMP_NUM_THREADS", "one per core"),
        "python": platform.python_version(),
    }


def _code() -> str:
    """Name the code that is measured: its tree in git, and a hash of what is changed in it."""
    tree = _git("rev-parse", "--short=12", "HEAD:dct_augment")
    changed = _git("diff", "HEAD", "--", "dct_augment")
    return f"{tree}+{hashlib.sha256(changed.encode()).hexdigest()[:8]}" if changed else tree


def _git(*words: str) -> str:
    command = ("git", "-C", str(_ROOT), *words)
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
