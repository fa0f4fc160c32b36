"""`dct-augment tokens`: look at class tokens, and carry them to and from other tools."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from dct_augment.cli.common import (
    Classes,
    Output,
    Overrides,
    RunConfig,
    command,
    config_of,
    configure,
    print_table,
    refuse_part_of_run,
    running,
    say,
)
from dct_augment.errors import InputError
from dct_augment.files import check_writable
from dct_augment.wording import counted

if TYPE_CHECKING:
    from dct_augment.pipeline.run import Run
    from dct_augment.tokens.formats import Token

app = typer.Typer(no_args_is_help=True, help="List, show, export, import and compare class tokens.")

_SUFFIXES = (".safetensors", ".pt", ".bin")
ACCURACIES = ("plain_guide_accuracy", "guide_accuracy", "plain_judge_accuracy", "judge_accuracy")


@app.command(name="list")
def list_tokens(
    config: RunConfig = None, overrides: Overrides = None, classes: Classes = None, output: Output = None
) -> None:
    """List the tokens of a run."""
    config = config_of(config, output)
    with running(configure(config, overrides=overrides, classes=classes, output=output), writes=False) as run:
        tokens, damaged = _read(run)
    if not tokens and not damaged:
        raise _no_tokens(run, config, overrides, output)
    table = Table(title=f"class tokens in {run.config.named(run.tokens.path)}", title_justify="left")
    judged = run.config.judge is not None
    accuracies = ACCURACIES if judged else ACCURACIES[:2]
    titles = ["guide before", "guide", *(["judge before", "judge"] if judged else [])]
    for column in ("class", "token", "vectors", "width", "base model", *titles):
        left = column in ("class", "token", "base model")
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    for token in tokens:
        widths = " + ".join(map(str, token.widths))
        base = _base(token)
        shares = [_share(token.metadata.get(key)) for key in accuracies]
        table.add_row(str(token.metadata.get("class", "")), token.word, str(len(token.vector)), widths, base, *shares)
    print_table(table)
    if damaged:
        raise _damage(damaged, config, output)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="class name or slug, or a token file")],
    config: RunConfig = None,
    overrides: Overrides = None,
    output: Output = None,
) -> None:
    """Show all that is known of a token."""
    import json

    from dct_augment.tokens import formats

    for token in _named(name, config_of(config, output), overrides, output):
        metadata = {key: value for key, value in token.metadata.items() if key not in ("losses", "validations")}
        if "base_model" in metadata:
            metadata["base_model"] = formats.base_model(metadata)
        norms = {
            key or "embedding": [round(n, 4) for n in part.norm(dim=1).tolist()] for key, part in token.parts.items()
        }
        shapes = {key or "embedding": list(part.shape) for key, part in token.parts.items()}
        say(json.dumps({"token": token.word, "shape": shapes, "norm": norms, **metadata}, indent=1, ensure_ascii=False))


@app.command()
def export(
    to: Annotated[Path, typer.Option("--to", help="folder to write into")],
    kind: Annotated[
        str, typer.Option("--format", help="diffusers, a1111, comfyui, or bundle (one file)")
    ] = "diffusers",
    config: RunConfig = None,
    overrides: Overrides = None,
    classes: Classes = None,
    output: Output = None,
) -> None:
    """Write tokens for another tool."""
    config = config_of(config, output)
    refuse_part_of_run(to, "--to")
    check_writable(to)
    with running(configure(config, overrides=overrides, classes=classes, output=output), writes=False) as run:
        from dct_augment.tokens import formats

        tokens, damaged = _read(run)
        if damaged:
            raise _damage(damaged, config, output)
        if not tokens:
            raise _no_tokens(run, config, overrides, output)
        written = formats.write(tokens, to, kind, run.config.name)
    say(f"{counted(len(tokens), 'token')} in {counted(len(written), 'file')} in {to}")


@app.command(name="import")
def import_token(
    file: Annotated[Path, typer.Argument(help="safetensors of diffusers, A1111, ComfyUI or ours; or an old .pt")],
    name: Annotated[
        str | None, typer.Option("--class", help="class name or slug; told by the file's own if unset")
    ] = None,
    config: RunConfig = None,
    overrides: Overrides = None,
    output: Output = None,
    replace: Annotated[bool, typer.Option("--replace", help="in place of the token that the class has")] = False,
    any_model: Annotated[bool, typer.Option("--any-model", help="even if made for another base model")] = False,
) -> None:
    """Take in tokens from a file as tokens of a run."""
    config = config_of(config, output)
    with running(configure(config, overrides=overrides, output=output)) as run:
        from dct_augment import datasets
        from dct_augment.tokens import formats

        tokens = formats.read(file)
        if name is not None and len(tokens) > 1:
            words = ", ".join(token.word for token in tokens[:5])
            raise InputError(f"{file} holds {len(tokens)} tokens ({words}); leave out --class")
        pairs = []
        for token in tokens:
            class_name = name or token.metadata.get("slug")
            if not isinstance(class_name, str):
                raise InputError(f"{file} does not say for which class {token.word!r} is; name it with --class")
            chosen = datasets.select(run.dataset, [class_name])
            if len(chosen) > 1:
                raise InputError(
                    f"--class {class_name!r} names {len(chosen)} classes; use a slug: "
                    + ", ".join(info.slug for info in chosen)
                )
            pairs.append((token, chosen[0]))
        run.import_tokens(pairs, any_model=any_model, replace=replace)
        for token, info in pairs:
            kept = run.config.named(run.tokens.file(info))
            say(f"{token.word or 'the token'} is now {run.tokens.word(info)} in {kept}")


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="a token file, a folder of them, or a class of the run of --config")],
    second: Annotated[str, typer.Argument(help="another")],
    config: RunConfig = None,
    overrides: Overrides = None,
    output: Output = None,
) -> None:
    """Compare tokens: direction, length, and measured accuracies."""
    from torch.nn.functional import cosine_similarity

    left_tokens, right_tokens = (
        _file_or_class(given, config_of(config, output), overrides, output) for given in (first, second)
    )
    pairs = _pairs(left_tokens, right_tokens)
    if not pairs:
        raise InputError(f"{first} and {second} have no token of the same name; give two files to compare any two")
    table = Table(title=f"{first} and {second}", title_justify="left")
    for column in ("token", "cosine", "norm", "norm", "guide", "guide", "judge", "judge"):
        table.add_column(column, justify="left" if column == "token" else "right")
    for left, right in pairs:
        if left.vector.shape != right.vector.shape:
            raise InputError(
                f"{left.word} is {tuple(left.vector.shape)} in one and {tuple(right.vector.shape)} in the other"
            )
        cosine = cosine_similarity(left.vector.flatten(), right.vector.flatten(), 0).item()
        norms = [f"{token.vector.norm(dim=1).mean().item():.3f}" for token in (left, right)]
        shares = [
            _share(token.metadata.get(key)) for key in ("guide_accuracy", "judge_accuracy") for token in (left, right)
        ]
        table.add_row(
            left.word if left.word == right.word else f"{left.word}, {right.word}", f"{cosine:.3f}", *norms, *shares
        )
    print_table(table)


def _read(run: "Run") -> "tuple[list[Token], list[str]]":
    """Read the tokens of a run; return the files that are damaged or lost, too."""
    tokens, damaged = [], []
    index = run.tokens.index()
    indexed = set(index["slug"]) if "slug" in index else set()
    for info in run.classes:
        file = run.tokens.file(info)
        if not file.exists() and not file.is_symlink() and info.slug not in indexed:
            continue
        try:
            token = run.tokens.read(info)
        except InputError:
            token = None
        if token is None or token.metadata.get("slug", info.slug) != info.slug:
            damaged.append(run.config.named(file))
        else:
            tokens.append(token)
    return tokens, damaged


def _no_tokens(run: "Run", config: str, overrides: list[str] | None, output: Path | None) -> InputError:
    train = command("train", config, overrides=overrides, output=output)
    return InputError(f"there are no tokens in {run.config.named(run.tokens.path)}; make them with `{train}`")


def _damage(files: list[str], config: str, output: Path | None) -> InputError:
    repair = command("verify --repair", config if output is None else None, output=output)
    return InputError(f"damaged or lost: {', '.join(files)}. `{repair}` trains it again")


def _named(name: str, config: str, overrides: list[str] | None, output: Path | None) -> "list[Token]":
    if Path(name).suffix in _SUFFIXES:
        from dct_augment.tokens import formats

        return formats.read(Path(name))
    with running(configure(config, overrides=overrides, classes=name, output=output), writes=False) as run:
        tokens, damaged = _read(run)
    if damaged:
        raise _damage(damaged, config, output)
    if not tokens:
        train = command("train", config, overrides=overrides, output=output)
        raise InputError(f"class {name!r} has no token in {run.config.named(run.tokens.path)}; make it with `{train}`")
    return tokens


def _file_or_class(given: str, config: str, overrides: list[str] | None, output: Path | None) -> "dict[str, Token]":
    """Read the tokens of a file or folder; what is neither is the name of a class."""
    path = Path(given)
    if path.exists() or path.suffix in _SUFFIXES or len(path.parts) > 1:
        return _collect(path)
    return {token.word: token for token in _named(given, config, overrides, output)}


def _collect(path: Path) -> "dict[str, Token]":
    from dct_augment.tokens import formats

    folder = path / "tokens" if (path / "tokens").is_dir() else path
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else [path]
    if not files:
        raise InputError(f"{path} holds no token files")
    return {token.word: token for file in files for token in formats.read(file)}


def _pairs(left: "dict[str, Token]", right: "dict[str, Token]") -> "list[tuple[Token, Token]]":
    if len(left) == len(right) == 1:
        return list(zip(left.values(), right.values(), strict=True))
    return [(left[word], right[word]) for word in left if word in right]


def _base(token: "Token") -> str:
    from dct_augment.tokens import formats

    base = formats.base_model(token.metadata)
    return f"{base.get('path', '?')}{'@' + str(base['revision']) if base.get('revision') else ''}"


def _share(value: Any) -> str:
    is_share = isinstance(value, int | float) and abs(value) <= 1  # a header may hold anything
    return f"{value:.0%}" if is_share else "-"
