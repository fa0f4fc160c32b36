"""Reference pages that are made from the code when the documentation is built, and a check of what was built.

mkdocs calls the functions named `on_...`. What they log as a warning fails `make docs`, which builds with `--strict`.
"""

import logging
import re
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from dct_augment.cli.commands import app
from dct_augment.config import Config
from dct_augment.diffusion import FAMILIES
from dct_augment.pipeline.first_config.models import BY_PIPELINE

log = logging.getLogger("mkdocs.hooks")

EXTERNAL_ASSET = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=[\"']?(?:https?:)?//[^\s\"'>]+")
"""What a browser would load from another host. A plain link, which a reader follows, is not an asset."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for uri, content in {
        "reference/cli.md": cli_page(),
        "reference/configuration.md": configuration_page(),
        "reference/models.md": models_page(),
    }.items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Warn of every asset that a page loads from another host."""
    for asset in EXTERNAL_ASSET.findall(output):
        log.warning("%s loads an asset from another host: %s", page.file.src_uri, asset)
    return output


# ---------------------------------------------------------------------------------------------------- command line


def cli_page() -> str:
    """Write the reference of the command line from the Typer application."""
    root = typer.main.get_command(app)
    lines = ["# Command line", "", str(root.help or ""), ""]
    lines += ["A wrong value ends a command with exit code 2, any other error with 1. Every error is one message.", ""]
    for title, command in _commands("dct-augment", root):
        lines += [f"## {title}", "", str(command.help or ""), "", *_parameters(title, command), ""]
    return "\n".join(lines)


def _commands(title: str, group: Any) -> Iterator[tuple[str, Any]]:
    """Yield every command below a group with the words that call it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(f"{title} {name}", command)
        else:
            yield f"{title} {name}", command


def _parameters(title: str, command: Any) -> list[str]:
    """Write the table of a command's arguments and options."""
    rows = []
    for parameter in command.params:
        if parameter.name == "help":
            continue
        names = [*parameter.opts, *parameter.secondary_opts]  # of an argument: its name alone
        meaning = str(getattr(parameter, "help", None) or "")
        if not meaning:
            log.warning("%s: %s has no help text", title, names[0])
        spelled = ", ".join(f"`{name}`" for name in names)
        rows.append(f"| {spelled} | {_value(parameter)} | {_default(parameter)} | {_cell(meaning)} |")
    if not rows:
        return ["No options."]
    return ["| option | value | default | meaning |", "| --- | --- | --- | --- |", *rows]


def _value(parameter: Any) -> str:
    """Say what an option takes."""
    if getattr(parameter, "is_flag", False):
        return "flag"
    kinds = {int: "whole number", float: "number", str: "text", Path: "path"}
    kind = str(parameter.metavar or kinds.get(parameter.type_descriptor.annotation, "text")).lower()
    return f"{kind}, repeatable" if getattr(parameter, "multiple", False) else kind


def _default(parameter: Any) -> str:
    """Say what an option is if it is not given."""
    if parameter.required:
        return "required"
    if getattr(parameter, "is_flag", False) or parameter.default is None:
        return ""
    return f"`{parameter.default}`"


# ----------------------------------------------------------------------------------------------------------- models


def models_page() -> str:
    """Write the table of the families of text-to-image models from the registry."""
    lines = [
        "# Text-to-image models",
        "",
        "A model is of the family that its `model_index.json` names. Steps, guidance and memory are what",
        "`dct-augment init` assumes; memory is that of a GPU for training in half precision, a round number. Token",
        "files are safetensors; with several text encoders they hold a tensor for each, by its key.",
        "",
        "Tests compare images, gradients, textual inversion and injected tokens of each family with diffusers on tiny",
        "models with random weights.",
        "",
        "| family | pipeline of diffusers | steps, guidance | GB of a GPU | parts of a token |",
        "| --- | --- | --- | --- | --- |",
    ]
    for pipeline, family in FAMILIES.items():
        for usual in dict.fromkeys(BY_PIPELINE[pipeline]):
            parts = ", ".join(f"`{key}`" for key in family.keys if key) or "one tensor"
            settings = f"{usual.steps}, {usual.guidance_scale:g}"
            memory = f"{usual.gpu_bytes / 1e9:.0f}"
            lines.append(f"| {usual.title} | `{pipeline}` | {settings} | {memory} | {parts} |")
    return "\n".join([*lines, ""])


# --------------------------------------------------------------------------------------------------- configuration


def configuration_page() -> str:
    """Write the reference of every key of the configuration from the pydantic models."""
    lines = [
        "# Configuration",
        "",
        "Every key, with its type, its default and its meaning. Set one in a YAML file, or for one command with",
        "`--set section.key=value`. A key that does not exist is an error, and so is a setting without effect.",
        "",
        "## Top level",
        "",
        *_table("", Config),
        "",
    ]
    written: dict[tuple[type[BaseModel], ...], str] = {}
    for name, field in Config.model_fields.items():
        models = tuple(_models(field.annotation))
        if models in written:
            first = written[models]
            lines += [f"## {name}", "", f"Its keys are those of [{first}](#{first}).", ""]
        elif models:
            written[models] = name
            lines += [f"## {name}", "", *_section(name, field), ""]
    return "\n".join(lines)


def _section(path: str, field: FieldInfo) -> Iterator[str]:
    """Write one section: its table, those of its variants, and those of the sections inside."""
    models = _models(field.annotation)
    if _is_list(field.annotation):
        yield from ("One of these, or a list of them.", "")
    for model in models:
        if len(models) > 1:
            yield from (f"### {path}: {_tag(model)}", "")
        yield from (_sentence(model), "")
        yield from _table(path, model)
        yield ""
        for name, inner in model.model_fields.items():
            if _models(inner.annotation):
                yield from (f"### {path}.{name}", "")
                yield from _section(f"{path}.{name}", inner)


def _table(path: str, model: type[BaseModel]) -> list[str]:
    """Write the table of a model's own keys."""
    rows = []
    fields = sorted(model.model_fields.items(), key=lambda item: item[0] != "name")
    for name, field in fields:
        key = f"{path}.{name}" if path else name
        meaning = field.description or ""
        if name == "name" and get_origin(field.annotation) is Literal:
            meaning = meaning or "chooses this form of the section"
        if _models(field.annotation):
            meaning = meaning or f"see [{key}](#{key.replace('.', '')})"
        if not meaning:
            log.warning("configuration key %s (%s) has no description", key, model.__name__)
        rows.append(f"| `{key}` | {_type(field.annotation, field.metadata)} | {_shown(field)} | {_cell(meaning)} |")
    if not rows:
        return ["It has no keys of its own."]
    return ["| key | type | default | meaning |", "| --- | --- | --- | --- |", *rows]


def _models(annotation: Any) -> list[type[BaseModel]]:
    """List the sections that a type is made of, in their order."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _is_list(annotation: Any) -> bool:
    """Tell whether a type is a sequence, or has one among its alternatives."""
    return get_origin(annotation) is tuple or any(_is_list(part) for part in get_args(annotation))


def _tag(model: type[BaseModel]) -> str:
    """Name a variant by the values of its discriminator."""
    names = get_args(model.model_fields["name"].annotation) if "name" in model.model_fields else ()
    return f"`name: {', '.join(names)}`" if names else model.__name__


def _sentence(model: type[BaseModel]) -> str:
    """Give the docstring of a model as paragraphs."""
    text = (model.__doc__ or "").strip()
    return "\n".join(line.strip() for line in text.splitlines())


def _type(annotation: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> str:
    """Write a type for a person: the allowed values, or the kind and its bounds."""
    if get_origin(annotation) is Annotated:
        inner, *notes = get_args(annotation)
        return _type(inner, [*_constraints(notes), *metadata])
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        if any(_models(part) for part in parts):
            return "section, or a list of them" if _is_list(annotation) else "section"
        return " or ".join(dict.fromkeys(_type(part, metadata) for part in parts))
    if get_origin(annotation) is tuple:
        return _tuple_type(get_args(annotation))
    if get_origin(annotation) is dict:
        return f"mapping from classes to {_type(get_args(annotation)[1])}"
    if _models(annotation):
        return "section"
    names = {int: "whole number", float: "number", str: "text", bool: "`true`, `false`", Path: "path"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation))) + _bounds(metadata)


def _tuple_type(parts: tuple[Any, ...]) -> str:
    """Write the type of a list, or of a pair."""
    if _models(parts[0]):
        return "section, or a list of them"
    if len(parts) == 2 and parts[1] is not Ellipsis:
        return f"[{_type(parts[0])}, {_type(parts[1])}]"
    return f"list of {_type(parts[0])}"


def _constraints(notes: list[Any]) -> list[Any]:
    """Collect the bounds that annotations carry."""
    found: list[Any] = []
    for note in notes:
        found += note.metadata if isinstance(note, FieldInfo) else [note]
    return found


def _bounds(metadata: list[Any] | tuple[Any, ...]) -> str:
    """Write the bounds of a number."""
    signs: Mapping[type, tuple[str, str]] = {
        annotated_types.Ge: ("at least", "ge"),
        annotated_types.Gt: ("above", "gt"),
        annotated_types.Le: ("at most", "le"),
        annotated_types.Lt: ("below", "lt"),
    }
    words = []
    for note in metadata:
        if type(note) in signs:
            word, attribute = signs[type(note)]
            words.append(f"{word} {getattr(note, attribute)}")
    return f", {', '.join(words)}" if words else ""


def _shown(field: FieldInfo) -> str:
    """Write a default."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined:
        return "unset"
    if _models(field.annotation) and not isinstance(value, BaseModel):
        return "unset"
    if isinstance(value, BaseModel):
        return f"`name: {value.name}`" if hasattr(value, "name") else ""
    return f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    """Write a value as it stands in YAML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(_yaml(part) for part in value)}]"
    return '""' if value == "" else str(value)


def _cell(text: str) -> str:
    """Keep a text within its table cell: braces and bars are no markup."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
