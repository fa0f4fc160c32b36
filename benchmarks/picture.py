"""Draws README's picture from finished runs: plain prompts above, class tokens below.

python -m benchmarks.picture runs/pocket runs/digits --classes crane,kiwi,cardinal,bat,...
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dct_augment import config, datasets
from dct_augment.generation.shards import shard_folders
from dct_augment.records import ImageKind

SIDE, GAP, HEAD = 64, 4, 16
KINDS = (ImageKind.PLAIN_PROMPT, ImageKind.CLASS_TOKEN)


def main() -> None:
    """Read the runs' shards and write the picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.picture", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--classes", help="comma-separated slugs; all if not given")
    parser.add_argument("--images", type=int, default=4, help="images per class and row")
    parser.add_argument("--columns", type=int, default=4, help="classes side by side")
    parser.add_argument("--out", type=Path, default=Path("docs/pocket.png"))
    options = parser.parse_args()
    chosen_slugs = options.classes.split(",") if options.classes else None
    cards = [card for run in options.runs for card in _cards(run, chosen_slugs, options.images)]
    rows = -(-len(cards) // options.columns)
    width, height = cards[0].size
    sheet = Image.new("RGB", (options.columns * (width + 12) - 12, rows * (height + 10) - 10), "white")
    for number, card in enumerate(cards):
        sheet.paste(card, (number % options.columns * (width + 12), number // options.columns * (height + 10)))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(options.out, optimize=True)


def _cards(run: Path, chosen_slugs: list[str] | None, images: int) -> list[Image.Image]:
    settings = config.load(str(run / "config.yaml"))
    slugs = {info.index: info.slug for info in datasets.load(settings.dataset).classes}
    folders = shard_folders(run, settings.name)
    images_of_slug: dict[str, dict[ImageKind, dict[int, Image.Image]]] = {}
    for kind in KINDS:
        for key, label, picture in folders[kind].images():
            slug, number = slugs[label], int(key.rsplit("-", 1)[1])
            if number < images and (chosen_slugs is None or slug in chosen_slugs):
                images_of_slug.setdefault(slug, {kind: {} for kind in KINDS})[kind][number] = picture
    return [_card(slug, images_of_slug[slug], images) for slug in images_of_slug]


def _card(slug: str, images_of_slug: dict[ImageKind, dict[int, Image.Image]], images: int) -> Image.Image:
    card = Image.new("RGB", (images * SIDE, HEAD + 2 * SIDE + GAP), "white")
    ImageDraw.Draw(card).text((0, 0), slug.replace("-", " "), fill="black", font=ImageFont.load_default(13))
    for row, kind in enumerate(KINDS):
        for number, picture in images_of_slug[kind].items():
            card.paste(picture.resize((SIDE, SIDE)), (number * SIDE, HEAD + row * (SIDE + GAP)))
    return card


if __name__ == "__main__":
    main()
