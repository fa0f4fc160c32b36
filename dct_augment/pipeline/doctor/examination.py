"""Examines everything that a run needs."""

import os
from collections.abc import Iterator

from dct_augment import datasets
from dct_augment.config import Config, ZeroShotClassifierConfig
from dct_augment.devices import resolve_device
from dct_augment.pipeline.cost import count, machine_of
from dct_augment.pipeline.doctor.classifiers import (
    features,
    guide,
    low_resource_classifier,
    zero_shot_classifier,
    zero_shot_prompts,
)
from dct_augment.pipeline.doctor.data import data_set, prompts
from dct_augment.pipeline.doctor.finding import Finding
from dct_augment.pipeline.doctor.machine import disk, machine, memory, packages, server
from dct_augment.pipeline.doctor.text_to_image import adapters, sampling, text_to_image
from dct_augment.pipeline.doctor.work import metrics, work
from dct_augment.pipeline.speed import measure_trials


def examine(config: Config) -> Iterator[Finding]:
    """Examine everything that a run with this configuration needs."""
    yield packages()
    yield machine(config)
    dataset_finding, dataset, class_count, with_protocol = data_set(config)
    used = None if dataset is None else datasets.used(dataset, config.dataset)
    classes, known = (() if each is None else each.classes for each in (used, dataset))
    yield text_to_image(config)
    yield sampling(config)
    yield from adapters(config)
    yield memory(config)
    for role, members in (("guide", config.guide), ("judge", config.judge or ())):
        for member in members:
            if isinstance(member, ZeroShotClassifierConfig):
                yield from zero_shot_classifier(role, member, config)
            else:
                yield guide(role, member, classes)
    if config.downstream.pretrained:
        for name in config.downstream.models:
            yield low_resource_classifier(name)
    if config.metrics.features not in (None, "auto", "judge", "guide"):
        yield features(str(config.metrics.features), config.metrics.inception_weights)
    yield dataset_finding
    yield prompts(config, classes, known)
    yield from zero_shot_prompts(config, classes)
    whole_run = None
    if class_count is not None:
        here = machine_of(config)
        device = resolve_device("auto" if here.gpu_bytes is not None else "cpu")
        trials = {} if used is None else measure_trials(with_protocol, used, class_count, device)
        whole_run = count(with_protocol, class_count, here, trials)
    yield disk(config, None if whole_run is None else whole_run.images)
    yield work(with_protocol, whole_run, class_count)
    yield metrics(with_protocol, class_count, used)
    if address := os.environ.get("PREFECT_API_URL"):
        yield server(address)
