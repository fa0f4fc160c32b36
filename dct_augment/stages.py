"""The stages of a run as units of work: what is missing, one unit of it, and the index of all.

A unit is what is resumed, retried, and given to another process or machine. Its plan is on disk before it begins, and
its result is a file that says itself what it was made of, so it does not matter who made it.
"""

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from dct_augment import benchmark, datasets, exchange, files, plan
from dct_augment import config as configuration
from dct_augment.benchmark import TrialPlan
from dct_augment.errors import InputError
from dct_augment.generation import Generator
from dct_augment.plan import ShardSpec
from dct_augment.records import ClassInfo, ClassToken, Progress, Report, Trial, Unit, silent
from dct_augment.shards import PLAIN, TRAIN
from dct_augment.token_files import TrainingMemo
from dct_augment.tokens import TokenTrainer
from dct_augment.workspace import Workspace


class Stage(ABC):
    """One stage of one run."""

    name: str
    title: str

    def __init__(self, work: Workspace) -> None:
        self._work, self._config = work, work.config

    @abstractmethod
    def pending(self) -> tuple[Unit, ...]:
        """Plan what is missing, and return it. Call it under the run's lock.

        Raises:
            StaleRunError: there is work made with other settings.
        """

    @abstractmethod
    def do(self, unit: Unit, report: Report = silent) -> None:
        """Do one unit, in any process that sees the run's folder; `report` gets at most `unit.size`."""

    @abstractmethod
    def publish(self) -> None:
        """Write the index of all that is done."""

    @property
    def at_once(self) -> int:
        """How many units this process may do at a time."""
        return 1

    @contextmanager
    def side_by_side(self) -> Iterator[None]:
        """Be ready for `at_once` units at a time, from as many threads."""
        yield

    def do_all(self, units: Sequence[Unit], report: Report = silent) -> None:
        """Do units here, one after the other."""
        done, total = 0, sum(unit.size for unit in units)
        for unit in units:
            self.do(unit, lambda one, before=done: report(Progress(one.stage, before + one.done, total, one.note)))  # type: ignore[misc]
            done += unit.size


class TokenStage(Stage):
    """Class tokens; a unit is a group of classes, which train in one batch."""

    name = title = "tokens"

    def __init__(self, work: Workspace, classes: Iterable[ClassInfo] | None = None) -> None:
        super().__init__(work)
        self._classes = tuple(work.classes if classes is None else classes)

    @property
    def _identity(self) -> dict[str, Any]:
        return self._config.identity("tokens")

    def missing(self) -> tuple[ClassInfo, ...]:
        """The classes that have neither a token nor a failure with these settings."""
        tokens, identity = self._work.tokens, self._identity
        return tuple(
            info
            for info in self._classes
            if tokens.facts(info, identity) is None and tokens.failure(info, identity) is None
        )

    def failed(self) -> dict[str, str]:
        """Why a class got no token, by name."""
        failures = {info.name: self._work.tokens.failure(info, self._identity) for info in self._classes}
        return {name: facts["stop_reason"] for name, facts in failures.items() if facts}

    def pending(self) -> tuple[Unit, ...]:
        """The groups with classes that are missing."""
        missing = [info.slug for info in self.missing()]
        tokens = self._work.tokens
        groups = plan.extend_groups(tokens.groups(), missing, self._config.tokens.group)
        if missing:
            tokens.record(groups)
        units = []
        for number, group in enumerate(groups):
            if todo := tuple(slug for slug in group if slug in missing):
                size = len(todo) * self._config.tokens.max_updates
                units.append(Unit("tokens", number, ", ".join(todo), size, todo))
        return tuple(units)

    def do(self, unit: Unit, report: Report = silent) -> None:
        """Train the classes of one group that are missing, from where a killed process was."""
        work, identity = self._work, self._identity
        known = {info.slug: info for info in work.whole.classes}
        finished = {slug for slug, info in known.items() if work.tokens.facts(info, identity)}
        finished |= {slug for slug, info in known.items() if work.tokens.failure(info, identity)}
        missing = [slug for slug in unit.classes if slug not in finished]
        settings = self._config.tokens
        memo = TrainingMemo(work.tokens.path, unit.number, identity | {"slots": settings.slots})
        if missing:
            trainer = TokenTrainer(
                work.backend,
                work.guide,
                judge=work.judge,
                settings=settings,
                sampling=self._config.sampling,
                prompting=self._config.prompts,
                starts=self._starts([known[slug] for slug in missing]),
            )
            state = memo.read(missing, finished)
            order = [known[slug] for slug in (state["classes"] if state else missing)]
            for trained in trainer.train(order, report, resume=state, checkpoint=memo.write):
                if trained.info.slug not in finished:  # a class finished just before a kill is trained to its end again
                    work.tokens.save(trained, identity, work.base_model)
        memo.clear()

    def publish(self) -> None:
        """Write `tokens/index.parquet`: a row per class with a token or a failure."""
        tokens, identity = self._work.tokens, self._identity
        rows = [tokens.facts(info, identity) or tokens.failure(info, identity) for info in self._work.whole.classes]
        tokens.publish([facts for facts in rows if facts])

    def _starts(self, classes: Iterable[ClassInfo]) -> dict[str, torch.Tensor]:
        """Where training begins: the vectors of `tokens.start`, a token file for all or a folder with one each."""
        start = self._config.tokens.start
        if start is None:
            return {}
        found, blocks = {}, self._work.backend.blocks
        for info in classes:
            path = start / f"{info.slug}.safetensors" if start.is_dir() else start
            if start.is_dir() and not path.is_file():
                continue
            token = exchange.read(path)[0]
            count, wanted = len(token.vector), [width for _, width in blocks]
            if list(token.widths) != wanted or count != self._config.tokens.vectors:
                raise InputError(
                    f"tokens.start {str(path)!r} has {count} vectors of width {list(token.widths)}, but "
                    f"tokens.vectors is {self._config.tokens.vectors} and the model takes {wanted}"
                )
            found[info.slug] = token.vector
        if not found:
            raise InputError(f"tokens.start {str(start)!r} holds no <class-slug>.safetensors for any class to train")
        return found


class ImageStage(Stage):
    """Images of one split; a unit is a shard.

    In the split of class tokens, a class whose token is not certified is drawn with its plain prompt.
    """

    def __init__(self, work: Workspace, split: str) -> None:
        super().__init__(work)
        self.name, self.title = split, f"images ({split})"

    def layout(self, classes: Sequence[ClassInfo]) -> plan.Layout:
        """The layout of the split, extended to what the configuration asks for of these classes."""
        settings, known = self._config.generation, self._work.shards.layout(self.name)
        return plan.extend(known, self.name, classes, settings.per_class, settings.shard_size)

    def pending(self) -> tuple[Unit, ...]:
        """The shards that are not there, or not whole."""
        shards = self._work.shards
        layout = self.layout(self._work.classes)
        todo = [spec for spec in layout if not shards.done(spec, self._made_of(spec))]
        if todo:
            shards.record(self.name, layout)
        return tuple(Unit(self.name, spec.number, spec.stem(shards.run), len(spec)) for spec in todo)

    def do(self, unit: Unit, report: Report = silent) -> None:
        """Draw one shard."""
        work, settings = self._work, self._config.generation
        spec = work.shards.layout(self.name)[unit.number]
        made_of = self._made_of(spec)
        rows = plan.rows(spec, work.whole.classes, self._config.prompts, self._tokens(spec), settings.seed)
        vectors = {info.slug: work.tokens.vector(info) for info in work.whole.classes if info.slug in made_of["tokens"]}
        samples = []
        for sample in self._generator.draw(rows, vectors, settings.batch_size):
            samples.append(sample)
            report(Progress(self.title, len(samples), len(rows), sample.row.class_name))
        work.shards.write(spec, samples, made_of, settings.image_format)

    def publish(self) -> None:
        """Write `shards/_info.json`."""
        self._work.shards.publish()

    def _made_of(self, spec: ShardSpec) -> dict[str, Any]:
        """What decides the pixels of a shard."""
        return self._config.identity("generation") | {
            "split": self.name,
            "tokens": {slug: token.sha256 for slug, token in self._tokens(spec).items()},
            "names": {info.slug: info.name for info in self._work.whole.classes if info.slug in spec.ranges},
        }

    def _tokens(self, spec: ShardSpec) -> dict[str, ClassToken]:
        tokens = self._work.tokens
        if self.name == PLAIN:
            return {}
        any_verdict = self._config.generation.allow_uncertified
        wanted = [info for info in self._work.whole.classes if info.slug in spec.ranges]
        return {info.slug: tokens.token(info) for info in wanted if tokens.trusted(info, any_verdict=any_verdict)}

    @cached_property
    def _generator(self) -> Generator:
        work = self._work
        return Generator(
            work.backend,
            sampling=self._config.sampling,
            negative=self._config.prompts.negative,
            classes=work.whole.classes,
            guide=work.guide,
            judge=work.judge,
            report=work.progress,
        )


class TrialStage(Stage):
    """Benchmark trials; a unit is one arm on one few-shot draw."""

    name = title = "benchmark"

    def __init__(self, work: Workspace) -> None:
        super().__init__(work)
        self._others: benchmark.SideBySide | None = None

    @property
    def _plans(self) -> tuple[TrialPlan, ...]:
        return benchmark.plan(self._config.benchmark)

    def pending(self) -> tuple[Unit, ...]:
        """The trials that are not recorded with today's settings and images; records what each seed draws."""
        known = {(row.arm, row.seed) for row in self.trials().itertuples()}
        todo = [
            Unit("benchmark", number, f"{one.arm}, seed {one.seed}", 1)
            for number, one in enumerate(self._plans)
            if (one.arm, one.seed) not in known
        ]
        if todo:
            self._record_splits()
        return tuple(todo)

    def do(self, unit: Unit, report: Report = silent) -> None:
        """Run one trial and record it; several threads may, within `side_by_side`."""
        planned = self._plans[unit.number]
        self._record(self._others.trial(planned) if self._others else self._benchmark.trial(planned))

    def do_all(self, units: Sequence[Unit], report: Report = silent) -> None:
        """Run trials here, as many at once as `benchmark.at_once` says."""
        plans, work = [self._plans[unit.number] for unit in units], self._work
        trials = benchmark.run(
            work.real_images(), work.shards.path, self._config.benchmark, plans,
            device=work.device, processes=self.at_once,
        )  # fmt: skip
        # Closed at once when a stop arrives here: its processes would wait for work, and the exit for them.
        with closing(trials):
            for number, trial in enumerate(trials, 1):
                self._record(trial)
                report(Progress("benchmark", number, len(units), f"{trial.arm} {trial.accuracy:.1%}"))

    @property
    def at_once(self) -> int:
        """How many trials run side by side on this machine."""
        return benchmark.at_once(self._config.benchmark, self._work.device)

    @contextmanager
    def side_by_side(self) -> Iterator[None]:
        """Give the trials that threads of this process ask for processes of their own, on a CPU."""
        if self.at_once == 1:
            yield
            return
        images, shards = self._work.real_images(), self._work.shards.path
        with benchmark.SideBySide(images, shards, self._config.benchmark, self.at_once) as self._others:
            yield

    def _record(self, trial: Trial) -> None:
        row = dataclasses.asdict(trial) | {"identity": self._identity(trial.arm)}
        files.write_text(self._file(trial.arm, trial.seed), json.dumps(row, indent=1) + "\n")

    def publish(self) -> None:
        """Write `benchmark/trials.parquet`: a row per trial."""
        trials = self.trials()
        if len(trials):
            with files.atomic(self._folder / "trials.parquet") as partial:
                trials.to_parquet(partial, index=False)

    def trials(self) -> pd.DataFrame:
        """The recorded trials of the plan that were made with today's settings and images."""
        identities = {arm: self._identity(arm) for arm in self._config.benchmark.arms}
        paths = [self._file(one.arm, one.seed) for one in self._plans]
        rows = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
        table = pd.DataFrame(rows, columns=["arm", "shots", "seed", "steps", "accuracy", "seconds", "identity"])
        return table[table["identity"] == table["arm"].map(identities)].reset_index(drop=True)

    @cached_property
    def _benchmark(self) -> benchmark.Benchmark:
        work = self._work
        return benchmark.Benchmark(work.real_images(), work.shards.path, self._config.benchmark, work.device)

    @property
    def _folder(self) -> Path:
        return self._config.root / "benchmark"

    def _file(self, arm: str, seed: int) -> Path:
        return self._folder / "trials" / f"{arm}-{self._config.benchmark.shots}-{seed}.json"

    def _identity(self, arm: str) -> str:
        split, shards = benchmark.SYNTHETIC.get(arm), self._work.shards
        tars = [shards.digest(spec) for spec in shards.layout(split)] if split else []
        return configuration.fingerprint(self._config.identity("benchmark"), arm, tars)

    def _record_splits(self) -> None:
        """Write which pictures each seed draws: `benchmark/splits/<shots>-<seed>.parquet`."""
        settings, dataset = self._config.benchmark, self._work.real_images()
        for seed in range(settings.seed, settings.seed + settings.seeds):
            split = datasets.few_shot(dataset, settings.shots, seed, settings.imbalance)
            parts = {"train": split.train, "val": split.val, "test": split.test}
            rows = [(one.key, one.label, name) for name, part in parts.items() for one in part]
            with files.atomic(self._folder / "splits" / f"{settings.shots}-{seed}.parquet") as path:
                pd.DataFrame(rows, columns=["key", "class_index", "split"]).to_parquet(path, index=False)


STAGES: Mapping[str, Callable[[Workspace], Stage]] = {
    "tokens": TokenStage,
    TRAIN: lambda work: ImageStage(work, TRAIN),
    PLAIN: lambda work: ImageStage(work, PLAIN),
    "benchmark": TrialStage,
}
"""How each stage is made, by `Unit.stage`, in the order of a run."""
