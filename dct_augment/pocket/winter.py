"""Birds of another place in winter: another camera, other plumages, other names, and species that `birds` has not.

Twelve are the species of `birds`, called by the second word of their scientific names, which no caption has. Four are
new. What is learned of the one data set can be tried on the other, as from CUB to iNaturalist.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from dct_augment.pocket import birds, camera
from dct_augment.pocket.birds import Species

SPLITS = {"guide": 21, "judge": 22, "train": 23, "val": 24, "test": 25}
"""First word of the random seed of every picture; none of those of `birds` and of the backbone."""


@dataclass(frozen=True)
class WinterBird:
    """A class: its name, what it looks like in winter, and what `birds` calls it, if it is there, too."""

    name: str
    species: Species
    summer_name: str = ""


def _in_winter(name: str, summer_name: str, **plumage: Any) -> WinterBird:
    summer = next(bird for bird in birds.BIRDS if bird.name == summer_name)
    return WinterBird(name, replace(summer, **plumage), summer_name)


BIRDS: tuple[WinterBird, ...] = (
    _in_winter("melodia", "song sparrow", body="grey"),
    _in_winter("leucophrys", "whitecrown sparrow"),
    _in_winter("atricapilla", "goldcrown sparrow", crown="buff"),
    _in_winter("passerina", "chipping sparrow", crown="rufous"),
    _in_winter("argentatus", "herring gull"),
    _in_winter("atricilla", "laughing gull", crown="grey"),
    _in_winter("marinus", "blackback gull"),
    _in_winter("pacificus", "pacific gull"),
    _in_winter("viridis", "yaffle woodpecker", body="olive"),
    _in_winter("erythrocephalus", "redhead woodpecker"),
    _in_winter("pubescens", "downy woodpecker", belly="grey"),
    _in_winter("auratus", "flicker woodpecker", belly="buff"),
    WinterBird("nivalis", Species("snow bunting", "sparrow", "white", "white", "buff", "black", "patched", "orange",
                                  "black", ())),
    WinterBird("hyemalis", Species("junco", "sparrow", "dark grey", "white", "dark grey", "dark grey", "plain", "pink",
                                   "black", ())),
    WinterBird("glaucoides", Species("iceland gull", "gull", "white", "white", "white", "buff", "plain", "olive",
                                     "white", ())),
    WinterBird("tridactylus", Species("three-toed woodpecker", "woodpecker", "black", "white", "yellow", "black",
                                      "barred", "grey", "black", ())),
)  # fmt: skip

SUMMER_NAMES = {bird.name: bird.summer_name for bird in BIRDS if bird.summer_name}
"""What `birds` calls each of the twelve species that both data sets have."""


def drawing(index: int, split: str, number: int) -> Image.Image:
    """Clean drawing `number` of a class in one of the disjoint `SPLITS`, 64 x 64 RGB; always the same one."""
    return birds.draw(BIRDS[index].species, np.random.default_rng([SPLITS[split], index, number]))[0]


def photograph(index: int, split: str, number: int) -> Image.Image:
    """The same bird, photographed in snow."""
    random = np.random.default_rng([SPLITS[split], index, number, 1])
    return camera.photograph_in_snow(drawing(index, split, number), random)
