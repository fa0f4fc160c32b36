"""The stage of the classifier that the user keeps: in the best arm, trained on all photos."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from dct_augment import calibration, datasets, files
from dct_augment import config as configuration
from dct_augment.benchmark import estimates
from dct_augment.benchmark.answer import answer
from dct_augment.benchmark.arms import ARMS, ArmDraw, selected_by_guide
from dct_augment.benchmark.choice import ArmChoice, SyntheticEffect, choose, synthetic_effect
from dct_augment.benchmark.trials import FinalClassifier, recipe
from dct_augment.classifiers import kept
from dct_augment.config import DatasetOnDisk
from dct_augment.downstream import model_card
from dct_augment.downstream.mixing import SyntheticImages
from dct_augment.downstream.saving import AccuracyEstimate, ClassifierFacts, save_classifier
from dct_augment.errors import UnreadableImageError
from dct_augment.generation.shards import FOLDERS
from dct_augment.intervals import Estimate
from dct_augment.metrics.accuracy import class_titles
from dct_augment.pipeline.context import RunContext
from dct_augment.pipeline.selected_images import SelectedImages
from dct_augment.pipeline.stages.stage import Stage
from dct_augment.pipeline.stages.trials import TrialStage
from dct_augment.records import (
    Example,
    ImageKind,
    Progress,
    ProgressCallback,
    Split,
    StageName,
    StopReason,
    WorkUnit,
)
from dct_augment.report.answer import AnswerSection, Mistake
from dct_augment.tokens.files import TokenFolder
from dct_augment.wording import counted_of

_MISTAKES = 12
"""Mistakes that the report shows."""

_REAL_ARMS = tuple(name for name, arm in ARMS.items() if arm.images is None)
_CHOSEN_BY = {
    "other_folds": "cross-validation; for each fold the other folds chose the arm",
    "validation": "on the test split, which had no part in choosing",
    "other_half": "on the test split; for each half of it the other half chose the arm",
    "test": "optimistic: the same images chose the arm",
}


_Answers = tuple[np.ndarray, np.ndarray]
"""Logits (N, K) and labels (N,)."""


class ClassifierStage(Stage):
    """The kept classifier, in `classifier/` of the run folder; one unit.

    It is trained in the arm with the best accuracy of those whose images can be made from all photos.
    """

    name = StageName.CLASSIFIER
    reads_images = True

    def __init__(self, context: RunContext) -> None:
        super().__init__(context)
        self._trial_stage = TrialStage(context)
        self._folder: Path = self._config.root / kept.FOLDER

    def pending(self) -> tuple[WorkUnit, ...]:
        """Plan the classifier if there are trials to choose by, and none that was made like today's."""
        if self.choice is None or self._is_current:
            return ()
        if damaged := self._damaged_file():
            note = f"{damaged} is damaged or lost; the classifier is trained again"
            self._context.progress(Progress(self.name, 0, 0, note))
        return (WorkUnit(self.name, 0, self._kept_title, 1),)

    def _do(self, unit: WorkUnit, on_progress: ProgressCallback) -> None:
        """Train the classifier and write its folder."""
        assert self.choice is not None
        split = self._photos
        arm, model = self._images_of(self.choice.arm), self.choice.other_model
        per_class, ranks = self._config.benchmark.per_class, self._ranks
        final = self._trial_stage.runner.classifier(arm, split, self._outputs, per_class, model, ranks)
        self._trial_stage.remove_prepared_images()
        settings = recipe(self._config.downstream, arm, model)
        save_classifier(self._folder, final.model, settings, self._facts(self.choice, split, final))
        on_progress(Progress(self.name, 1, 1, self.summary()))

    def publish(self) -> None:
        """Write the model card again if it is lost; else nothing, the folder is its own index."""
        card = self._folder / kept.CARD
        recorded = self._recorded()
        if recorded and not card.is_file():
            unsigned = {key: value for key, value in recorded.items() if key != "card_sha256"}
            files.write_text(card, model_card.write_card(unsigned, self._folder))

    def answer_section(self) -> AnswerSection | None:
        """What the report begins with; None if there are no trials to choose by."""
        if self.choice is None:
            return None
        titles = class_titles(self._context.classes)
        numbers = answer(self._trials, titles, self.choice, self.effect, self._folds)
        numbers["kept"]["model"] = self.choice.other_model or self._config.downstream.model
        numbers["kept"]["made"] = self._is_current
        numbers["refused"] = self._refused_draws()
        error = self._recorded().get("calibration_error") if self._is_current else None
        return AnswerSection(numbers, error, self._mistakes(titles))

    def _refused_draws(self) -> str:
        """Say in how many draws the arm that images are judged by lacks class tokens, as its guide was refused."""
        arm = None if self.effect is None else ARMS[self.effect.arm]
        if arm is None or arm.tokens_from != "few_shot_guide":
            return ""
        settings, context = self._config.benchmark, self._context
        draws = [ArmDraw(arm.name, settings.shot_count, seed) for seed in settings.draws]
        indices = [TokenFolder(context.arm_paths.tokens(draw), context.dataset.name).index() for draw in draws]
        refused = sum(StopReason.REFUSED in set(index.get("stop_reason", ())) for index in indices)
        if not refused:
            return ""
        of_draws = counted_of(refused, len(draws), "fold" if self._folds else "few-shot draw")
        return f"In {of_draws} the guide was refused for classes: they have plain prompts there, and no class token."

    def _mistakes(self, titles: Mapping[int, str]) -> list[Mistake]:
        """The photos that the kept arm took for another class most often, each beside a photo of that class."""
        assert self.choice is not None
        answers: dict[str, list[int]] = {}
        photo_of: dict[str, Example] = {}
        draws = self._context.draws()
        for row in self._trials[self._trials["arm"] == self.choice.arm].to_dict("records"):
            for example, predicted in zip(draws.test(row["seed"]), row["predicted"], strict=True):
                answers.setdefault(example.key, []).append(predicted)
                photo_of[example.key] = example
        photos_of: dict[int, list[Example]] = {}
        for example in self._context.real_images().examples("train"):
            photos_of.setdefault(example.label, []).append(example)
        mistakes = []
        for key, predictions in answers.items():
            photo = photo_of[key]
            predicted, times = Counter(predictions).most_common(1)[0]
            if predicted != photo.label and predicted in photos_of and predicted in titles:
                mistakes.append((times / len(predictions), times, len(predictions), photo, predicted))
        mistakes.sort(key=lambda mistake: (-mistake[0], -mistake[1]))
        found = (
            _mistake(photo, photos_of[predicted], titles, times, tests)
            for _, times, tests, photo, predicted in mistakes
        )
        return list(islice((mistake for mistake in found if mistake is not None), _MISTAKES))

    def summary(self) -> str:
        """Say in one line which arm was kept, how good it is, and whether synthetic images help."""
        if self.choice is None:
            return "no trials to choose an arm by"
        accuracy = self.choice.accuracy
        optimistic = " (optimistic: the same images chose the arm)" if self.choice.optimistic else ""
        effect = f" {self.effect.verdict}" if self.effect else ""
        return f"{self._kept_title}, accuracy {_percent(accuracy)}{optimistic}.{effect}"

    @property
    def _kept_title(self) -> str:
        """The arm that is kept; with its model, where there are several."""
        assert self.choice is not None
        downstream = self._config.downstream
        model = self.choice.other_model or downstream.model
        return f"{self.choice.arm} with {model}" if downstream.other_models else self.choice.arm

    @cached_property
    def choice(self) -> ArmChoice | None:
        """The arm and the model to keep; None if there are no trials."""
        return choose(self._trials_of_all_models, self._candidates, self._folds)

    @cached_property
    def effect(self) -> SyntheticEffect | None:
        """What synthetic images do; None if no two arms can be compared."""
        synthetic = [arm for arm in self._candidates if arm not in _REAL_ARMS]
        return synthetic_effect(self._trials, synthetic, _REAL_ARMS, self._folds)

    @property
    def _folds(self) -> int | None:
        settings = self._config.benchmark
        return settings.folds if settings.protocol == "cross_validation" else None

    @cached_property
    def _candidates(self) -> tuple[str, ...]:
        """The arms that can be kept: their images are of the run, and their accuracy is honest."""
        return tuple(arm for arm in self._config.benchmark.arms if self._can_be_kept(arm))

    def _can_be_kept(self, arm: str) -> bool:
        few_shot = self._context.has_few_shot_guide
        if ARMS[arm].own_images:
            return few_shot and ARMS[arm].can_be_repeated
        # A guide of all photos has seen the test of every fold.
        saw_the_test = few_shot and self._folds is not None and ARMS[arm].images is ImageKind.CLASS_TOKEN
        return not saw_the_test

    def _images_of(self, arm: str) -> str:
        """The arm with the images of the run that stand for those of a draw."""
        return "class_token" if ARMS[arm].own_images else arm

    @cached_property
    def _trials(self) -> pd.DataFrame:
        """The trials of the model that is kept, at the setting at which arms are compared."""
        model = self.choice.other_model if self.choice else ""
        return self._trials_of_all_models[self._trials_of_all_models["other_model"] == model]

    @cached_property
    def _trials_of_all_models(self) -> pd.DataFrame:
        trials, settings = self._trial_stage.trials(), self._config.benchmark
        return trials[(trials["shots"] == settings.shot_count) & trials["per_class"].isin([0, settings.per_class])]

    @cached_property
    def _outputs(self) -> dict[int, int]:
        """The output of each class, by its index."""
        return {info.index: place for place, info in enumerate(self._context.classes)}

    @cached_property
    def _photos(self) -> Split:
        """All training images that can be read; validation images choose the state of training."""
        return datasets.few_shot(self._context.real_images(), "all", 0)

    @cached_property
    def _identity(self) -> str:
        """Hash all that decides the classifier: settings, arm, trials, images."""
        assert self.choice is not None
        shards = self._shards
        tars = [] if shards is None else [shards.digest(spec) for spec in shards.layout()]
        classes = [info.slug for info in self._context.classes]
        trials = sorted(self._trials_of_all_models["identity"])
        settings = self._context.identity("benchmark", self.choice.other_model)
        return configuration.fingerprint(settings, self.choice.arm, classes, trials, tars)

    @property
    def _shards(self) -> Any:
        assert self.choice is not None
        kind = ARMS[self.choice.arm].images
        return None if kind is None else self._context.shards[kind]

    def _recorded(self) -> dict[str, Any]:
        """Read what is kept; nothing if the file is not there, or damaged."""
        try:
            return kept.load(self._folder / kept.FILE)
        except (OSError, ValueError):
            return {}

    def _damaged_file(self) -> Path | None:
        """Find the file of a kept classifier that is not what was written; None if there is no classifier."""
        if not self._folder.is_dir():
            return None
        recorded = self._recorded()
        changed = files.changed(self._folder, recorded.get("files")) if recorded else [kept.FILE]
        return self._folder / changed[0] if changed else None

    @property
    def _is_current(self) -> bool:
        """Whether the kept classifier is whole, and made of what is there today as today's settings say."""
        made_from = self._recorded().get("made_from")
        is_of_today = isinstance(made_from, dict) and made_from.get("identity") == self._identity
        return is_of_today and self._damaged_file() is None

    def _facts(self, choice: ArmChoice, split: Split, final: FinalClassifier) -> ClassifierFacts:
        """What the classifier was made of and how good it is."""
        classes = [dataclasses.replace(info, index=self._outputs[info.index]) for info in self._context.classes]
        answers = self._answers(choice.arm, final)
        temperature, error = _calibrate(answers)
        return ClassifierFacts(
            classes=tuple(classes),
            arm=choice.arm,
            photos=self._by_slug([example.label for example in split.train]),
            synthetic=self._by_slug(self._synthetic_labels()),
            dataset=self._context.dataset.name,
            temperature=temperature,
            accuracy=self._accuracy(choice.accuracy, _CHOSEN_BY[choice.by]),
            arms=self._accuracy_by_arm(),
            finding=self.effect.verdict if self.effect else "",
            confusion=self._confusion(choice.arm),
            calibration_error=error,
            made_from={"identity": self._identity, **self._hashes()},
            trials=sorted(self._trials_of_all_models["identity"]),
        )

    def _by_slug(self, labels: Sequence[int]) -> dict[str, int]:
        counts = Counter(labels)
        return {info.slug: counts[info.index] for info in self._context.classes}

    def _synthetic_labels(self) -> Sequence[int]:
        assert self.choice is not None
        kind = ARMS[self.choice.arm].images
        if kind is None:
            return ()
        folder, per_class = self._config.root / FOLDERS[kind], self._config.benchmark.per_class
        if self._ranks is not None:
            first = {key for key, rank in self._ranks.items() if rank < per_class}
            return SyntheticImages(folder, only=first).labels
        accepted = self._trial_stage.accepted if ARMS[self.choice.arm].filtered else None
        return SyntheticImages(folder, per_class=per_class, only=accepted).labels

    @cached_property
    def _ranks(self) -> Mapping[str, int] | None:
        """The order of the images of the run where a guide selects those of the arm that is kept, else None."""
        assert self.choice is not None
        kind = ARMS[self.choice.arm].images
        if kind is None or not selected_by_guide(self._config.benchmark, self.choice.arm):
            return None
        chosen = SelectedImages(self._context, kind)
        chosen.make("all photos")
        return chosen.ranks()

    def _accuracy_by_arm(self) -> Mapping[str, AccuracyEstimate]:
        estimates_of = {}
        for arm, group in self._trials.groupby("arm", sort=False):
            estimate = estimates.accuracy(group, self._folds)
            assert estimate is not None
            estimates_of[str(arm)] = self._accuracy(estimate, f"mean over {'folds' if self._folds else 'draws'}")
        return estimates_of

    def _accuracy(self, estimate: Estimate, measured: str) -> AccuracyEstimate:
        """Say how an accuracy was measured, and how its interval was made."""
        assert self.choice is not None
        method = f"{measured}; interval: {_interval(estimate.count, self._folds)}"
        low, high = max(estimate.low, 0.0), min(estimate.high, 1.0)  # of one draw it has no ends
        return AccuracyEstimate(estimate.mean, low, high, method, self.choice.chance)

    def _confusion(self, arm: str) -> list[list[int]]:
        """Count (true class, predicted class) over the test images of all draws."""
        counts = np.zeros((len(self._outputs),) * 2, int)
        for row in self._trials[self._trials["arm"] == arm].to_dict("records"):
            for truth, predicted in zip(row["truth"], row["predicted"], strict=True):
                if predicted in self._outputs:
                    counts[self._outputs[truth], self._outputs[predicted]] += 1
        return [list(map(int, row)) for row in counts]

    def _answers(self, arm: str, final: FinalClassifier) -> list[_Answers]:
        """Logits and labels of images that had no part in training, in groups that were answered by one classifier."""
        if self._folds is None:
            if final.logits is None:
                return []
            half = np.arange(len(final.truth)) % 2
            labels = np.array(final.truth)
            return [(final.logits[half == number], labels[half == number]) for number in (0, 1)]
        columns = list(self._outputs)
        answers = []
        for row in self._trials[self._trials["arm"] == arm].to_dict("records"):
            labels = np.array([self._outputs[label] for label in row["truth"]])
            answers.append((self._trial_stage.logits(row)[:, columns], labels))
        return answers

    def _hashes(self) -> dict[str, str]:
        """The hashes of what made the classifier, by name."""
        assert self.choice is not None
        settings = self._context.identity("benchmark", self.choice.other_model)
        hashes = {"settings": configuration.fingerprint(settings)}
        if isinstance(self._config.dataset, DatasetOnDisk):
            hashes["photos"] = configuration.fingerprint(settings["dataset"])
        if self._shards is not None:
            hashes["images"] = configuration.fingerprint([self._shards.digest(spec) for spec in self._shards.layout()])
        return hashes


def _mistake(
    photo: Example, taken_for: Sequence[Example], titles: Mapping[int, str], times: int, tests: int
) -> Mistake | None:
    """Show a mistake with a photo of the class that it was taken for; None if there is none that can be read."""
    picture, other = _first_readable([photo]), _first_readable(taken_for)
    if picture is None or other is None:
        return None
    return Mistake(titles[photo.label], titles[taken_for[0].label], times, tests, picture, other)


def _first_readable(photos: Sequence[Example]) -> Image.Image | None:
    """Open the first photo that can be read."""
    for photo in photos:
        with suppress(UnreadableImageError):
            return photo.open()
    return None


def _calibrate(answers: Sequence[_Answers]) -> tuple[float, float | None]:
    """Find the temperature of all answers, and the calibration error at temperatures that others of them chose."""
    answers = [(logits, labels) for logits, labels in answers if len(labels)]
    if not answers:
        return 1.0, None
    temperature = calibration.temperature(*_joined(answers))
    if len(answers) < 2:
        return temperature, None
    probabilities = []
    for number, (logits, _) in enumerate(answers):
        others = answers[:number] + answers[number + 1 :]
        probabilities.append(calibration.softmax(logits, calibration.temperature(*_joined(others))))
    labels = np.concatenate([labels for _, labels in answers])
    return temperature, calibration.expected_calibration_error(np.concatenate(probabilities), labels)


def _joined(answers: Sequence[_Answers]) -> _Answers:
    return np.concatenate([logits for logits, _ in answers]), np.concatenate([labels for _, labels in answers])


def _interval(draws: int, folds: int | None) -> str:
    if estimates.few_folds(draws, folds):
        return "Wilson's over the photos, as so few folds cannot tell how much it varies"
    over = "corrected resampled t over folds" if folds else "Student's t over few-shot draws"
    return f"{over}, or Wilson's over test images if that is wider"


def _percent(estimate: Estimate) -> str:
    if not np.isfinite(estimate.low):
        return f"{estimate.mean:.0%}"
    return f"{estimate.mean:.0%} (95 % interval {estimate.low:.0%} to {estimate.high:.0%})"
