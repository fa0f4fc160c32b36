"""What a study of tokens found, for people and for programs: words, tables, charts, and the first images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dct_augment import config as configuration
from dct_augment import datasets, files
from dct_augment.config.token_studies import PLAIN, TokenStudy
from dct_augment.generation.shards import shard_folders
from dct_augment.intervals import Estimate, estimate_json
from dct_augment.records import ClassInfo, ImageKind
from dct_augment.report import charts, thumbnails
from dct_augment.report.page import jinja_environment
from dct_augment.report.thumbnails import FirstImages
from dct_augment.studies.findings import points, three_decimals
from dct_augment.studies.token_findings import ALL_CLASSES, TokenClaimFinding, TokenFindings, VariantFinding
from dct_augment.wording import counted

PAGE = "index.html"

_HEAD = (
    "variant",
    "judge, %",
    "over the plain prompt, points",
    "guide, %",
    "worst class, judge, %",
    "certified",
    "diversity / plain",
    "evaluations a class",
)
_MEANINGS = {
    "judge, %": "images with the token that the judge recognises: another classifier, with which no token was trained. "
    "Mean over classes and seeds, with its 95 % interval.",
    "over the plain prompt, points": "by how much more than of images with the plain prompt, from the same noise.",
    "guide, %": "images that the guide recognises: the classifier whose gradient trains the tokens.",
    "worst class, judge, %": "the class with the fewest recognised images.",
    "certified": "tokens that were shown to be better than the plain prompt, by a paired test on fresh noise.",
    "diversity / plain": "how different images of a class are from each other, against those of the plain prompt; 1 is "
    "as different.",
    "evaluations a class": "what training costs: one image through the denoiser is 1 forward, and 2 backward.",
}
_SHOWN_CLASSES = 4
_SIGNIFICANT = 0.05


def write(
    study: TokenStudy,
    findings: TokenFindings,
    run_folders: Mapping[tuple[str, str], Path],
    root: Path,
    command: str,
) -> None:
    """Write findings.json, findings.md and index.html.

    Args:
        study: the question.
        findings: so far.
        run_folders: a finished run of each data set and variant, for its first images.
        root: the folder of the study.
        command: that makes it.
    """
    files.write_json(root / "findings.json", as_json(study, findings), indent=1)
    files.write_text(root / "findings.md", "\n".join(markdown(study, findings)) + "\n")
    page = (
        jinja_environment()
        .get_template("study.html.j2")
        .render(
            question=study.question,
            paper=study.paper,
            seeds=counted(findings.seeds, "seed"),
            command=command,
            answers=[_plain_words(line) for line in answers(findings)],
            parts=list(_parts(study, findings, run_folders)),
            meanings=_MEANINGS,
            failed=findings.failed,
        )
    )
    files.write_text(root / PAGE, page)


def answers(findings: TokenFindings) -> list[str]:
    """Answer each claim in one sentence of Markdown, and say which are not answered yet."""
    left = [f"{claim}: not answered yet, for tokens are missing." for claim in findings.unanswered]
    return [*(_answer(found) for found in findings.claims), *left]


def _answer(found: TokenClaimFinding) -> str:
    claim, mean = found.claim, found.difference.mean
    against = "plain prompts" if claim.against == PLAIN else f"those of `{claim.against}`"
    where = f"{found.dataset}, {claim.group}" if claim.group else found.dataset
    tested = f"p {three_decimals(found.p_value, '= ')}, Holm's {three_decimals(found.holm_p)}"
    how = f"{points(found.difference)} points over {counted(found.tokens, 'token')}, {tested}"
    sentence = f"images with tokens of `{claim.variant}` are recognised by the {claim.by}"
    if found.holm_p >= _SIGNIFICANT or mean == 0:
        return f"{where}: not shown that {sentence} more often than {against} ({how})."
    return f"{where}: {sentence} {'more' if mean > 0 else 'LESS'} often than {against} ({how})."


def _plain_words(line: str) -> str:
    return line.replace("`", "")


def markdown(study: TokenStudy, findings: TokenFindings) -> list[str]:
    """Write the findings as Markdown: question, answers, a table for each data set and group of classes."""
    lines = [study.question, "", study.paper, ""]
    lines += [f"- {line}" for line in answers(findings)] + [""]
    for (dataset, group), rows in _grouped(findings).items():
        title = f"{dataset}, {group}" if group else dataset
        cells = [(title, *_HEAD[1:]), ["---"] * len(_HEAD), *([f"`{row.variant}`", *_cells(row)] for row in rows)]
        lines += [f"| {' | '.join(row)} |" for row in cells] + [""]
    lines += [f"Failed: {line}" for line in findings.failed]
    return lines


def _grouped(findings: TokenFindings) -> dict[tuple[str, str], list[VariantFinding]]:
    grouped: dict[tuple[str, str], list[VariantFinding]] = {}
    for row in findings.variants:
        grouped.setdefault((row.dataset, row.group), []).append(row)
    return grouped


def _cells(row: VariantFinding) -> list[str]:
    failed = f", {row.failed} failed" if row.failed else ""
    return [
        _percent(row.judge),
        points(row.gain),
        _percent(row.guide),
        f"{row.worst_class} {100 * row.worst_judge:.0f}" if row.worst_class else "-",
        f"{row.certified} of {row.tokens}{failed}",
        f"{row.diversity:.2f}",
        f"{row.evaluations:,.0f}",
    ]


def _percent(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    if estimate.low == estimate.high:
        return f"{100 * estimate.mean:.1f} (all {estimate.count} alike)"
    return f"{100 * estimate.mean:.1f} ({100 * estimate.low:.1f} .. {100 * estimate.high:.1f})"


@dataclass(frozen=True)
class _Part:
    """A data set, and a group of its classes, on the page."""

    title: str
    chart: Markup
    cost: Markup | None
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    pictures: Sequence[Mapping[str, Any]]


def _parts(study: TokenStudy, findings: TokenFindings, run_folders: Mapping[tuple[str, str], Path]) -> Iterator[_Part]:
    for number, ((dataset, group), rows) in enumerate(_grouped(findings).items()):
        estimates = {row.variant: estimate_json(row.judge) for row in rows if row.judge is not None}
        if plain := next((row.plain_judge for row in rows if row.plain_judge is not None), None):
            estimates = {f"{PLAIN} prompt": estimate_json(plain)} | estimates
        costs = {row.variant: (row.evaluations, row.judge.mean) for row in rows if row.judge is not None}
        title = f"{dataset}: {group}" if group else dataset
        chart = charts.render_variants(estimates, chart_id=f"accuracy{number}", label=f"Judge accuracy, {title}")
        cost = None
        if group == ALL_CLASSES and len(costs) > 1:
            cost = charts.render_cost(costs, chart_id=f"cost{number}", label=f"Accuracy by evaluations, {title}")
        pictures = list(_pictures(study, dataset, run_folders)) if group == ALL_CLASSES else []
        yield _Part(title, chart, cost, _HEAD, [[row.variant, *_cells(row)] for row in rows], pictures)


def _pictures(
    study: TokenStudy, dataset: str, run_folders: Mapping[tuple[str, str], Path]
) -> Iterator[Mapping[str, Any]]:
    """Show the first images of some classes: a row for the plain prompt, then one for each variant, from one noise."""
    folders = {variant: folder for (name, variant), folder in run_folders.items() if name == dataset}
    if not folders:
        return
    config = configuration.load(study.datasets[dataset].config, [*study.settings, *study.datasets[dataset].settings])
    classes = datasets.load(config.dataset).classes
    wanted = study.show.get(dataset)
    shown = 0
    for info in classes:
        if (wanted is None and shown == _SHOWN_CLASSES) or (wanted is not None and info.name not in wanted):
            continue
        rows = {name: row for name, row in _rows_of_images(config.name, folders, info, study.images) if row}
        if not rows:  # the run leaves the class out
            continue
        shown += 1
        sheet = thumbnails.render_sheet(list(rows.values()))
        yield {
            "title": info.name,
            "rows": "from above: " + ", ".join(rows),
            "uri": sheet.uri,
            "width": sheet.width,
            "height": sheet.height,
            "columns": sheet.columns,
        }


def _rows_of_images(
    name: str, folders: Mapping[str, Path], info: ClassInfo, count: int
) -> Iterator[tuple[str, thumbnails.Thumbnails]]:
    numbers = {info.index: list(range(count))}
    first = next(iter(folders.values()))
    wanted = [(f"{PLAIN} prompt", first, ImageKind.PLAIN_PROMPT)]
    wanted += [(variant, folder, ImageKind.CLASS_TOKEN) for variant, folder in folders.items()]
    for title, folder, kind in wanted:
        shards = shard_folders(folder, name)[kind]
        yield title, FirstImages(shards, shards.rows(thumbnails.COLUMNS), numbers).thumbnails(info.index)


def as_json(study: TokenStudy, findings: TokenFindings) -> dict[str, Any]:
    """Write the findings as plain values."""
    return {
        "question": study.question,
        "answers": answers(findings),
        "protocol": study.model_dump(mode="json"),
        "seeds": findings.seeds,
        "variants": [
            {key: estimate_json(value) if isinstance(value, Estimate) else value for key, value in vars(row).items()}
            for row in findings.variants
        ],
        "claims": [
            {
                "dataset": found.dataset,
                **found.claim.model_dump(),
                "difference": estimate_json(found.difference),
                "tokens": found.tokens,
                "permutation_p": round(found.p_value, 6),
                "holm_p": round(found.holm_p, 6),
            }
            for found in findings.claims
        ],
        "unanswered": list(findings.unanswered),
        "failed": list(findings.failed),
    }
