"""One configuration with its data, its folder and its models: what every stage works on."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dct_augment import classifiers, datasets, diffusion, files
from dct_augment import config as configuration
from dct_augment.benchmark.draws import Draws
from dct_augment.classifiers import Classifier
from dct_augment.config import AnyClassifierConfig, Config, DatasetOnDisk, what_it_saw
from dct_augment.config.identity import Part
from dct_augment.datasets import Overview
from dct_augment.datasets.splits import index_hash
from dct_augment.devices import resolve_device
from dct_augment.diffusion import Backend, Sampler
from dct_augment.generation.shards import check_tar, shard_folders
from dct_augment.pipeline import few_shot_guide, stores
from dct_augment.pipeline.arm_paths import ArmPaths
from dct_augment.pipeline.classifier_checks import check_on_real_images
from dct_augment.pipeline.model_check import check_adapters, check_sampling
from dct_augment.pipeline.picture_contents import PhotoContents, known_contents
from dct_augment.pipeline.prompt_check import check_class_names, check_lengths, check_start_words, check_words
from dct_augment.pipeline.protocol import load_dataset
from dct_augment.pipeline.start_photos import StartPhotos
from dct_augment.pipeline.unit_pool import UnitPools
from dct_augment.pipeline.weights import WeightHashes
from dct_augment.records import Dataset, Example, Progress, ProgressCallback, StopReason, ignore_progress
from dct_augment.remote.store import NoStore, Store
from dct_augment.tokens.files import TokenFolder
from dct_augment.wording import counted


class RunContext:
    """Models are loaded when first needed and kept; remarks go to `progress`.

    Args:
        config: a loaded configuration.
        progress: receives remarks, and the progress of every stage.
        outer: of a run inside another one, that other one: its data set is taken over, and what local models hold.
    """

    def __init__(
        self, config: Config, progress: ProgressCallback = ignore_progress, outer: "RunContext | None" = None
    ) -> None:
        self._outer = outer
        self.store: Store | NoStore
        self.store = stores.open_store(config) if outer is None else outer.store
        if outer is None:
            self.store.pull()
        self.dataset: Dataset
        self.dataset, self.config = load_dataset(config) if outer is None else (outer.dataset, config)
        self.classes = datasets.select(self.dataset, config.dataset.classes)
        check_class_names(config, self.dataset.classes)
        check_words(config, self.dataset.classes)
        self.progress = _told_once(progress)
        self.guided_classes = self.classes if self.has_few_shot_guide else self.dataset.classes
        self.photos_of_draw: tuple[Example, ...] | None = None
        self.lora_file: Path | None = None
        self._refusals: Mapping[str, str] = {}
        self.unit_pools = UnitPools(self.config, self.progress, self.store)
        self.tokens = TokenFolder(config.root / "tokens", self.dataset.name)
        self.shards = shard_folders(config.root, config.name)
        self._look_folder = config.root / "data"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's folder for this process, and its place on a store, if it has one.

        Raises:
            BusyRunError: another process works there.
        """
        with files.lock(self.config.root), self.store.held():
            yield

    def pull_images(self) -> None:
        """Have the images of the run here, if it is on a store.

        Raises:
            ShardError: a tar is not the one that was written.
        """
        for tar in self.store.pull(images=True):
            check_tar(tar)

    @property
    def is_inner(self) -> bool:
        """Whether this is a run inside another one: no other process can have its photos, guide and LoRA."""
        return self._outer is not None

    @contextmanager
    def without_writing(self) -> Iterator[None]:
        """Keep what a look finds in a folder that goes afterwards; what the last look found is taken over."""
        own = self._look_folder
        with TemporaryDirectory(prefix="dct-augment-") as folder:
            self._look_folder = Path(folder) / "data"
            if own.is_dir():
                shutil.copytree(own, self._look_folder)
            try:
                yield
            finally:
                self._look_folder = own

    @cached_property
    def weights(self) -> WeightHashes:
        """The hashes of the models that lie in local folders."""
        if self._outer is not None:
            return self._outer.weights.of(self.config)
        return WeightHashes(self.config, self.config.root / "checks" / "weights.json")

    def identity(self, part: Part, other_model: str = "") -> dict[str, Any]:
        """What decides a part's result: settings, the content of local files, and the real images of the last look.

        A guide that is made of the photos needs a look at them first. `other_model` stands for `downstream.model`. A
        LoRA, where the run works with one, is there before its tokens and images are.
        """
        if self.has_few_shot_guide:
            _ = self.data
        settings = self.config.identity(part)
        if other_model:
            settings["downstream"]["model"] = other_model
        decided = self._with_class_names(self.weights.add_to(settings))
        if part == "lora":
            decided["class_names"] = configuration.fingerprint([info.name for info in self.classes])
        elif part in ("tokens", "generation") and self.lora_file is not None:
            decided["lora"] = files.sha256(self.lora_file)
        if "path" in decided.get("dataset", {}) and self._image_index:
            decided["dataset"] |= {"images": configuration.fingerprint(self._image_index, self._last_look())}
        return decided

    def _last_look(self) -> str:
        """The hash of the pictures as the last look found them; empty without one. One at other classes is renewed."""
        path = self._look_folder / "overview.json"
        last = files.read_json(path)
        if last and _slugs(last) != [info.slug for info in self.classes]:
            _ = self.data
            last = files.read_json(path)
        return str(last.get("pictures", ""))

    def _with_class_names(self, identity: dict[str, Any]) -> dict[str, Any]:
        """Add the names of all classes to each zero-shot classifier: they make it, and are no setting of its own."""
        names = configuration.fingerprint([info.name for info in self.dataset.classes])
        for role in ("guide", "judge"):
            members = identity.get(role) or ()
            if any(member["name"] == "zero_shot" for member in members):
                identity[role] = [
                    {**member, "class_names": names} if member["name"] == "zero_shot" else member for member in members
                ]
        return identity

    @cached_property
    def _image_index(self) -> str:
        """The hash of the list of real images on disk; empty for shipped data sets, which never change."""
        return index_hash(self.dataset) if isinstance(self.config.dataset, DatasetOnDisk) else ""

    @cached_property
    def device(self) -> str:
        """The torch device; `auto` takes CUDA when there is one."""
        return resolve_device(self.config.device)

    @cached_property
    def backend(self) -> Backend:
        """The text-to-image model."""
        loaded = diffusion.load(**self.config.model.model_dump(), device=self.device)
        chosen = "" if self.config.model.memory else " (chosen from what is free)"
        unchecked = ", safety checker left out" if loaded.has_safety_checker else ""
        note = f"{type(loaded).__name__}{unchecked}, memory: {loaded.memory}{chosen}"
        self.progress(Progress("model", 0, 0, note))
        return loaded

    @cached_property
    def sampler(self) -> Sampler:
        """The text-to-image model with the steps and the guidance of training, validation and certificate.

        Raises:
            InputError: it would cut a prompt, or does not know a start word.
        """
        check_lengths([encoder.prompts for encoder in self.backend.encoders], self.config, self.classes)
        check_start_words(self.backend, self.config, self.classes)
        return Sampler.from_config(self.backend, self.config.sampling, negative_prompt=self.config.prompts.negatives[0])

    @cached_property
    def generation_sampler(self) -> Sampler:
        """The sampler of the images that are generated, whose guidance may be another one than that of training."""
        scale, training = self.config.generation.guidance_scale, self.sampler
        if scale in (None, training.guidance_scale):
            return training
        settings = self.config.sampling.model_copy(update={"guidance_scale": scale})
        return Sampler.from_config(self.backend, settings, negative_prompt=self.config.prompts.negatives[0])

    def check_settings(self) -> None:
        """Check prompts, guidance, scheduler and adapters by the files of the model that are here; none is loaded.

        Raises:
            InputError: a text encoder would cut a prompt.
            ModelError: the model cannot be sampled so, or an adapter cannot be had.
        """
        model = self.config.model
        check_sampling(self.config)
        check_adapters(self.config)
        check_lengths(diffusion.tokenizers_here(model.path, model.revision), self.config, self.classes)

    @cached_property
    def guide(self) -> Classifier:
        """The classifier whose gradient trains the tokens. One of the photos may be refused for classes (`refusals`).

        Raises:
            ModelError: it cannot be had, or is one that is no better than chance though it knows other images.
        """
        if not self.has_few_shot_guide:
            return self._classifier(self.config.guide, "guide")
        return self.make_guide(self.config.guide, self.guide_folder)

    @property
    def guide_folder(self) -> Path:
        """Where the guide lies that is made of the photos of the run."""
        made_of = [example.key for example in self.photos()], [info.name for info in self.classes]
        name = configuration.fingerprint(self.identity("tokens")["guide"], self.identity("arms"), *made_of)[:8]
        return self.config.root / "guide" / name

    @property
    def refusals(self) -> Mapping[str, str]:
        """The classes, by slug, for which the guide is no better than chance, so that they get no token; and why.

        A guide of the photos is made for it if there is none.
        """
        if self.has_few_shot_guide:
            _ = self.guide
        return self._refusals

    def make_guide(self, members: Sequence[AnyClassifierConfig], folder: Path, draw: str = "") -> Classifier:
        """Make a guide of `photos`, or read what was made before from its folder; say how good it is.

        A class for which it is no better than chance gets no token (`refusals`), unless others vote with it. `draw` is
        the title of the draw whose photos they are, for messages.

        Raises:
            ModelError: the backbone cannot be had.
        """
        photos = self.photos()
        title = f"few_shot, {draw}" if draw else "few_shot"
        if not few_shot_guide.is_made(folder):
            if folder.is_dir():
                self.progress(Progress("guide", 0, 0, f"{folder} is damaged"))
            made = f"{title}: making it of {counted(len(photos), 'photo')}, and measuring it on photos left out"
            self.progress(Progress("guide", 0, 0, made))
        alone = nullcontext() if few_shot_guide.is_made(folder) else self.store.exclusive(folder)
        with alone:  # one machine makes it, the others wait and take it
            guide, member = few_shot_guide.make(members, photos, self.classes, folder, self.device)
        measured = member.out_of_fold
        for note in (measured.summary, *measured.notes):
            self.progress(Progress("guide", 0, 0, f"{title}: {note}"))
        if measured.refusal and len(members) == 1:
            instead = f"{'in this draw ' if draw else ''}they are drawn with plain prompts"
            self.progress(Progress("guide", 0, 0, f"{title}: {measured.refusal}. Now {instead}"))
            self._refusals = {info.slug: StopReason.REFUSED for info in self.classes if info.name in measured.refused}
        vars(self)["guide"], self.guided_classes = guide, self.classes
        return guide

    @cached_property
    def judge(self) -> Classifier | None:
        """The held-out classifier, if one is configured."""
        return self._classifier(self.config.judge, "judge") if self.config.judge else None

    @property
    def has_few_shot_guide(self) -> bool:
        """Whether the guide, or a member of it, is made of the photos."""
        return few_shot_guide.few_shot_member(self.config.guide) is not None

    @cached_property
    def tokens_know_draws_alone(self) -> bool:
        """Whether the tokens of the run know no other photos than each draw: all of them, by a guide that they made."""
        return what_it_saw(self.config.guide) == "these_photos" and self.draws_have_all_photos

    @cached_property
    def draws_have_all_photos(self) -> bool:
        """Whether every draw of the benchmark has all training photos of the run."""
        settings = self.config.benchmark
        if settings.protocol != "holdout" or settings.imbalance != 1:
            return False
        return settings.shot_count >= datasets.most_images(self.real_images())

    @property
    def guide_saw(self) -> str:
        """What the run's guide has seen, as the report tells it.

        `draw`: the photos of each draw alone; `all_photos` of the run; `this_training_set`; `web`: pictures with their
        captions; `unknown`. `all_photos_by_tokens`: the guide need not have, but the tokens are pulled towards them.
        """
        saw = what_it_saw(self.config.guide)
        if saw == "these_photos":
            return "draw" if self.tokens_know_draws_alone else "all_photos"
        if saw == "unknown" and self.config.tokens.photo_weight and not self.draws_have_all_photos:
            return "all_photos_by_tokens"
        unknown = [member for member in self.config.guide if what_it_saw([member]) == "unknown"]
        return "web" if saw == "unknown" and all(member.name == "zero_shot" for member in unknown) else saw

    @cached_property
    def start_photos(self) -> StartPhotos | None:
        """The photos that images start from; None if that is noise.

        Raises:
            InputError: images of a class would have no photo to start from.
        """
        return None if self.config.generation.start == "noise" else StartPhotos(self)

    @cached_property
    def photo_contents(self) -> PhotoContents:
        """The content of the training photos of the run, and of its draws."""
        return PhotoContents(self) if self._outer is None else self._outer.photo_contents

    @cached_property
    def held_out_contents(self) -> Mapping[str, str]:
        """The content of the images that draws validate and test on, by key, as far as the last look found it."""
        tested = "train" if self.config.benchmark.protocol == "cross_validation" else "test"
        return known_contents(self, ("val", tested))

    def use_guide(self, guide: Classifier) -> None:
        """Take a classifier as guide, however weak: it was trained on a few images of these classes."""
        vars(self)["guide"] = guide

    def use_token_folder(self, folder: Path) -> None:
        """Keep class tokens in a folder that is not of this run alone."""
        self.tokens = TokenFolder(folder, self.dataset.name)

    def use_lora(self, file: Path) -> None:
        """Let tokens and images be made by the model with the LoRA of a file, which need not be there yet."""
        self.lora_file = file

    @contextmanager
    def lora_inserted(self) -> Iterator[None]:
        """Put the LoRA of the run into its text-to-image model, if it has one; afterwards the model is as it was."""
        if self.lora_file is None:
            yield
            return
        with diffusion.lora.inserted_from(self.backend, self.lora_file):
            yield

    def use_photos(self, photos: Sequence[Example]) -> None:
        """Let guide and tokens be made of the training images of a draw alone."""
        self.photos_of_draw = tuple(photos)

    def photos(self) -> tuple[Example, ...]:
        """The training images that guide and images are made from: those of the draw, or else all."""
        if self.photos_of_draw is not None:
            return self.photos_of_draw
        return tuple(self.real_images().examples("train"))

    @cached_property
    def arm_paths(self) -> ArmPaths:
        """Where the arms with images of their own keep these, their tokens and LoRAs."""
        return ArmPaths(self)

    def reuse_models(self, other: "RunContext") -> None:
        """Take over what another run of this process has loaded from the same settings."""
        if (other.config.device, other.dataset.classes) != (self.config.device, self.dataset.classes):
            return
        for name, section in (("backend", "model"), ("guide", "guide"), ("judge", "judge")):
            if name in vars(other) and getattr(other.config, section) == getattr(self.config, section):
                vars(self)[name] = vars(other)[name]

    def _classifier(self, members: tuple[AnyClassifierConfig, ...], role: str) -> Classifier:
        """Load a guide or judge, and check it on real images."""
        loaded = classifiers.load(
            members,
            self.dataset.classes,
            device=self.device,
            on_remark=lambda remark: self.progress(Progress(role, 0, 0, remark)),
        )
        check_on_real_images(self, loaded, members, role)
        return loaded

    @property
    def base_model(self) -> dict[str, Any]:
        """Of which text-to-image model a token of this run is an embedding."""
        model = self.config.model
        family = type(self.backend).__name__
        blocks = list(self.backend.encoder_widths.items())
        return {"path": model.path, "revision": model.revision, "family": family, "blocks": blocks}

    @cached_property
    def data(self) -> Overview:
        """What a look at the real images shows; it is told in a few lines, once."""
        settings = self.config.dataset
        overview = datasets.look(datasets.used(self.dataset, settings), settings, self._look_folder, self.progress)
        for line in overview.lines():
            self.progress(Progress("data", 0, 0, line))
        return overview

    def use_data(self, other: "RunContext") -> None:
        """Take over what a run of the same data set and classes knows of its images."""
        vars(self)["data"] = other.data

    def real_images(self) -> Dataset:
        """The chosen classes, without images that cannot be read, and without copies if they are to be dropped.

        Raises:
            DatasetError: an image is in more than one split.
        """
        self.data.refuse_problems()
        return self._real_images

    @cached_property
    def _real_images(self) -> Dataset:
        return datasets.used(self.dataset, self.config.dataset, self.data.without)

    def draws(self) -> Draws:
        """The draws of real images that the benchmark runs on; copies of one photo are in one fold.

        Raises:
            DatasetError: an image is in more than one split.
        """
        images = self.real_images()
        copies = [
            frozenset(picture.key for picture in group.pictures if picture.split == "train")
            for group in self.data.groups
        ]
        return Draws(images, self.config.benchmark, [keys for keys in copies if len(keys) > 1])


def _told_once(progress: ProgressCallback) -> ProgressCallback:
    """Pass all progress on, and each remark once: processes and draws of a run find out the same."""
    told = set()

    def pass_on(news: Progress) -> None:
        if not news.total:
            if news in told:
                return
            told.add(news)
        progress(news)

    return pass_on


def _slugs(overview: Mapping[str, Any]) -> list[str]:
    """List the classes of a look; none if its file is of no known form."""
    classes = overview.get("classes")
    rows = classes if isinstance(classes, list) else []
    return [str(row.get("slug")) for row in rows if isinstance(row, dict)]
