"""The scenes of the bank follow their rules, and categories get the scenes that fit."""

from __future__ import annotations

from typing import get_args

import pytest
import yaml

from persrep_ray.config import PromptConfig
from persrep_ray.generate.dreambooth.prompts.bank import _FOLDER, Kind, kind_for, kind_of, load_bank

KINDS: tuple[Kind, ...] = get_args(Kind)
PLACE = "{token} {category}"


@pytest.mark.parametrize(("kind", "least"), [("rigid", 60), ("animal", 60), ("clothes", 40)])
def test_every_kind_has_many_different_scenes(kind: Kind, least: int) -> None:
    scenes = {" ".join(template.lower().replace(PLACE, "").split()) for template in load_bank(kind)}
    assert len(scenes) == len(load_bank(kind)) >= least


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_names_the_object_once_and_early_and_fits_a_text_encoder(kind: Kind) -> None:
    for template in load_bank(kind):
        assert template.count("{") == template.count("}") == 2, template
        before, _, after = template.partition(PLACE)
        assert after, template
        assert len(before.split()) <= 5, template
        assert not before.endswith((" a ", " an ", " the ")), template
        assert len(template.split()) <= 30, template


@pytest.mark.parametrize("kind", KINDS)
def test_scenes_are_photos(kind: Kind) -> None:
    assert all("photo" in template or "snapshot" in template for template in load_bank(kind))


def test_clothes_are_worn_in_about_half_of_their_scenes() -> None:
    worn = sum("worn by" in template for template in load_bank("clothes"))
    assert 0.4 <= worn / len(load_bank("clothes")) <= 0.6


@pytest.mark.parametrize("name", [*KINDS, "category_kinds"])
def test_yaml_reads_every_entry_as_text(name: str) -> None:
    content = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))  # a bare `no` would be False
    lists = content.values() if isinstance(content, dict) else [content]
    assert all(isinstance(entry, str) for entries in lists for entry in entries)


@pytest.mark.parametrize(
    ("category", "kind"),
    [
        ("dog", "animal"),
        ("Dogs", "animal"),
        ("puppies", "animal"),
        ("wolves", "animal"),
        ("fish", "animal"),
        ("golden retriever", "animal"),
        ("Shiba Inu", "animal"),
        ("shih-tzu", "animal"),
        ("maine_coon", "animal"),
        ("toy poodle", "animal"),
        ("dog with a red collar", "animal"),
        ("toy dog", "rigid"),
        ("dog toy", "rigid"),
        ("stuffed animal", "rigid"),
        ("stuffed_animals", "rigid"),
        ("wolf plushie", "rigid"),
        ("rubber duck", "rigid"),
        ("hot dog", "rigid"),
        ("teddy bear", "rigid"),
        ("dog bowl", "rigid"),
        ("sneaker", "clothes"),
        ("boots", "clothes"),
        ("T-shirt", "clothes"),
        ("tshirts", "clothes"),
        ("short sleeve top", "clothes"),
        ("long sleeve outwear", "clothes"),
        ("sling dress", "clothes"),
        ("trousers", "clothes"),
        ("a pair of jeans", "clothes"),
        ("dog costume", "clothes"),
        ("hat", "clothes"),
        ("bottle cap", "rigid"),
        ("zip ties", "rigid"),
        ("glasses", "rigid"),
        ("wristwatch", "rigid"),
        ("backpack", "rigid"),
        ("computer mouse", "rigid"),
        ("mug", "rigid"),
        ("mug with a dog", "rigid"),
        ("cartoon", "rigid"),
        ("Tasse", "rigid"),
        ("犬", "rigid"),
        ("", "rigid"),
        ("123", "rigid"),
    ],
)
def test_the_noun_of_a_category_tells_its_kind(category: str, kind: Kind) -> None:
    assert kind_of(category) == kind


def test_a_configured_kind_goes_before_the_category() -> None:
    assert kind_for("dog", PromptConfig(kind="auto")) == "animal"
    assert kind_for("dog", PromptConfig(kind="rigid")) == "rigid"
