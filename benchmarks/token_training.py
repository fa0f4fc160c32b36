"""Class tokens by every gradient method and by the paper's own loop: judge accuracy against denoiser evaluations.

    python -m benchmarks.token_training --plot docs/token_methods.svg
    python -m benchmarks.token_training --variants "look_ahead*;paper*" --classes crane,kiwi

Everything is trained in one process, one after the other, so seconds can be compared; `--resume` goes on after the
variants that `--out` has. A variant's curve says what the token is worth that one would have after so many evaluations
a class: training keeps snapshots, and the held-out judge looks at fresh images of each snapshot afterwards; this
looking costs nothing in the curve.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from benchmarks import paper_loop
from dct_augment import classifiers, config, datasets, diffusion, prompts
from dct_augment.config import Config, seed_from
from dct_augment.intervals import proportion
from dct_augment.records import ClassInfo
from dct_augment.tokens.class_token_trainer import ClassTokenTrainer

GOAL, HALFWAY = 0.8, 0.6
BUDGETS = tuple(round(32 * 2 ** (step / 2)) for step in range(23))  # up to 65,536 evaluations a class
GRID = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)  # in mean word norms, as tokens.learning_rate
BEST = 0.8
"""The step size of the grid with which the paper's loop ends best."""
LINES = {
    "direct_align (default)": ("#0072b2", "-"),
    "look_ahead": ("#009e73", "-"),
    "look_ahead, 4 images an update": ("#009e73", "--"),
    "direct_align, 4 images an update": ("#0072b2", "--"),
    "last_step, 4 images an update": ("#e69f00", "--"),
    "last_k, 4 images an update": ("#56b4e9", "--"),
    "lv, 4 images an update": ("#cc79a7", "--"),
    "full, 4 images an update": ("#8c6d31", "--"),
    f"paper, step {BEST}, 5 steps": ("#d55e00", "-"),
    f"paper, step {BEST}, 5 steps, never stopped": ("#d55e00", "-."),
    "paper, own step size, 5 steps": ("#d55e00", "--"),
    "paper, own step size, 30 steps": ("#d55e00", ":"),
}
"""Colour and line of the variants in the plot."""


@dataclass
class Curve:
    """What a variant showed: accuracy when no class may spend more than each budget, and where it ended.

    `spent` and `seconds` are means over the classes: most end before the larger budgets. `peak` is the most memory in
    tensors, in MB, that the gradient of a single image takes beyond the models; `whole` that of an update as it is run,
    of many images at once.
    """

    title: str
    spent: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    final: float = 0.0
    worst: float = 0.0
    evaluations: float = 0.0
    total_seconds: float = 0.0
    peak: float = 0.0
    whole: float = 0.0

    def until(self, goal: float, what: Sequence[float]) -> float | None:
        """Evaluations or seconds a class to reach a mean accuracy, between two budgets by straight lines."""
        for place, accuracy in enumerate(self.accuracies):
            if accuracy >= goal:
                if place == 0:
                    return float(what[0])
                before = self.accuracies[place - 1]
                share = (goal - before) / (accuracy - before)
                return what[place - 1] + share * (what[place] - what[place - 1])
        return None


@dataclass(frozen=True)
class Snapshot:
    """The token (n, D) one would have after so much work on its class."""

    evaluations: int
    seconds: float
    vector: torch.Tensor


Snapshots = dict[str, list[Snapshot]]


@dataclass
class Bench:
    """Models and settings that all variants share."""

    settings: Config
    classes: Sequence[ClassInfo]
    backend: Any
    guide: Any
    judge: Any
    images: int
    tiny: Any = None
    epochs: int = paper_loop.EPOCHS

    @torch.no_grad()
    def judged(self, info: ClassInfo, vector: torch.Tensor) -> float:
        """Share of fresh images with this token that the judge recognises."""
        config = self.settings.prompts
        chosen = (prompts.choose(config.templates, config.contexts_of(info), number) for number in range(self.images))
        lines = [prompts.build(template, info.name, token="<dct-x>", context=context) for template, context in chosen]
        seeds = [seed_from("fresh", info.slug, number) for number in range(self.images)]
        conditioning = self.backend.encode(lines, vector.expand(self.images, -1, -1))
        images = sampler(self.backend, self.settings).generate(seeds, conditioning)
        (target,) = self.judge.targets([info])
        return (self.judge.logits(images).argmax(1) == target).float().mean().item()

    def curve(self, title: str, snapshots: Snapshots) -> Curve:
        """Judge the snapshot that each class has at each budget; every snapshot once."""
        known: dict[tuple[str, int], float] = {}

        def at(info: ClassInfo, budget: float) -> tuple[float, Snapshot]:
            mine = snapshots[info.slug]
            place = max((n for n, one in enumerate(mine) if one.evaluations <= budget), default=0)
            if (info.slug, place) not in known:
                known[info.slug, place] = self.judged(info, mine[place].vector)
            return known[info.slug, place], mine[place]

        curve = Curve(title)
        for budget in BUDGETS:
            found = [at(info, budget) for info in self.classes]
            curve.spent.append(sum(one.evaluations for _, one in found) / len(found))
            curve.accuracies.append(sum(share for share, _ in found) / len(found))
            curve.seconds.append(sum(one.seconds for _, one in found) / len(found))
            if all(one is snapshots[info.slug][-1] for (_, one), info in zip(found, self.classes, strict=True)):
                break
        ends = [at(info, float("inf")) for info in self.classes]
        curve.final = sum(share for share, _ in ends) / len(ends)
        curve.worst = min(share for share, _ in ends)
        curve.evaluations = sum(one.evaluations for _, one in ends) / len(ends)
        curve.total_seconds = sum(one.seconds for _, one in ends) / len(ends)
        return curve


@dataclass(frozen=True)
class Variant:
    """The product's trainer with some settings; `balanced` is `model.memory`, else it is `fast`."""

    bench: Bench
    overrides: Sequence[str] = ()
    tiny: bool = False
    balanced: bool = True

    def trainer(self, *more: str) -> tuple[ClassTokenTrainer, Config]:
        """A trainer, with the models set up for it."""
        backend = self.bench.backend
        backend.tiny = self.bench.tiny if self.tiny else None
        for model in (backend.denoiser, backend.vae):
            (model.enable_gradient_checkpointing if self.balanced else model.disable_gradient_checkpointing)()
        settings = config.override(self.bench.settings, (*self.overrides, *more))
        trainer = ClassTokenTrainer(
            sampler(backend, settings),
            self.bench.guide,
            tokens_config=settings.tokens,
            prompts_config=settings.prompts,
        )
        return trainer, settings

    def train(self) -> Snapshots:
        """Train all classes."""
        return ours(self.bench, *self.trainer())

    def peaks(self) -> tuple[float, float]:
        """MB that the gradient of one image takes, and that a whole update takes; once all caches are filled."""
        found = []
        for settings in (("tokens.images_per_update=1", "tokens.classes_per_batch=1"), ()):
            trainer, chosen = self.trainer(*settings)
            states = [trainer._new_state(info) for info in self.bench.classes[: chosen.tokens.classes_per_batch]]
            trainer._update(states)
            found.append(peak_memory(lambda trainer=trainer, states=states: trainer._update(states)))
        return found[0], found[1]


def sampler(backend: diffusion.Backend, settings: Config) -> diffusion.Sampler:
    """The sampler that a configuration describes."""
    return diffusion.Sampler.from_config(backend, settings.sampling, negative_prompt=settings.prompts.negatives[0])


def peak_memory(work: Callable[[], Any]) -> float:
    """The most memory in tensors, in MB, that some work holds at a time beyond what was there before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    known = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = (event.nbytes() for event in sorted(known, key=lambda event: event.start_ns()))
    return max(accumulate(sizes), default=0) / 1e6


def ours(bench: Bench, trainer: ClassTokenTrainer, settings: Config) -> Snapshots:
    """Train by the product's own trainer; a snapshot a round, of the best state once there has been a validation."""
    found: Snapshots = {info.slug: [] for info in bench.classes}
    spent = dict.fromkeys(found, 0.0)
    began = time.perf_counter()

    def record(state: dict[str, Any]) -> None:
        nonlocal began
        active = state["active"]
        for one in active:
            spent[one["slug"]] += (time.perf_counter() - began) / len(active)
            vector = one["best_vector"] if one["best"] else one["vector"]
            found[one["slug"]].append(Snapshot(one["counters"]["evaluations"], spent[one["slug"]], vector.clone()))
        began = time.perf_counter()

    certificate = 2 * settings.tokens.certificate_images * settings.sampling.num_inference_steps
    certificate *= sampler(bench.backend, settings).evaluations_per_step
    for trained in trainer.train(bench.classes, checkpoint=record):
        slug = trained.info.slug
        training = trained.evaluations - (certificate if trained.certificate else 0)
        found[slug].append(Snapshot(training, spent[slug], trained.vector))
    return found


def paper(bench: Bench, rate: float, steps: int, scale: float, stops: bool = True) -> Snapshots:
    """Train by the paper's loop, one class at a time."""
    found: Snapshots = {}
    for info in bench.classes:
        began = time.perf_counter()
        found[info.slug] = []
        for evaluations, vector in paper_loop.train(
            bench.backend,
            bench.guide,
            info,
            bench.settings,
            learning_rate=rate,
            steps=steps,
            scale=scale,
            stops=stops,
            epochs=bench.epochs,
        ):
            found[info.slug].append(Snapshot(evaluations, time.perf_counter() - began, vector))
    return found


@dataclass(frozen=True)
class Paper:
    """The paper's loop with a step size, inference steps and guidance scale."""

    bench: Bench
    rate: float
    steps: int
    scale: float
    stops: bool = True

    def train(self) -> Snapshots:
        """Train all classes."""
        Variant(self.bench, balanced=False).trainer()  # models as the paper's code has them
        return paper(self.bench, self.rate, self.steps, self.scale, self.stops)

    def peaks(self) -> tuple[float, float]:
        """MB that an update takes: the loop holds one image at a time, so both are the same."""
        Variant(self.bench, balanced=False).trainer()
        bench = self.bench
        loop = paper_loop.train(
            bench.backend,
            bench.guide,
            bench.classes[0],
            bench.settings,
            learning_rate=self.rate,
            steps=self.steps,
            scale=self.scale,
        )
        next(loop), next(loop)
        peak = peak_memory(lambda: next(loop))
        return peak, peak


def variants(bench: Bench) -> Iterator[tuple[str, Variant | Paper]]:
    """Everything that is compared, by name."""
    yield "direct_align (default)", Variant(bench)
    yield "look_ahead", Variant(bench, ["tokens.method=look_ahead"])
    four = ["tokens.images_per_update=4", "tokens.validate_every=10", "tokens.max_updates=60"]
    for name in ("last_step", "last_k", "full", "lv", "look_ahead", "direct_align"):
        yield f"{name}, 4 images an update", Variant(bench, [*four, f"tokens.method={name}"])
    sampling = bench.settings.sampling
    here = (sampling.num_inference_steps, sampling.guidance_scale)
    unit = bench.backend.word_norms()[0].mean_norm / bench.backend.width**0.5
    for rate in GRID:
        yield f"paper, step {rate}, {here[0]} steps", Paper(bench, rate * unit, *here)
    yield f"paper, step {BEST}, {here[0]} steps, never stopped", Paper(bench, BEST * unit, *here, stops=False)
    yield f"paper, own step size, {here[0]} steps", Paper(bench, paper_loop.LEARNING_RATE, *here)
    yield "paper, own step size, 30 steps", Paper(bench, paper_loop.LEARNING_RATE, 30, 7.0)
    yield f"paper, step {BEST}, 30 steps", Paper(bench, BEST * unit, 30, 7.0)
    yield "default, one slot", Variant(bench, ["tokens.classes_per_batch=1"])
    yield "default, cosine schedule", Variant(bench, ["tokens.schedule=cosine"])
    yield "default, norm prior", Variant(bench, ["tokens.norm_prior=0.5"])


def load(name: str, overrides: Sequence[str], classes: Sequence[str] | None, images: int) -> Bench:
    """The models and classes of a configuration, with a tiny decoder at hand."""
    # Every class is trained, and every certificate costs the same.
    settings = config.load(
        name, ["tokens.plain_first=false", "tokens.certificate_looks=1", *overrides], classes=classes
    )
    dataset = datasets.load(settings.dataset)
    backend = diffusion.load(**settings.model.model_dump() | {"tiny_decoder": settings.model.tiny_decoder or "pocket"})
    guide, judge = (
        classifiers.load(one, dataset.classes) for one in (settings.guide, settings.judge or settings.guide)
    )
    chosen = datasets.select(dataset, settings.dataset.classes)
    return Bench(settings, chosen, backend, guide, judge, images, backend.tiny)


def plot(curves: Sequence[Curve], path: Path) -> None:
    """Judge accuracy against denoiser evaluations a class, a line for each method."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 9, "svg.hashsalt": "dct", "svg.fonttype": "none"}):
        figure = Figure((8, 4.6), layout="constrained")
        axes = figure.add_subplot()
        for curve in curves:
            if (line_style := LINES.get(curve.title)) is None:
                continue
            colour, style = line_style
            # A variant that ends early stays where it ended.
            axes.plot(
                curve.spent,
                [share * 100 for share in curve.accuracies],
                style,
                color=colour,
                label=curve.title,
                linewidth=2.2 if style == "-" else 1.5,
            )
        axes.axhline(GOAL * 100, color="#999", linewidth=0.8, linestyle=":")
        axes.set_xscale("log")
        axes.set(
            xlabel="denoiser evaluations per class (forward 1, backward 2)", ylabel="judge accuracy, %", ylim=(0, 100)
        )
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#eee")
        figure.legend(loc="outside right upper", frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Compare the variants; write JSON as they come, so that a stopped run has what it did."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.token_training", description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="pocket")
    parser.add_argument("--classes", help="comma-separated; all if not given")
    parser.add_argument("--variants", help="names, * for anything, separated by semicolons; all if not given")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="section.key=value")
    parser.add_argument("--judge-images", type=int, default=24, help="fresh images of each snapshot")
    parser.add_argument("--epochs", type=int, default=paper_loop.EPOCHS, help="at most, of the paper's loop")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/token_training.json"))
    parser.add_argument("--resume", action="store_true", help="keep the variants that are in --out already")
    parser.add_argument("--plot", type=Path, help="e.g. docs/token_methods.svg")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = options.classes.split(",") if options.classes else None
    bench = load(options.config, options.overrides, names, options.judge_images)
    bench.epochs = options.epochs
    known: dict[str, Curve] = {}
    if options.resume and options.out.is_file():
        known = {one["title"]: Curve(**one) for one in json.loads(options.out.read_text(encoding="utf-8"))}
    curves: list[Curve] = []
    columns = (
        "variant",
        "evaluations to 60 %",
        "to 80 %",
        "seconds to 60 %",
        "to 80 %",
        "final",
        "worst class",
        "evaluations in all",
        "seconds in all",
        "MB an image",
        "MB an update",
    )
    print(*("| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"), sep="\n", flush=True)
    for title, variant in variants(bench):
        if options.variants and not any(fnmatchcase(title, one) for one in options.variants.split(";")):
            continue
        curve = known.get(title) or measure(bench, title, variant)
        curves.append(curve)
        print("| " + " | ".join(row(curve, len(bench.classes) * bench.images)) + " |", flush=True)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps([asdict(one) for one in curves], indent=1) + "\n", encoding="utf-8")
        if options.plot:
            plot(curves, options.plot)
    print(*against(curves), sep="\n")


def against(curves: Sequence[Curve]) -> Iterator[str]:
    """What each form of the paper's loop takes to get to its own end, and what the first variant takes to get there."""
    yield f"\n| the loop | ends at | evaluations, {curves[0].title} | ratio | seconds, {curves[0].title} | ratio |"
    yield "|---" * 6 + "|"
    for curve in curves[1:]:
        if curve.title.startswith("paper"):
            cells = [curve.title, f"{curve.final * 100:.1f} %"]
            for places, unit in enumerate(("spent", "seconds")):
                loop, default = (variant.until(curve.final, getattr(variant, unit)) for variant in (curve, curves[0]))
                if loop is None or default is None:
                    cells += ["-", "-"]
                else:  # a default that is there before its first update took nothing
                    cells += [f"{loop:,.{places}f}, {default:,.{places}f}", f"{loop / default:.1f}" if default else "-"]
            yield "| " + " | ".join(cells) + " |"


def measure(bench: Bench, title: str, variant: Variant | Paper) -> Curve:
    """Train and judge one variant."""
    gc.collect()
    peaks = variant.peaks()
    curve = bench.curve(title, variant.train())
    curve.peak, curve.whole = peaks
    return curve


def row(curve: Curve, count: int) -> tuple[str, ...]:
    """What the table says of a variant whose end was judged by `count` images."""
    to = [
        (places, curve.until(goal, what))
        for places, what in enumerate((curve.spent, curve.seconds))
        for goal in (HALFWAY, GOAL)
    ]
    shown = ["never" if one is None else f"{one:,.{places}f}" for places, one in to]
    final = proportion(round(curve.final * count), count)
    return (
        curve.title,
        *shown,
        f"{final.mean * 100:.1f} % ({final.low * 100:.1f} .. {final.high * 100:.1f})",
        f"{curve.worst * 100:.0f} %",
        f"{curve.evaluations:,.0f}",
        f"{curve.total_seconds:.1f}",
        f"{curve.peak:.1f}",
        f"{curve.whole:.1f}",
    )


if __name__ == "__main__":
    main()
