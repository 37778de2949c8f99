"""Writes docs/CONFIG.md, the list of all settings, from the fields of the configuration: python tools/config_docs.py"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from persrep_ray.config import PRESETS, RunConfig, ServeConfig

PAGE = Path(__file__).resolve().parents[1] / "docs" / "CONFIG.md"
HEAD = f"""# Settings

`--config` takes a preset ({", ".join(f"`{name}`" for name in PRESETS)}) or a YAML file of sections, which may name the
preset that it starts from (`preset: paper`); `--set` takes `section.key=value`. Unknown keys and values out of range
are errors. `tools/config_docs.py` generates this page from `persrep_ray/config/`.
"""
SERVE_INTRODUCTION = """\
These settings stand in the YAML file of `persrep serve --config` and in the `args` of `serve/config.yaml`; `--set`
overrides them as above."""


def page() -> str:
    """The whole page as Markdown."""
    run = _sections("", RunConfig, "## The run")
    endpoint = _sections("", ServeConfig, "## The endpoint", SERVE_INTRODUCTION)
    return HEAD + "".join([*run, *endpoint])


def _sections(path: str, model: type[BaseModel], heading: str, introduction: str | None = None) -> Iterator[str]:
    """A table of the model's own keys, then its sections."""
    schema = model.model_json_schema()
    rows, sections = [], []
    for name, field in model.model_fields.items():
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            sections.append((f"{path}{name}", field.annotation))
            continue
        default = "required" if field.is_required() else f"`{_plain(field.get_default(call_default_factory=True))}`"
        limits = _allowed(schema["properties"][name])
        rows.append(f"| `{path}{name}` | {default} | {limits} | {field.description or ''} |\n")
    yield f"\n{heading}\n\n{introduction or inspect.cleandoc(model.__doc__ or '')}\n"
    if rows:
        yield "\n| Key | Default | Allowed | |\n|---|---|---|---|\n"
        yield from rows
    for inner, annotation in sections:
        yield from _sections(f"{inner}.", annotation, f"## {inner}")


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _allowed(schema: dict[str, Any]) -> str:
    """What a JSON schema allows, in a few words."""
    if "anyOf" in schema:
        return " or ".join(_allowed(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "$ref" in schema:
        return "a section as above"
    if "const" in schema:
        return f"`{schema['const']}`"
    words = {"integer": "integer", "number": "number", "string": "text", "boolean": "true, false", "array": "list"}
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[key]:g}" for key, sign in limits.items() if key in schema]
    return " ".join([words.get(schema.get("type", ""), "null"), ", ".join(bounds)]).strip()


if __name__ == "__main__":
    PAGE.write_text(page())
