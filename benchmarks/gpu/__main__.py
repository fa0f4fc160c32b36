"""What the package does on a GPU at full size: time, memory and precision, with random weights in the true shapes.

    python -m benchmarks.gpu                     # ten minutes at most; the same command goes on
    python -m benchmarks.gpu --table             # what was measured, as Markdown

Nothing is downloaded. After each piece the JSON is written, and no piece is begun that would not end in time.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import timm
import torch
import transformers

from benchmarks.gpu import tables
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.registry import MODELS, PARTS, PIECES, TINY_PIECES, Piece
from dct_augment import __version__, files
from dct_augment.devices import resolve_device
from dct_augment.errors import DctAugmentError, InputError
from dct_augment.wording import in_one_line, reason_of


def main() -> None:
    """Measure what is missing, or print what was measured."""
    options = _parser().parse_args()
    try:
        if options.table:
            print(*tables.markdown(_read(options.out)), sep="\n")
            return
        bench = Bench(_indexed(resolve_device(options.device)), options.tiny)
        failed = _measure(bench, _chosen(options), options)
    except DctAugmentError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    sys.exit(1 if failed else 0)


def _parser() -> argparse.ArgumentParser:
    what = "\n".join(f"  {name:12} {part.what}" for name, part in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__.splitlines()[0],
        epilog=f"parts:\n{what}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    parser.add_argument("--models", type=_names(MODELS), default=MODELS, help=", ".join(MODELS))
    parser.add_argument("--parts", type=_names(PARTS), default=tuple(PARTS), help="comma-separated; all if not given")
    parser.add_argument("--minutes", type=_minutes, default=10.0, help="how long it may take (10)")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="the JSON (gpu.json)")
    parser.add_argument("--again", action="store_true", help="measure anew what is in --out already")
    parser.add_argument("--tiny", action="store_true", help="tiny models and one round: a test of this program")
    parser.add_argument("--table", action="store_true", help="print --out as Markdown, and measure nothing")
    return parser


def _names(allowed: Iterable[str]) -> Any:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        if unknown := [name for name in names if name not in allowed]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of: {', '.join(allowed)}")
        return names

    return parse


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not 0 <= minutes < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of minutes, 0 or more")
    return minutes


def _chosen(options: argparse.Namespace) -> list[Piece]:
    pieces, models = TINY_PIECES if options.tiny else PIECES, ("", *options.models)
    return [piece for piece in pieces if piece.part in options.parts and piece.model in models]


def _indexed(device: str) -> str:
    """Name the very GPU, as some functions of torch want it, and make it the current one."""
    if not device.startswith("cuda"):
        return device
    torch.cuda.set_device(torch.device(device) if ":" in device else torch.cuda.current_device())
    return f"cuda:{torch.cuda.current_device()}"


def _measure(bench: Bench, pieces: Sequence[Piece], options: argparse.Namespace) -> list[str]:
    """Measure the pieces that --out lacks, as far as the minutes go; returns the names of those that failed."""
    result = _begin(bench, options.out)
    missing = [piece for piece in pieces if options.again or "rows" not in result["pieces"].get(piece.name, {})]
    began, expected, late, failed = time.perf_counter(), 0.0, [], []
    for piece in missing:
        spent = time.perf_counter() - began
        pace = spent / expected if expected else 1.0  # of this machine, in units of what was estimated
        if spent + piece.seconds * pace > 60 * options.minutes:
            late.append(f"{piece.name} (about {piece.seconds * pace / 60:.1f} minutes)")
            continue
        print(f"{piece.name} ...", end=" ", flush=True)
        found = _measured(bench, piece)
        expected += piece.seconds
        print(found.get("failed") or f"{found['took']:.0f} s", flush=True)
        if "failed" in found:
            failed.append(piece.name)
        result["pieces"][piece.name] = found
        files.write_text(options.out, json.dumps(result, indent=1) + "\n")
    if late:
        print(f"time is up ({options.minutes:g} minutes); the same command goes on with: {', '.join(late)}")
    if failed:
        print(f"failed: {', '.join(failed)}; the reasons are in {options.out}, and the same command tries again")
    if not (late or failed):
        print(f"all is measured, in {options.out}; as tables: add --table")
    return failed


def _measured(bench: Bench, piece: Piece) -> dict[str, Any]:
    """Measure a piece; an error of it is what is noted, and the next piece may do better."""
    began = time.perf_counter()
    found: dict[str, Any] = {"commit": _commit()}
    try:
        found["rows"] = piece.measure(bench)
    except Exception as error:  # whatever libraries raise on a device that nobody has tried
        bench.forget()
        found["failed"] = f"{type(error).__name__}: {in_one_line(error)}"
    found["took"] = round(time.perf_counter() - began, 1)
    return found


def _begin(bench: Bench, out: Path) -> dict[str, Any]:
    """Return what --out has, to go on with.

    Raises:
        InputError: it was measured on another machine, or at another size.
    """
    machine = _machine(bench)
    if not out.exists():
        return {"machine": machine, "pieces": {}}
    result = _read(out)
    different = [key for key in machine if result["machine"].get(key) != machine[key]]
    if different:
        there, here = ({key: values.get(key) for key in different} for values in (result["machine"], machine))
        raise InputError(f"--out {out} is of {_listed(there)}; here it is {_listed(here)}. Give another --out")
    return result


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _read(out: Path) -> dict[str, Any]:
    """Read a result.

    Raises:
        InputError: there is none, or something else.
    """
    try:
        result = json.loads(out.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fix = "Measure first, without --table, or name another --out"
        raise InputError(f"--out {out} cannot be read: {reason_of(error)}. {fix}") from error
    if not isinstance(result, dict) or not all(isinstance(result.get(key), dict) for key in ("machine", "pieces")):
        raise InputError(f"--out {out} is no result of this benchmark: it lacks machine and pieces. Name another --out")
    return result


def _machine(bench: Bench) -> dict[str, Any]:
    """Describe what decides the figures: device, driver and libraries."""
    machine = {"device": platform.processor() or platform.machine(), "cores": os.cpu_count(), "tiny": bench.tiny}
    if bench.on_gpu:
        properties = torch.cuda.get_device_properties(bench.device)
        machine |= {"device": properties.name, "memory_bytes": properties.total_memory, "driver": _driver()}
        machine |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    libraries = {module.__name__: module.__version__ for module in (torch, diffusers, transformers, timm)}
    return {**machine, "python": platform.python_version(), **libraries, "dct_augment": __version__}


def _driver() -> str:
    return _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0] or "unknown"


def _commit() -> str:
    """Name the commit of the package; empty where it is no checkout, `+` where something is changed."""
    folder = str(Path(__file__).parent)
    commit = _output("git", "-C", folder, "rev-parse", "HEAD")
    changed = commit and _output("git", "-C", folder, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}+" if changed else commit


def _output(*command: str) -> str:
    """Return what a program prints; nothing if it is not there, or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


if __name__ == "__main__":
    main()
