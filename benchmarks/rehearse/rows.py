"""The rows of the table: what is run, in how much memory and time, and what must be there before."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.rehearse.sizes import Size
from benchmarks.rehearse.trees import cub_names


def _nothing(printed: str) -> str:
    return ""


@dataclass(frozen=True)
class Row:
    """A command that is measured.

    Attributes:
        name: `cub/plan`.
        what: what it does, and what is cut down.
        command: a module and its arguments; it runs in the folder of the rehearsal.
        needs: rows that make what it works on.
        fresh: files and folders that must not be there when it begins.
        most_gb: memory of all its processes, in 10^9 bytes; any if None.
        above: the row whose memory is added to that limit, as many times as `times`.
        most_cpu: seconds of the processor; any if None.
        leaves: what it makes for others, if that is all it is for: it is not made again where it is.
        problem: finds what is wrong in what the command printed, in words; empty if nothing is.
        note: finds what is worth telling in it.
    """

    name: str
    what: str
    command: Sequence[str]
    needs: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    most_gb: float | None = None
    above: str = ""
    times: int = 0
    most_cpu: float | None = None
    leaves: str = ""
    problem: Callable[[str], str] = field(default=_nothing, repr=False)
    note: Callable[[str], str] = field(default=_nothing, repr=False)


_SHORT = (
    "sampling.num_inference_steps=2",
    "tokens.max_updates=1",
    "tokens.validate_every=1",
    "tokens.images_per_update=1",
    "tokens.validation_images=1",
    "tokens.plain_first=false",
    "tokens.restarts=0",
    "tokens.certificate_images=2",
    "tokens.certificate_looks=1",
)
"""What makes the training of a class token as short as it can be."""


def rows(size: Size) -> tuple[Row, ...]:
    """List all rows, in an order in which each comes after those that it needs."""
    return (*_cub(size), *_imagenet(size))


def _cub(size: Size) -> Sequence[Row]:
    names = [name.partition(".")[2].replace("_", " ") for name in cub_names(size)]
    one, cub, finished = ("--classes", names[0]), ("--config", "cub.yaml"), ("--config", "cub-finished.yaml")
    side, model = size.generated_side, ("text-to-image model in the shape of Stable Diffusion 1.5, float32")
    trials = f"two trials, 2 steps of 32 images, {size.image_size} pixels, tested on all test pictures"
    return (
        _made("cub/pictures", f"the tree of CUB: {size.cub_classes} classes, {size.cub_pictures:,} JPEGs", size)(
            "cub-pictures", leaves="CUB_200_2011"
        ),
        _made("cub/models", f"{model}, and guides ({size.guide}, test_vit), random weights", size)(
            "cub-models", leaves="cub-finished.yaml", needs=("cub/pictures",)
        ),
        Row(
            "cub/data",
            "`data`: the first look opens every picture, and searches duplicates",
            _cli("data", *cub),
            needs=("cub/models",),
            fresh=("cache/cub", "runs/cub"),
            most_gb=1,
        ),
        Row("cub/doctor", "`doctor`", _cli("doctor", *cub), needs=("cub/data",), most_gb=3),
        Row("cub/plan", "`run --dry-run`", _cli("run", *cub, "--dry-run"), needs=("cub/data",), most_gb=6),
        Row(
            "cub/token",
            f"`train` of one class at {side} pixels: 2 steps, 1 update with 1 image, 1 image to validate, a "
            "certificate of 2 pairs",
            _cli("train", *cub, *one, *_sets(*_SHORT)),
            needs=("cub/data",),
            fresh=("runs/cub/tokens", "runs/cub/shards"),
            most_gb=8,
        ),
        Row(
            "cub/shard",
            f"`generate` of one image at {side} pixels: 2 steps",
            _cli("generate", *cub, *one, "--per-class", "1", "--allow-uncertified", *_sets(*_SHORT)),
            needs=("cub/token",),
            fresh=("runs/cub/shards",),
            most_gb=6,
        ),
        _made(
            "cub/run",
            f"a finished run of CUB: {size.cub_classes} tokens, {size.cub_classes * size.cub_generated:,} images of "
            f"{side} pixels",
            size,
        )("cub-run", leaves="runs/cub-finished/shards/_info.json", needs=("cub/data",)),
        _alone("cub/small classifier", size.small, size.cub_classes, size),
        Row(
            "cub/trials",
            f"`benchmark`: {trials}, side by side, of {size.small}",
            _cli("benchmark", *finished, *_sets("metrics.features=null")),
            needs=("cub/run", "cub/small classifier"),
            fresh=("runs/cub-finished/benchmark",),
            most_gb=2,
            above="cub/small classifier",
            times=2,
        ),
        _alone("cub/classifier", size.classifier, size.cub_classes, size),
        Row(
            "cub/trials of few classes",
            f"`benchmark`: {trials} of 10 classes, side by side, of {size.classifier}",
            _cli(
                "benchmark",
                *finished,
                *("--classes", ",".join(names[:10]), "--output", "runs/cub-few"),
                *_sets("benchmark.arms=[real]", "metrics.features=null", f"downstream.model={size.classifier}"),
            ),
            needs=("cub/data", "cub/classifier"),
            fresh=("runs/cub-few",),
            most_gb=2,
            above="cub/classifier",
            times=2,
        ),
        Row(
            "cub/metrics",
            f"`benchmark`: metrics of {size.cub_classes * size.cub_generated:,} images by test_vit, against 2,000 real "
            "ones",
            _cli("benchmark", *finished),
            needs=("cub/trials",),
            fresh=("runs/cub-finished/benchmark/metrics",),
            most_gb=2,
        ),
        Row(
            "cub/metrics of features",
            f"metrics of {size.metric_images:,} features against {size.metric_reals:,}, 768 dimensions, 200 resamples; "
            "and of a quarter of them: at most 240 s, in memory that does not grow",
            ("benchmarks.metrics_size", "--images", str(size.metric_images), "--real", str(size.metric_reals)),
            most_gb=2,
            problem=_metrics_problem,
            note=_metrics_note,
        ),
        Row(
            "cub/report",
            "`report`",
            _cli("report", *finished),
            needs=("cub/metrics",),
            fresh=("runs/cub-finished/report",),
            most_gb=1.5,
        ),
        _opens("cub", "runs/cub-finished"),
        Row("cub/verify", "`verify`", _cli("verify", *finished), needs=("cub/run",), most_gb=1),
    )


def _imagenet(size: Size) -> Sequence[Row]:
    named = ("--config", "imagenet.yaml")
    four = ("--classes", "n01440764,n01443537,n01484850,n01491361", "--output", "runs/imagenet-four")
    images = size.imagenet_classes * size.imagenet_generated
    return (
        _made(
            "imagenet/pictures",
            f"the tree of ImageNet: {size.imagenet_classes:,} classes, {size.imagenet_classes * size.imagenet_val:,} "
            f"validation and {size.imagenet_classes * size.imagenet_train:,} training JPEGs of 64 x 48",
            size,
        )("imagenet-pictures", leaves="imagenet.yaml"),
        Row(
            "imagenet/plan of four classes",
            "`run --dry-run --classes` of four; only their pictures are opened; Pocket draws",
            _cli("run", *named, *four, "--dry-run"),
            needs=("imagenet/pictures",),
            fresh=("cache/imagenet", "runs/imagenet-four"),
            most_gb=3,
        ),
        Row(
            "imagenet/data",
            "`data`: the first look opens every picture, and searches duplicates",
            _cli("data", *named),
            needs=("imagenet/pictures",),
            fresh=("cache/imagenet", "runs/imagenet/data"),
            most_gb=1,
        ),
        Row(
            "imagenet/plan",
            "`run --dry-run` of all classes; Pocket draws",
            _cli("run", *named, *("--output", "runs/imagenet-plan"), "--dry-run"),
            needs=("imagenet/data",),
            fresh=("runs/imagenet-plan",),
            most_gb=3,
        ),
        _made(
            "imagenet/run",
            f"a finished run of ImageNet: {size.imagenet_classes:,} tokens, {images:,} images, most of 2 x 2 pixels, "
            "and the answers of 6 trials",
            size,
        )("imagenet-run", leaves="runs/imagenet/benchmark/trials.parquet", needs=("imagenet/data",)),
        Row(
            "imagenet/finished",
            f"tokens and {images:,} images are recognised as finished",
            ("benchmarks.rehearse.look", "imagenet.yaml"),
            needs=("imagenet/run",),
            most_gb=1,
            most_cpu=20,
        ),
        Row(
            "imagenet/report",
            "`report`",
            _cli("report", *named),
            needs=("imagenet/run",),
            fresh=("runs/imagenet/report",),
            most_gb=1.5,
        ),
        _opens("imagenet", "runs/imagenet"),
        Row("imagenet/verify", "`verify`", _cli("verify", *named), needs=("imagenet/run",), most_gb=1),
    )


def _cli(*words: str) -> tuple[str, ...]:
    return ("dct_augment", *words)


def _sets(*settings: str) -> tuple[str, ...]:
    return tuple(word for setting in settings for word in ("--set", setting))


def _made(name: str, what: str, size: Size) -> Callable[..., Row]:
    """Give a function of a step, of what it leaves and needs, that makes the row of it."""

    def made(step: str, *, leaves: str, needs: tuple[str, ...] = ()) -> Row:
        command = ("benchmarks.rehearse.trees", step, ".", size.name)
        return Row(name, f"made: {what}", command, needs=needs, fresh=(leaves.partition("/_info")[0],), leaves=leaves)

    return made


def _alone(name: str, model: str, outputs: int, size: Size) -> Row:
    command = ("benchmarks.rehearse.alone", model, str(size.image_size), "32", str(outputs))
    return Row(name, f"{model} alone: trained for 3 steps of 32 images, and asked, on made-up tensors", command)


def _opens(data: str, run: str) -> Row:
    return Row(
        f"{data}/report opens",
        "the page in chromium, at most 2 s of its own thread until it is drawn",
        ("benchmarks.rehearse.opens", f"{run}/report/index.html"),
        needs=(f"{data}/report",),
        note=lambda printed: printed.strip().rpartition("\n")[2],
    )


def _metrics_table(printed: str) -> list[list[float]]:
    """Read the rows of numbers that `metrics_size` prints."""
    found = [re.findall(r"[\d,.]+", line) for line in printed.splitlines() if re.match(r"\| [\d,]+ \|", line)]
    return [[float(cell.replace(",", "")) for cell in cells] for cells in found]


def _metrics_problem(printed: str) -> str:
    few, many = _metrics_table(printed)
    if many[4] > 240:
        return f"{many[4]:.0f} s, more than 240"
    if many[6] > 1.25 * few[6] + 50:
        return f"memory grows from {few[6]:.0f} to {many[6]:.0f} MB"
    return ""


def _metrics_note(printed: str) -> str:
    few, many = _metrics_table(printed)
    return f"{many[4]:.0f} s; {few[6]:.0f} and {many[6]:.0f} MB beyond the features"
