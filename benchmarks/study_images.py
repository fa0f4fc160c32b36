"""How faithful and how varied the images of the rows of a study of classifiers are, beside real ones.

    OMP_NUM_THREADS=1 python -m benchmarks.study_images --tuning --shots 5 --datasets digits

The study must have run (`dct-augment study gain` with the same options): this reads the images that its trials trained
on. All is measured in the features of the judge, against the validation and test images. `precision` and `recall`:
shares of images that lie among those of the other kind (arXiv 1904.06991, k = 5). `spread`: the variance within a
class, and `offset`: the squared distance of its mean, both over the variance within the class of real images; means
over classes. Nothing is chosen by it. Intervals are over draws.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from PIL import Image

from benchmarks.study_tokens import parser, planned_runs
from dct_augment import SyntheticImages
from dct_augment.benchmark.arms import ARMS, arm_folder
from dct_augment.classifiers import Classifier
from dct_augment.errors import InputError
from dct_augment.generation.shards import FOLDERS
from dct_augment.images import to_tensor
from dct_augment.intervals import mean_t
from dct_augment.metrics.neighbourhoods import neighbourhood_scores
from dct_augment.pipeline import Run
from dct_augment.records import ClassInfo
from dct_augment.studies.plan import PlannedRun

_K, _BATCH = 5, 64
Table = dict[str, pd.DataFrame]
"""By row of the study: a line for each draw."""


def main() -> None:
    """Print a table for each place of the study."""
    options = parser("benchmarks.study_images", __doc__).parse_args()
    torch.set_num_threads(1)
    for place, rows in read(planned_runs(options)).items():
        print(f"\n| {place} | judge, % | precision, % | recall, % | spread | offset |\n|{' --- |' * 6}")
        for row, table in rows.items():
            shares = [_shown(100 * table[name]) for name in ("judge", "precision", "recall")]
            print(f"| `{row}` | {' | '.join([*shares, *(_shown(table[name], 2) for name in ('spread', 'offset'))])} |")


def read(runs: Sequence[PlannedRun], judge: Classifier | None = None) -> dict[str, Table]:
    """Measure the images of each draw, by place of the study and by row; what has made none yet is left out.

    Args:
        runs: the runs of the study.
        judge: whose features are taken; that of the runs if not given.

    Raises:
        InputError: there is none.
    """
    found: dict[str, Table] = {}
    real: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for planned in runs:
        run, settings = Run(planned.config), planned.config.benchmark
        features_of = judge or run.judge
        if features_of is None:
            raise InputError("the runs of this study have no judge; set `judge` in its file")
        name = planned.config.dataset.name
        if name not in real:
            examples = [example for part in ("val", "test") for example in run.dataset.examples(part)]
            labels = torch.tensor([example.label for example in examples])
            real[name] = _features(features_of, [example.open() for example in examples]), labels
        for row, arm in planned.arm_of.items():
            if not ARMS[arm].own_images:
                continue
            lines = {}
            for seed in settings.draws:
                kind = ARMS[arm].images
                assert kind is not None
                folder = arm_folder(run.arm_paths.images, arm, planned.cell.shots, seed) / FOLDERS[kind]
                if (folder / "_info.json").is_file():
                    images = SyntheticImages(folder, per_class=settings.per_class)
                    lines[seed] = _measure(features_of, run.classes, images, *real[name])
            if lines:
                found.setdefault(planned.cell.title, {})[row] = pd.DataFrame(lines).T
    return found


def _measure(
    judge: Classifier,
    classes: Sequence[ClassInfo],
    images: SyntheticImages,
    real: torch.Tensor,
    real_labels: torch.Tensor,
) -> dict[str, float]:
    """Measure the images of one draw against real features (N, D) and their labels (N,)."""
    pairs = [images[place] for place in range(len(images))]
    features, labels = _features(judge, [image for image, _ in pairs]), torch.tensor([label for _, label in pairs])
    near = neighbourhood_scores(real, features, _K)
    spreads, offsets = [], []
    for label in sorted(set(labels.tolist())):
        own, others = features[labels == label], real[real_labels == label]
        variance = others.var(0).sum()
        spreads.append(float(own.var(0).sum() / variance))
        offsets.append(float((own.mean(0) - others.mean(0)).square().sum() / variance))
    return {
        "judge": _recognised(judge, classes, [image for image, _ in pairs], labels),
        "precision": float(near["precision"].double().mean()),
        "recall": float(near["recall"].double().mean()),
        "spread": sum(spreads) / len(spreads),
        "offset": sum(offsets) / len(offsets),
    }


@torch.no_grad()
def _features(judge: Classifier, images: Sequence[Image.Image]) -> torch.Tensor:
    """Take the features (N, D) of images."""
    batches = (images[begin : begin + _BATCH] for begin in range(0, len(images), _BATCH))
    return torch.cat([judge.features(torch.cat(list(map(to_tensor, batch)))) for batch in batches]).double()


@torch.no_grad()
def _recognised(
    judge: Classifier, classes: Sequence[ClassInfo], images: Sequence[Image.Image], labels: torch.Tensor
) -> float:
    """Find the share of images that the judge takes for their class."""
    outputs = dict(zip((info.index for info in classes), judge.targets(classes), strict=True))
    targets = torch.tensor([outputs[label] for label in labels.tolist()])
    batches = (images[begin : begin + _BATCH] for begin in range(0, len(images), _BATCH))
    answers = torch.cat([judge.logits(torch.cat(list(map(to_tensor, batch)))).argmax(1) for batch in batches])
    return float((answers == targets).double().mean())


def _shown(values: pd.Series, digits: int = 1) -> str:
    if len(values) < 2:
        return f"{values.iloc[0]:.{digits}f}"
    mean = mean_t(list(values))
    return f"{mean.mean:.{digits}f} ({mean.low:.{digits}f} .. {mean.high:.{digits}f})"


if __name__ == "__main__":
    main()
