"""The flow `study`: one question, answered by ordinary runs, as `dct-augment study` does it."""

from pathlib import Path

from prefect import flow

from dct_augment.config.studies import load_any_study
from dct_augment.config.token_studies import TokenStudy
from dct_augment.errors import DctAugmentError, InputError
from dct_augment.studies import token_page, token_running
from dct_augment.studies.running import run_study
from flows.augment import log_remark, stop_when_the_worker_ends


@flow(name="study", flow_run_name="{name}", validate_parameters=True, persist_result=False)
def study(name: str = "depth", quick: bool = False, output: str | None = None) -> str:
    """Do what is missing of a study; return the path of its page, or of its findings.

    Args:
        name: of a study (depth, ambiguity, guides, gain, ...), or path to a YAML file.
        quick: only the part that shows the direction in minutes.
        output: folder of the study; `runs/studies/<name>` if not given.

    Raises:
        InputError: a parameter cannot be used.
        DctAugmentError: runs failed; the others are done, and the page names them.
    """
    stop_when_the_worker_ends()
    whole = load_any_study(name)
    root = Path(output) if output else Path("runs") / "studies" / Path(name).stem
    if quick and whole.quick is None:
        raise InputError(f"{name} has no quick part; leave `quick` out")
    if not isinstance(whole, TokenStudy):
        chosen = whole.reported()
        draws = chosen.draws
        if quick and (less := chosen.quick):
            chosen = chosen.narrowed(shots=less.shots, datasets=less.datasets, recipes=less.recipes, rows=less.rows)
            draws = draws.model_copy(update={"count": less.draws})
        run_study(chosen, draws, root / "draws", log_remark)
        return str(root / "draws" / "findings.md")
    part = whole.quick_part() if quick else None
    findings = token_running.run_token_study(whole, root, log_remark, part=part, name=name)
    if findings.failed:
        raise DctAugmentError("; ".join(findings.failed))
    return str(root / token_page.PAGE)
