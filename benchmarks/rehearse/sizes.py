"""How large everything is: in full, and for a test of this program."""

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Size:
    """Numbers of classes and pictures, and what models there are.

    Attributes:
        cub_classes: of the CUB tree.
        cub_pictures: in it, 30 or 29 of a class for training.
        cub_side: of a picture, pixels wide and high.
        cub_generated: images of a class in the finished run of CUB.
        generated_side: their width and height.
        imagenet_classes: of the ImageNet tree.
        imagenet_train: training pictures of a class; in truth there are about 1,300.
        imagenet_val: validation pictures of a class.
        imagenet_generated: images of a class in the finished run of ImageNet.
        guide: timm's name of the guide of the token unit and the shard.
        small: timm's name of a small model: the guide of the finished run, and the classifier of the large trials.
        classifier: timm's name of the classifier of the trials of few classes.
        image_size: pixels that classifiers take.
        metric_images: images of the computation of metrics, at most.
        metric_reals: real ones.
    """

    name: str
    cub_classes: int
    cub_pictures: int
    cub_side: tuple[int, int]
    cub_generated: int
    generated_side: int
    imagenet_classes: int
    imagenet_train: int
    imagenet_val: int
    imagenet_generated: int
    guide: str
    small: str
    classifier: str
    image_size: int
    metric_images: int
    metric_reals: int


FULL = Size(
    name="full",
    cub_classes=200,
    cub_pictures=11_788,
    cub_side=(500, 375),
    cub_generated=10,
    generated_side=512,
    imagenet_classes=1_000,
    imagenet_train=10,
    imagenet_val=50,
    imagenet_generated=100,
    guide="vit_base_patch32_224",
    small="test_efficientnet_gn",
    classifier="resnet50",
    image_size=224,
    metric_images=10_000,
    metric_reals=5_794,
)
MILLION = replace(FULL, name="million", imagenet_generated=1_000)
TINY = Size(
    name="tiny",
    cub_classes=4,
    cub_pictures=160,
    cub_side=(50, 38),
    cub_generated=4,
    generated_side=16,
    imagenet_classes=4,
    imagenet_train=10,
    imagenet_val=5,
    imagenet_generated=5,
    guide="test_vit",
    small="test_efficientnet_gn",
    classifier="test_efficientnet_gn",
    image_size=32,
    metric_images=80,
    metric_reals=40,
)
SIZES: Mapping[str, Size] = {size.name: size for size in (FULL, MILLION, TINY)}
