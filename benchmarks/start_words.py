"""What the word that a class token starts from is worth: the class's own name against "a".

    OMP_NUM_THREADS=1 python -m benchmarks.start_words --seeds 2 --out runs/start-words.jsonl

Tokens of some Pocket classes are trained to their end from each word, with several token seeds; the judge's accuracy is
that of the certificate: fresh images with the token. Nothing is chosen by these numbers but the better word. A second
call reuses what `--out` has.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dct_augment import classifiers, config, datasets, diffusion
from dct_augment.intervals import Estimate, mean_t
from dct_augment.tokens.class_token_trainer import ClassTokenTrainer

WORDS = ("a", "{class}")
CLASSES = {
    "pocket": ("crane", "kiwi", "cardinal", "bat", "chipping sparrow", "pacific gull"),
    "digits": ("three", "five", "eight", "nine"),
}
"""All four homonyms and two other birds; four digits that look alike."""

Row = dict[str, Any]


def main() -> None:
    """Train what is missing, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start_words", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2, help="token seeds")
    parser.add_argument("--configs", default=",".join(CLASSES), help="of pocket and digits")
    parser.add_argument("--classes", help="only these; else those of this benchmark")
    parser.add_argument("--out", type=Path, default=Path("runs/start-words.jsonl"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows = _read(options.out)
    for seed in range(1, options.seeds + 1):
        for name in options.configs.split(","):
            classes = options.classes.split(",") if options.classes else CLASSES[name]
            for word in WORDS:
                trained = {
                    row["class"] for row in rows if (row["config"], row["seed"], row["word"]) == (name, seed, word)
                }
                missing = [one for one in classes if one not in trained]
                for row in _train(name, missing, word, seed, options.overrides) if missing else ():
                    rows.append(row)
                    with options.out.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps(row) + "\n")
    _print(rows)


def _read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def _train(name: str, classes: Sequence[str], word: str, seed: int, overrides: Sequence[str]) -> Iterator[Row]:
    """Train the tokens of some classes from a start word; yield a row for each."""
    settings = config.load(name, [*overrides, f"tokens.seed={seed}", f"tokens.init_word='{word}'"], classes=classes)
    dataset = datasets.load(settings.dataset)
    backend = diffusion.load(**settings.model.model_dump())
    guide, judge = (classifiers.load(members, dataset.classes) for members in (settings.guide, settings.judge or ()))
    trainer = ClassTokenTrainer(
        diffusion.Sampler.from_config(backend, settings.sampling, negative_prompt=settings.prompts.negatives[0]),
        guide,
        judge=judge,
        tokens_config=settings.tokens,
        prompts_config=settings.prompts,
    )
    for trained in trainer.train(datasets.select(dataset, classes)):
        certificate = trained.certificate
        assert certificate is not None
        assert certificate.judge is not None
        yield {
            "config": name,
            "seed": seed,
            "word": word,
            "class": trained.info.name,
            "homonym": trained.info.homonym,
            "judge": certificate.judge.token,
            "plain": certificate.judge.plain,
            "evaluations": trained.evaluations,
            "attempts": trained.attempts,
            "verdict": str(certificate.verdict),
        }


def _print(rows: Sequence[Row]) -> None:
    """Print what each word gave, and the difference over the pairs of one class and seed; others are left out."""
    words_of_pair: dict[tuple[Any, ...], set[str]] = {}
    for row in rows:
        words_of_pair.setdefault(_pair(row), set()).add(row["word"])
    rows = [row for row in rows if len(words_of_pair[_pair(row)]) == len(WORDS)]
    print("| classes | tokens | start word | judge accuracy | denoiser evaluations | attempts | certified |")
    print("|---|---|---|---|---|---|---|")
    groups = {
        "homonyms": [row for row in rows if row["homonym"]],
        "other birds": [row for row in rows if row["config"] == "pocket" and not row["homonym"]],
        "digits": [row for row in rows if row["config"] == "digits"],
    }
    for title, group in groups.items():
        for word in WORDS:
            of_word = [row for row in group if row["word"] == word]
            if not of_word:
                continue
            judge, evaluations, attempts = (_mean(of_word, key) for key in ("judge", "evaluations", "attempts"))
            certified = sum(row["verdict"] == "certified" for row in of_word)
            print(
                f"| {title} | {len(of_word)} | `{word}` | {100 * judge:.1f} | {evaluations:,.0f} | {attempts:.1f} | "
                f"{certified} |"
            )
    print()
    for key, scale, what in (("judge", 100, "judge accuracy, points"), ("evaluations", 1, "denoiser evaluations")):
        difference = _difference(rows, key)
        low, high = scale * difference.low, scale * difference.high
        print(f"`{WORDS[1]}` minus `{WORDS[0]}`, {what}: {scale * difference.mean:.1f} ({low:.1f} .. {high:.1f})")


def _difference(rows: Sequence[Row], key: str) -> Estimate:
    """The mean difference of the words, paired by class and seed, with Student's 95 % interval."""
    by_pair: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in rows:
        by_pair.setdefault(_pair(row), {})[row["word"]] = row[key]
    return mean_t([pair[WORDS[1]] - pair[WORDS[0]] for pair in by_pair.values()])


def _pair(row: Row) -> tuple[Any, ...]:
    return row["config"], row["class"], row["seed"]


def _mean(rows: Sequence[Row], key: str) -> float:
    return sum(row[key] for row in rows) / len(rows)


if __name__ == "__main__":
    main()
