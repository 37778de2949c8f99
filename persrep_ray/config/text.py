"""Turns text (YAML and `key=value`) into values, and errors in them into messages of one line."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

RENAMED = {"train.heldout": "train.cross_validation", "generate.heldout": "generate.calibration_images"}
"""The keys of earlier versions, each with its new name."""

_BOUNDS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
_NAMES = {int: "an integer", float: "a number", str: "text", bool: "true or false", type(None): "null"}
_LONGEST_VALUE = 60  # characters of a wrong value that a message repeats


class TextError(ValueError):
    """Text that is not a YAML mapping or not `key=value`; the message is one line."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, except that `3e-4` is a number (as in YAML 1.2) and a key that occurs twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key '{key.value}' occurs twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; empty for an empty file.

    Raises:
        TextError: the file cannot be read, is not YAML (with the line), or does not hold a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TextError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TextError(f"{path}: is not UTF-8 text") from error
    content = _parse(text, str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise TextError(f"{path}: expected sections of `key: value`, found {_shown(content)}")
    return content


def parse_override(text: str) -> dict[str, Any]:
    """`train.steps=50` as `{"train": {"steps": 50}}`.

    Raises:
        TextError: there is no `=`, or nothing before it, or the value is not YAML.
    """
    key, equals, value_text = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise TextError(f"override {_shown(text)}: expected key=value, such as train.steps=50")
    value = _parse(value_text, f"override {_shown(text)}")
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise TextError(f"{where}{line}: not valid YAML: {error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        raise TextError(f"{where}: not valid YAML: a character that is not allowed") from error
    except (
        ValueError,
        RecursionError,
    ) as error:  # an impossible date, a number of thousands of digits, endless brackets
        raise TextError(f"{where}: not valid YAML: {error}") from error


def did_you_mean(text: str, choices: Iterable[str]) -> str:
    """`, did you mean '...'?` with the closest choice, or a full stop if none is close; either ends a sentence."""
    close = difflib.get_close_matches(text, list(choices), n=1)
    return f", did you mean '{close[0]}'?" if close else "."


def first_problem(error: ValidationError, tree: type[BaseModel], values: Mapping[str, Any]) -> str:
    """One line about the first of pydantic's errors: the dotted key, its value and what is allowed.

    Args:
        error: what `tree.model_validate(values)` raised.
        tree: a model whose fields are models.
        values: what was validated.
    """
    messages: dict[str, str] = {}
    for item in error.errors(include_url=False):
        key, message = _problem(item["type"], item["loc"], item.get("ctx", {}), tree, values)
        messages.setdefault(key, message)  # a union reports an error for each of its members
    more = len(messages) - 1
    return next(iter(messages.values())) + (f" (and {more} more)" if more else "")


def _problem(
    kind: str, loc: tuple[int | str, ...], context: Mapping[str, Any], tree: type[BaseModel], values: Mapping[str, Any]
) -> tuple[str, str]:
    section: type[BaseModel] | None = tree
    keys: list[str] = []
    value: Any = values
    field: FieldInfo | None = None
    for part in loc:
        if section is None or part not in section.model_fields:  # what follows are members of unions and items of lists
            break
        field = section.model_fields[str(part)]
        keys.append(str(part))
        if part not in value:
            return ".".join(keys), f"{'.'.join(keys)} is missing: {field.description}"
        value = value[part]
        section = _section_of(field)
    dotted = ".".join(keys)
    if section is not None and kind in ("extra_forbidden", "invalid_key"):
        unknown = ".".join(map(str, loc))
        if unknown in RENAMED:
            return unknown, f"unknown key {_shown(unknown)}: its name is now '{RENAMED[unknown]}'"
        known = list(_dotted_keys(tree))
        # The right name in the wrong section comes first: `steps` is nearer to `masks` than to `train.steps`.
        same_name = [key for key in known if key.rpartition(".")[2] == unknown.rpartition(".")[2]]
        hint = did_you_mean(unknown, same_name) if same_name else did_you_mean(unknown, known)
        of = f" of '{dotted}'" if dotted else ""
        return unknown, f"unknown key {_shown(unknown)}{hint} Allowed keys{of}: {', '.join(section.model_fields)}"
    problem = f"{dotted}: {_shown(value)} is not allowed; it "
    if section is not None:
        return dotted, f"{problem}is a section with the keys {', '.join(section.model_fields)}"
    assert field is not None, "a tree of sections has no problem outside a field"
    allowed = str(context["error"]) if kind == "value_error" else _allowed(field.annotation, field.metadata)
    return dotted, f"{problem}must be {allowed}"


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The section that the field holds, even if the field may be null."""
    for member in (field.annotation, *get_args(field.annotation)):
        if isinstance(member, type) and issubclass(member, BaseModel):
            return member
    return None


def _dotted_keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield prefix + name
        inner = _section_of(field)
        if inner is not None:
            yield from _dotted_keys(inner, f"{prefix}{name}.")


def _allowed(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """What a type allows, in words: `an integer >= 1 or 'auto'`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *extra = get_args(annotation)
        return _allowed(inner, extra)
    if origin is Literal:
        *most, last = [repr(choice) for choice in get_args(annotation)]
        return f"{', '.join(most)} or {last}" if most else last
    if origin in (Union, types.UnionType):
        return " or ".join(_allowed(member) for member in get_args(annotation))
    if origin is tuple:
        member, *rest = get_args(annotation)
        least = max((getattr(item, "min_length", 0) for item in metadata), default=0)
        count = f"{least} or more" if rest == [...] else str(1 + len(rest))
        return f"a list of {count}, each {_allowed(member)}"
    return _NAMES[annotation] + _bounds(metadata)


def _bounds(metadata: Iterable[Any]) -> str:
    texts: list[str] = []
    for item in metadata:
        if isinstance(item, FieldInfo):  # Annotated[int, Field(ge=1)]
            return _bounds(item.metadata)
        texts += [f" {sign} {getattr(item, name)}" for name, sign in _BOUNDS if hasattr(item, name)]
        if hasattr(item, "min_length"):
            texts.append(f" of at least {item.min_length} character{'s' * (item.min_length != 1)}")
    return " and".join(texts)


def _shown(value: Any) -> str:
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"
