"""A run: the stages wired to one configuration and one folder. The CLI and the flows call this.

Each method is one stage. It reads the files of the stage before, makes them first if they are
missing, does only what is not done, and leaves files that say so.
"""

import dataclasses
import importlib.metadata
import itertools
import json
import os
import platform
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from dct_augment import (
    benchmark,
    classifiers,
    datasets,
    diffusion,
    exchange,
    files,
    plan,
    report,
)
from dct_augment import (
    config as configuration,
)
from dct_augment.classifiers import Classifier
from dct_augment.config import ClassifierConfig, Config
from dct_augment.diffusion import Backend
from dct_augment.errors import InputError, TokenTrainingError
from dct_augment.generation import Generator
from dct_augment.records import ClassInfo, ClassToken, Dataset, Progress, Report, silent
from dct_augment.shards import PLAIN, TRAIN, ShardFolder
from dct_augment.token_files import TokenFolder, TrainingMemo
from dct_augment.tokens import TokenTrainer

PACKAGES = ("torch", "diffusers", "transformers", "timm", "webdataset", "pandas", "pyarrow")


class Run:
    """One configuration at work in one folder; models are loaded when first needed and kept."""

    def __init__(self, config: Config, progress: Report = silent) -> None:
        self.config, self._progress = config, progress
        self.whole = datasets.load(config.dataset)
        self.classes = datasets.select(self.whole, config.dataset.classes)
        self.tokens = TokenFolder(config.root / "tokens", self.whole.name)
        self.shards = ShardFolder(config.root / "shards", config.name)
        self.failed: dict[str, str] = {}

    @cached_property
    def device(self) -> str:
        """The torch device; `auto` takes CUDA when there is one."""
        return resolve_device(self.config.device)

    @cached_property
    def backend(self) -> Backend:
        """The text-to-image model."""
        loaded = diffusion.load(**self.config.model.model_dump(), device=self.device)
        chosen = "" if self.config.model.memory else " (chosen from what is free)"
        note = f"{type(loaded).__name__}, safety checker left out, memory: {loaded.memory}{chosen}"
        self._progress(Progress("model", 0, 0, note))
        return loaded

    @cached_property
    def guide(self) -> Classifier:
        """The classifier whose gradient trains the tokens."""
        return self._classifier(self.config.guide, "guide")

    @cached_property
    def judge(self) -> Classifier | None:
        """The held-out classifier, if one is configured."""
        return self._classifier(self.config.judge, "judge") if self.config.judge else None

    def _classifier(self, members: tuple[ClassifierConfig, ...], role: str) -> Classifier:
        """Load a guide or judge, and look at real images with it, once per run and setting."""
        loaded = classifiers.load(members, self.whole.classes, device=self.device)
        path = self.config.root / "checks.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        made_of = configuration.fingerprint([member.model_dump(mode="json") for member in members], self._names())
        if known.get(role, {}).get("fingerprint") != made_of:
            name = f"{role} {' + '.join(member.name for member in members)!r}"
            examples = itertools.chain(self.whole.examples("val"), self.whole.examples("train"))
            accuracy = classifiers.check(loaded, self.whole.classes, examples, name)
            if accuracy is not None:
                self._progress(Progress(role, 0, 0, f"{name} recognises {accuracy:.0%} of some real images"))
            known[role] = {"fingerprint": made_of, "accuracy": accuracy}
            files.write_text(path, json.dumps(known, indent=1) + "\n")
        return loaded

    def _names(self) -> list[str]:
        return [info.name for info in self.whole.classes]

    @contextmanager
    def working(self, stage: str) -> Iterator[None]:
        """Hold the run's folder for one stage, record the configuration, and time it."""
        began = time.monotonic()
        with files.lock(self.config.root):
            for folder in (self.config.root, self.tokens.path, self.shards.path):
                files.sweep(folder)
            files.write_text(self.config.root / "config.yaml", configuration.dump(self.config))
            yield
            times = self._times() | {stage: self._times().get(stage, 0.0) + time.monotonic() - began}
            files.write_text(self.config.root / "times.json", json.dumps(times) + "\n")

    def _times(self) -> dict[str, float]:
        """Seconds spent in each stage so far, over all commands."""
        path = self.config.root / "times.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    def untrained(self, classes: Iterable[ClassInfo] | None = None) -> tuple[ClassInfo, ...]:
        """The classes (the chosen ones by default) that have no token yet."""
        identity = self.config.identity("tokens")
        wanted = self.classes if classes is None else classes
        return tuple(info for info in wanted if self.tokens.facts(info, identity) is None)

    def train(self) -> None:
        """Train the class tokens that are missing; what got none is in `failed`."""
        self._train(self.classes)

    def _train(self, classes: Iterable[ClassInfo]) -> None:
        identity = self.config.identity("tokens")
        with self.working("tokens"):
            missing = self.untrained(classes)
            rows = {
                info.slug: facts
                for info in self.whole.classes
                if (facts := self.tokens.facts(info, identity)) is not None
            }
            memo = TrainingMemo(self.tokens.path, identity | {"slots": self.config.tokens.slots})
            if not missing:
                if memo.left:  # killed after the last token, before the index
                    self.tokens.publish(list(rows.values()))
                    memo.clear()
                return
            trainer = TokenTrainer(
                self.backend,
                self.guide,
                judge=self.judge,
                settings=self.config.tokens,
                sampling=self.config.sampling,
                prompting=self.config.prompts,
                starts=self._starts(missing),
            )
            state = memo.read([info.slug for info in missing], rows)
            order = [info for info in self.whole.classes if info.slug in state["classes"]] if state else missing
            failed: list[dict[str, Any]] = state["failed"] if state else []
            for trained in trainer.train(
                order, self._progress, resume=state, checkpoint=lambda now: memo.write(now | {"failed": failed})
            ):
                facts = self.tokens.save(trained, identity, self.base_model)
                rows[trained.info.slug] = facts
                if not trained.usable:
                    failed.append(facts)
            for facts in failed:
                rows[facts["slug"]] = facts
                self.failed[facts["class"]] = facts["stop_reason"]
            self.tokens.publish(list(rows.values()))
            memo.clear()

    @property
    def base_model(self) -> dict[str, Any]:
        """Of which text-to-image model a token of this run is an embedding."""
        model = self.config.model
        family = type(self.backend).__name__
        return {"path": model.path, "revision": model.revision, "family": family, "blocks": list(self.backend.blocks)}

    def _starts(self, classes: Iterable[ClassInfo]) -> dict[str, torch.Tensor]:
        """Where training begins: the vectors of `tokens.start`, a token file for all or a folder with one each."""
        start = self.config.tokens.start
        if start is None:
            return {}
        found = {}
        for info in classes:
            path = start / f"{info.slug}.safetensors" if start.is_dir() else start
            if start.is_dir() and not path.is_file():
                continue
            token = exchange.read(path)[0]
            count, wanted = len(token.vector), [width for _, width in self.backend.blocks]
            if list(token.widths) != wanted or count != self.config.tokens.vectors:
                raise InputError(
                    f"tokens.start {str(path)!r} has {count} vectors of width {list(token.widths)}, but "
                    f"tokens.vectors is {self.config.tokens.vectors} and the model takes {wanted}"
                )
            found[info.slug] = token.vector
        if not found:
            raise InputError(f"tokens.start {str(start)!r} holds no <class-slug>.safetensors for any class to train")
        return found

    def adopt(self, token: exchange.Token, info: ClassInfo, *, any_model: bool = False, replace: bool = False) -> None:
        """Take in a token from elsewhere as that of a class of this run.

        Raises:
            InputError: it does not fit (`TokenFolder.adopt`).
        """
        identity = self.config.identity("tokens")
        with self.working("tokens"):
            self.tokens.adopt(token, info, identity, self.base_model, any_model=any_model, replace=replace)
            rows = [facts for one in self.whole.classes if (facts := self.tokens.facts(one, identity))]
            self.tokens.publish(rows)

    def check(self) -> None:
        """Say which classes got no token.

        Raises:
            TokenTrainingError: there are such classes; the work for the others is done.
        """
        if self.failed:
            reasons = ", ".join(f"{name} ({reason})" for name, reason in self.failed.items())
            raise TokenTrainingError(
                f"no class token for {len(self.failed)} of {len(self.classes)} classes: {reasons}. The others are "
                "done. Try other settings for these with another --output, e.g. --set tokens.seed=1"
            )

    def generate(self) -> None:
        """Draw `generation.per_class` class-token images of every class that has a token into shards."""
        with files.lock(self.config.root):
            begun = {slug for spec in self.unfinished(TRAIN) for slug in spec.ranges}
            self._train(info for info in self.whole.classes if info in self.classes or info.slug in begun)
            ready = [info for info in self.whole.classes if self.tokens.file(info).is_file()]
            self._draw(TRAIN, {info.slug: self.tokens.token(info) for info in ready})

    def generate_plain(self) -> None:
        """Draw as many images of every class with its plain prompt, from the same seeds."""
        self._draw(PLAIN, {})

    def unfinished(self, split: str) -> plan.Layout:
        """The shards that were planned before and are not written yet."""
        return tuple(spec for spec in self.shards.layout(split) if not self.shards.digest(spec))

    def shard_identity(self, split: str) -> dict[str, Any]:
        """What decides the pixels of a split, apart from the tokens themselves."""
        return self.config.identity("generation") | {"split": split}

    def pending(self, split: str, classes: tuple[ClassInfo, ...]) -> plan.Layout:
        """The layout of a split, extended to what the configuration asks for."""
        settings = self.config.generation
        return plan.extend(self.shards.layout(split), split, classes, settings.per_class, settings.shard_size)

    def _draw(self, split: str, tokens: dict[str, ClassToken]) -> None:
        settings, identity = self.config.generation, self.shard_identity(split)
        classes = self.classes if split == PLAIN else tuple(info for info in self.classes if info.slug in tokens)
        with self.working("images"):
            layout = self.pending(split, classes)
            todo = []
            for spec in layout:
                made_of = identity | {
                    "tokens": {slug: tokens[slug].sha256 for slug in spec.ranges if slug in tokens},
                    "names": {info.slug: info.name for info in self.whole.classes if info.slug in spec.ranges},
                }
                if not self.shards.done(spec, made_of):
                    todo.append((spec, made_of))
            if todo:
                self.shards.record(split, layout)
                drawn, total = 0, sum(len(spec) for spec, _ in todo)
                generator = self._generator(tokens)
                for spec, made_of in todo:
                    rows = plan.rows(spec, self.whole.classes, self.config.prompts, tokens, settings.seed)
                    samples = []
                    for sample in generator.draw(rows, settings.batch_size):
                        samples.append(sample)
                        drawn += 1
                        self._progress(Progress(f"images ({split})", drawn, total, sample.row.class_name))
                    self.shards.write(spec, samples, made_of, settings.image_format)
            self.shards.publish()

    def _generator(self, tokens: dict[str, ClassToken]) -> Generator:
        return Generator(
            self.backend,
            sampling=self.config.sampling,
            negative=self.config.prompts.negative,
            vectors={info.slug: self.tokens.vector(info) for info in self.whole.classes if info.slug in tokens},
            classes=self.whole.classes,
            guide=self.guide,
            judge=self.judge,
            report=self._progress,
        )

    def benchmark(self) -> None:
        """Run the trials that are missing, after the images they need."""
        with files.lock(self.config.root):
            self._benchmark()

    def _benchmark(self) -> None:
        wanted = benchmark.plan(self.config.benchmark)
        arms = {planned.arm for planned in wanted}
        if "class_token" in arms:
            self.generate()
        if "plain_prompt" in arms:
            self.generate_plain()
        if self.failed and not self.shards.layout(TRAIN):
            self.check()
        with self.working("benchmark"):
            done = self._trials()
            keys = {(row.arm, row.seed) for row in done.itertuples()}
            todo = [planned for planned in wanted if (planned.arm, planned.seed) not in keys]
            if todo:
                settings, dataset = self.config.benchmark, self._dataset()
                self._record_splits(dataset)
                trials = benchmark.run(
                    dataset, self.shards.path, settings, todo, device=self.device,
                    processes=settings.processes or os.cpu_count() or 1,
                )  # fmt: skip
                # Closed at once when a stop arrives here: its processes would wait for work, and the exit for them.
                with closing(trials):
                    for number, trial in enumerate(trials, 1):
                        row = dataclasses.asdict(trial) | {"identity": self._trial_identity(trial.arm)}
                        done = pd.concat([done, pd.DataFrame([row])], ignore_index=True)
                        with files.atomic(self._trials_path) as partial:
                            done.to_parquet(partial, index=False)
                        self._progress(Progress("benchmark", number, len(todo), f"{trial.arm} {trial.accuracy:.1%}"))

    def report(self) -> Path:
        """Write the report of what there is; return the page."""
        with self.working("report"):
            trials = self._trials()
            return report.build(
                self.config.root,
                config=self.config,
                classes=self.classes,
                facts=self._facts(),
                tokens=self.tokens.index(),
                shards=self.shards,
                trials=trials.drop(columns="identity", errors="ignore"),
            )

    def everything(self) -> Path:
        """All stages; return the report's page."""
        self.benchmark()
        return self.report()

    @property
    def _trials_path(self) -> Path:
        return self.config.root / "benchmark" / "trials.parquet"

    def _dataset(self) -> Dataset:
        """The chosen classes, without the pictures that cannot be read."""
        without = self._unreadable()
        if len(self.classes) == len(self.whole.classes) and not any(without.values()):
            return self.whole
        return datasets.Restricted(self.whole.name, self.classes, self.whole, without)

    def _unreadable(self) -> dict[str, list[str]]:
        """Keys of the val and test pictures that cannot be opened; looked for once, and said."""
        if self.config.dataset.name in ("pocket", "digits"):
            return {}
        path = self.config.root / "benchmark" / "unreadable.json"
        sizes = {split: len(self.whole.examples(split)) for split in ("val", "test")}
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if known.get("sizes") != sizes:
            keys = {split: datasets.unreadable(self.whole.examples(split)) for split in sizes}
            files.write_text(path, json.dumps({"sizes": sizes, "keys": keys}, indent=1) + "\n")
            known = {"keys": keys}
        for split, keys in known["keys"].items():
            if keys:
                listed = ", ".join(keys[:3]) + (" ..." if len(keys) > 3 else "")
                note = f"{len(keys)} of {sizes[split]} {split} images cannot be read and are left out: {listed}"
                self._progress(Progress("data", 0, 0, note))
        return dict(known["keys"])

    def _record_splits(self, dataset: Dataset) -> None:
        """Write which pictures each seed draws: `benchmark/splits/<shots>-<seed>.parquet`."""
        settings = self.config.benchmark
        for seed in range(settings.seed, settings.seed + settings.seeds):
            split = datasets.few_shot(dataset, settings.shots, seed, settings.imbalance)
            parts = {"train": split.train, "val": split.val, "test": split.test}
            rows = [(one.key, one.label, name) for name, part in parts.items() for one in part]
            with files.atomic(self.config.root / "benchmark" / "splits" / f"{settings.shots}-{seed}.parquet") as path:
                pd.DataFrame(rows, columns=["key", "class_index", "split"]).to_parquet(path, index=False)

    def _trials(self) -> pd.DataFrame:
        """The recorded trials that were made with today's settings and images."""
        if not self._trials_path.is_file():
            return pd.DataFrame(columns=["arm", "shots", "seed", "steps", "accuracy", "seconds", "identity"])
        table = pd.read_parquet(self._trials_path)
        current = {arm: self._trial_identity(arm) for arm in table["arm"].unique()}
        return table[table["identity"] == table["arm"].map(current)].reset_index(drop=True)

    def _trial_identity(self, arm: str) -> str:
        split = benchmark.SYNTHETIC.get(arm)
        tars = [self.shards.digest(spec) for spec in self.shards.layout(split)] if split else []
        return configuration.fingerprint(self.config.identity("benchmark"), arm, tars)

    def _facts(self) -> dict[str, str]:
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        seconds = {f"seconds, {stage}": f"{spent:.0f}" for stage, spent in self._times().items()}
        return {
            "run": self.config.name,
            "device": self.device,
            "python": platform.python_version(),
            **versions,
            **seconds,
        }


def resolve_device(name: str) -> str:
    """Check a device name; `auto` becomes `cuda` or `cpu`.

    Raises:
        InputError: no such device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} is not available here: {error}. Use auto, cpu, or cuda") from error
    return name
