"""The prompt book of a run. What a language model wrote is kept in the run folder: it would not write it twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from persrep_ray.config import RunConfig
from persrep_ray.data.run_folder import RunFolder, read_json
from persrep_ray.generate.dreambooth.prompts.bank import kind_for
from persrep_ray.generate.dreambooth.prompts.book import PromptSet, build_prompts
from persrep_ray.generate.dreambooth.prompts.writer import OpenAiWriter, write_prompts


def prompts_of_run(
    config: RunConfig, folder: RunFolder, categories: Iterable[str | None], warn: Callable[[str], None]
) -> PromptSet:
    """Asks the language model, if it is the source of prompts, for the categories that it has not written for yet.

    Raises:
        ConfigError: an unusable prompt file, or no endpoint in the environment.
    """
    generate = config.generate
    if generate.prompts.source != "llm":
        return build_prompts(generate)
    written = read_json(folder.prompts) if folder.prompts.exists() else {}
    named = {category or generate.dreambooth.category for category in categories}
    missing = {one: kind_for(one, generate.prompts) for one in sorted(filter(None, named)) if one not in written}
    if missing:
        writer = OpenAiWriter.from_environment(generate.prompts)
        for category, templates in write_prompts(missing, generate.prompts, writer, warn):
            written[category] = templates
            folder.write_json(folder.prompts, written)  # at once: answers are paid for
    return build_prompts(generate, written)
