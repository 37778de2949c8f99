"""Write docs/CONFIG.md, the list of all settings, from the configuration's own fields: python tools/config_docs.py"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from persrep_ray.config import PRESETS, RunConfig

PAGE = Path(__file__).resolve().parents[1] / "docs" / "CONFIG.md"
HEAD = f"""# Settings

`--config` takes a preset ({", ".join(f"`{name}`" for name in PRESETS)}) or a YAML file of sections, which may name the
preset it starts from (`preset: paper`); `--set` takes `section.key=value`. Unknown keys and values out of range are
errors. This page is made from `persrep_ray/config.py` by `tools/config_docs.py`.
"""


def page() -> str:
    """The whole page as Markdown."""
    return HEAD + "".join(_section("", RunConfig)).rstrip() + "\n"


def _section(path: str, model: type[BaseModel]) -> Iterator[str]:
    """A table of the model's own keys, then its sections."""
    schema = model.model_json_schema()
    rows, sections = [], []
    for name, field in model.model_fields.items():
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            sections.append((f"{path}{name}.", field.annotation))
            continue
        default = field.get_default(call_default_factory=True)
        limits = _allowed(schema["properties"][name])
        rows.append(f"| `{path}{name}` | `{_plain(default)}` | {limits} | {field.description or ''} |\n")
    yield f"\n## {path.rstrip('.') or 'The run'}\n\n{inspect.cleandoc(model.__doc__ or '')}\n"
    if rows:
        yield "\n| Key | Default | Allowed | |\n|---|---|---|---|\n"
        yield from rows
    for inner, annotation in sections:
        yield from _section(inner, annotation)


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _allowed(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "anyOf" in schema:
        return " or ".join(_allowed(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    words = {"integer": "integer", "number": "number", "string": "text", "boolean": "true, false", "array": "list"}
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[key]:g}" for key, sign in limits.items() if key in schema]
    return " ".join([words.get(schema.get("type", ""), "null"), ", ".join(bounds)]).strip()


if __name__ == "__main__":
    PAGE.write_text(page())
