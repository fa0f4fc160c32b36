"""What is wrong with a file of settings, in a user's words: where it stands, what is allowed, what was given."""

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from dct_augment.config.classifiers import PRETRAINED
from dct_augment.wording import did_you_mean

_LONGEST = 300  # letters of a value in a message


def explained(error: ValidationError, data: Mapping[str, Any], root: type[BaseModel]) -> list[str]:
    """Return every problem of a file in one line each.

    Args:
        error: what the check of `data` found.
        data: the file.
        root: what it was checked against.
    """
    return [_explain(problem, data, root) for problem in _causes(error)]


def _causes(error: ValidationError) -> list[dict[str, Any]]:
    """The problems of an error, without `too short` where all items are there but wrong."""
    problems: list[dict[str, Any]] = [dict(problem) for problem in error.errors()]
    inner = {problem["loc"][:depth] for problem in problems for depth in range(1, len(problem["loc"]))}
    return [problem for problem in problems if problem["type"] != "too_short" or problem["loc"] not in inner]


def _explain(problem: Mapping[str, Any], data: Mapping[str, Any], root: type[BaseModel]) -> str:
    loc, kind, value = problem["loc"], problem["type"], problem["input"]
    where = ".".join(_place(loc, data)) or "the whole"
    if kind == "union_tag_invalid":
        names = [tag for model in _sections(loc, root) for tag in tags(model)]
        hint = did_you_mean(str(value["name"]), names)
        return f"{where}.name: {value['name']!r} is unknown{hint}; choose one of: {', '.join(names)}"
    if kind == "extra_forbidden":
        names = list(_sections(loc[:-1], root)[0].model_fields)
        return f"{where}: unknown key{did_you_mean(str(loc[-1]), names)}; allowed here: {', '.join(names)}"
    if kind == "invalid_key":
        return f"{'.'.join(_place(loc[:-1], data)) or 'the file'}: the key {shown(value)} is no text; correct it"
    if kind in ("missing", "union_tag_not_found"):
        return f"{where}{'.name' if kind != 'missing' else ''}: missing; add it"
    if kind in ("model_type", "model_attributes_type", "tuple_type", "dict_type"):
        return f"{where}: {_what_it_must_be(loc, where, value, kind, _sections(loc, root))}, got {shown(value)}"
    if kind == "too_short":
        return f"{where}: must have at least {problem['ctx']['min_length']} item, got {shown(value)}"
    message = problem["msg"].removeprefix("Value error, ")
    if kind == "string_unicode":
        message = "Input should be text in UTF-8"
    got = "" if isinstance(value, Mapping) else f", got {shown(value)}"  # a whole section says nothing
    return f"{where}: {message[0].lower()}{message[1:]}{got}"


def shown(value: Any) -> str:
    """Write a value for a message: of a large one, only its beginning."""
    writer = reprlib.Repr()
    writer.maxlevel = 4
    writer.maxstring = writer.maxother = writer.maxlong = _LONGEST
    text = writer.repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _what_it_must_be(loc: Sequence[Any], where: str, value: Any, kind: str, sections: Sequence[type[BaseModel]]) -> str:
    """Say what stands in place of a section, of a list or of a mapping, with an example."""
    if kind == "tuple_type" and len(sections) < 2:  # of a union, a lone member stands for a list of it
        required = [key for section in sections for key, field in section.model_fields.items() if field.is_required()]
        example = ", ".join(f"{key}: ..." for key in required)
        return f"must be a list, e.g. `[{{{example}}}]`" if example else "must be a list"
    if value is None:
        return "is empty; give it settings, or delete the line"
    if kind == "dict_type":
        return "must be a mapping, `name: ...`"
    if all("name" in section.model_fields for section in sections):
        name = value if isinstance(value, str) else "..."
        in_set = "" if isinstance(loc[-1], int) else f"; with --set, write {where}.name={name}"
        return f"must be a section, e.g. `{{name: {name}}}`{in_set}"
    return f"must be a section of settings: {', '.join(sections[0].model_fields)}"


def _place(loc: Sequence[Any], data: Mapping[str, Any]) -> list[str]:
    """Where the user wrote it: without the name of a union's member, and without the number of a lone classifier."""
    if loc[:1] in (("guide",), ("judge",)) and len(loc) > 1:
        alone = isinstance(data.get(loc[0]), Mapping | str)
        loc = (*loc[: 1 if alone else 2], *loc[3:])
    elif loc[:1] == ("dataset",):
        loc = (*loc[:1], *loc[2:])
    elif loc[:2] == ("tokens", "method"):
        loc = (*loc[:2], *loc[3:])
    return [str(part) for part in loc]


def _sections(loc: Iterable[Any], root: type[BaseModel]) -> list[type[BaseModel]]:
    """The section at a place; several where it is a union and the place does not say which."""
    sections = [root]
    for part in loc:
        if isinstance(part, int):
            continue
        if not sections:  # inside a setting that is no section: the place is one of the forms that it may have
            return []
        if len(sections) > 1:
            sections = [section for section in sections if part in tags(section)]
        elif field := sections[0].model_fields.get(part):
            sections = models((field.annotation, *field.metadata))
        # What is no field is a name in a mapping of sections.
    return sections


def tags(section: type[BaseModel]) -> tuple[str, ...]:
    """The names by which a member of a union is chosen; a classifier with any other name is a pretrained one."""
    return get_args(section.model_fields["name"].annotation) or (PRETRAINED,)


def models(annotation: Any) -> list[Any]:
    """The sections that an annotation speaks of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    inner = annotation if isinstance(annotation, tuple) else get_args(annotation)
    return [model for part in inner for model in models(part)]
