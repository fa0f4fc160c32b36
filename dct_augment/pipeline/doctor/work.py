"""Says what a run makes."""

from dct_augment.config import Config
from dct_augment.pipeline.cost import Work, folds_hint, metric_work
from dct_augment.pipeline.doctor.finding import Finding
from dct_augment.records import Dataset


def work(config: Config, work: Work | None, classes: int | None) -> Finding:
    """Say what a run makes, and what of it is cheaper."""
    if work is None or classes is None:
        return Finding("work", "ok", "known once the data set is there")
    return Finding("work", "ok", work.in_words, folds_hint(config, classes))


def metrics(config: Config, classes: int | None, dataset: Dataset | None) -> Finding:
    """Say what the metrics of images take."""
    if dataset is None or classes is None:
        return Finding("metrics", "ok", "known once the data set is there")
    detail = metric_work(config, classes, dataset)
    fewer = "--set metrics.real_images=1000 --set metrics.synthetic_images=1000"
    fix = f"fewer: {fewer}, or --set metrics.features=null for none" if detail else ""
    return Finding("metrics", "ok", detail or "none are measured", fix)
