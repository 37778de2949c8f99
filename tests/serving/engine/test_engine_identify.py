"""Identify tries the right objects, and never makes up a "none of them"."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from helpers.engines import OBJECTS, REFS, Sample, ask, assert_alike, engine_of, enormous, identify, ids, unseen
from helpers.published import SIZE, publish_object

from persrep_ray.registry.registry import Registry
from persrep_ray.serving.engine.answers import Identification
from persrep_ray.serving.engine.engine import LocalEngine
from persrep_ray.serving.engine.errors import RegistryUnavailableError
from persrep_ray.storage.local import LocalStore
from persrep_ray.storage.store import StorageError, open_store


class TestIdentify:
    @pytest.mark.parametrize("exact", [False, True])
    def test_finds_the_right_object_among_many(self, sample: Sample, exact: bool) -> None:
        engine = engine_of(sample, identify={"shortlist": 3}, encoder={"batch_rows": 2})
        for shown, ref in enumerate(REFS):
            found = identify(engine, shown, exact=exact)
            assert found.candidates[0].ref == ref
            assert (found.searched, found.tried) == (OBJECTS, OBJECTS if exact else 3)
            assert all(one.classification.match for one in found.candidates)

    def test_candidates_are_what_their_own_adapters_say_most_probable_first(self, own: Sample) -> None:
        for number, ref in enumerate(REFS):  # nearly all match, and each is calibrated another way
            card = {"threshold": -0.5, "calibration": {"slope": 1.0, "intercept": (number * 7) % 5}}
            Registry(open_store(own.registry)).delete(ref.object_id)
            publish_object(own.registry, ref.object_id, own.config, number, lora=own.lora, card=card)
        engine = engine_of(own)
        found = identify(engine, 0, top_k=6).candidates
        assert len(found) >= 5
        probabilities = [one.classification.probability for one in found]
        assert probabilities == sorted(probabilities, reverse=True)
        for one in found:
            classification = ask(engine, lambda engine, one=one: engine.classify(one.ref, unseen(0)))
            assert one.classification.score == pytest.approx(classification.score, abs=1e-5)
            assert one.classification.probability == pytest.approx(classification.probability, abs=1e-5)
        assert ids(identify(engine, 0, top_k=2)) == [one.ref.object_id for one in found[:2]]

    def test_exact_equals_a_shortlist_that_covers_all(self, sample: Sample) -> None:
        covers, short = engine_of(sample, identify={"shortlist": OBJECTS}), engine_of(sample)
        for shown in range(OBJECTS):
            assert_alike(identify(covers, shown), identify(short, shown, exact=True))

    @pytest.mark.parametrize("exact", [False, True])
    @pytest.mark.parametrize("shortlist", [1, 16])
    def test_only_objects_of_the_prefixes_are_tried(self, sample: Sample, exact: bool, shortlist: int) -> None:
        engine = engine_of(sample, identify={"shortlist": shortlist})
        found = identify(engine, 3, ["cup"], exact=exact)  # it is a mug
        assert ids(found) == [] and found.searched == 2 and found.tried <= 2
        found = identify(engine, 3, ["mug-3", "cup"], exact=exact)
        assert ids(found) == ["mug-3"] and found.searched == 3
        nobody = identify(engine, 3, ["x", "muh"], exact=exact)
        assert (nobody.candidates, nobody.searched, nobody.tried) == ((), 0, 0)
        assert identify(engine, 3, [], exact=exact).searched == 0

    def test_nothing_found_is_no_candidate(self, sample: Sample) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
        found = ask(engine_of(sample), lambda one: one.identify(noise, [""], top_k=5, exact=True))
        assert found == Identification((), searched=OBJECTS, tried=OBJECTS)

    @pytest.mark.parametrize("damage", ["adapter", "prototypes", "overflow", "another backbone", "forbidden"])
    def test_a_broken_object_is_left_out(self, own: Sample, damage: str) -> None:
        other = own.config.to_dict()
        other["backbone"]["name"] = "elsewhere"
        change = enormous if damage == "overflow" else None
        card = {"config": other} if damage == "another backbone" else None
        publish_object(own.registry, "zebra", own.config, 3, lora=own.lora, card=card, change=change)
        folder = Registry(open_store(own.registry)).local_copy("zebra")
        if damage == "adapter":
            (folder / "adapter_model.safetensors").write_bytes(b"not any more")
        elif damage == "prototypes":
            (folder / "prototypes.safetensors").write_bytes(b"not any more")
        elif damage == "forbidden":
            (folder / "adapter_config.json").unlink()
            (folder / "adapter_config.json").mkdir()
        for exact in (False, True):
            found = identify(engine_of(own), 3, exact=exact)
            assert ids(found)[0] == "mug-3" and "zebra" not in ids(found) and found.tried == OBJECTS

    def test_new_versions_and_deletions_are_followed(self, own: Sample) -> None:
        engine, registry = engine_of(own), Registry(open_store(own.registry))

        async def scenario(one: LocalEngine) -> None:
            assert ids(await one.identify(unseen(3), [""], top_k=1, exact=False)) == ["mug-3"]
            registry.delete("mug-3")
            publish_object(own.registry, "new", own.config, 3, lora=own.lora, version="v7")
            found = None
            while found != ["new"]:
                found = ids(await one.identify(unseen(3), [""], top_k=1, exact=False))
            assert (await one.identify(unseen(3), [""], top_k=1, exact=True)).searched == OBJECTS

        ask(engine, scenario)


class TestIdentifyWithoutTheRegistry:
    """It must never look like "none of them"."""

    def test_from_the_start(self, own: Sample) -> None:
        engine = engine_of(own, encoder={"load_timeout_s": 0.1})
        away = own.registry.rename(own.registry.with_name("away"))
        with pytest.raises(RegistryUnavailableError, match="have not been read yet"):
            identify(engine, 3)
        away.rename(own.registry)
        assert ids(identify(engine_of(own), 3))[0] == "mug-3"

    def test_the_first_query_of_a_process_waits_for_the_objects(self, own: Sample) -> None:
        engine = engine_of(own)

        async def scenario(one: LocalEngine) -> list[str]:
            away = own.registry.rename(own.registry.with_name("away"))
            query = asyncio.create_task(one.identify(unseen(3), [""], top_k=1, exact=False))
            await asyncio.sleep(0)
            away.rename(own.registry)
            return ids(await query)

        assert ask(engine, scenario) == ["mug-3"]

    @pytest.mark.parametrize("exact", [False, True])
    def test_later(self, own: Sample, exact: bool) -> None:
        engine = engine_of(own, encoder={"bank_bytes": 1})

        async def scenario(one: LocalEngine) -> None:
            await one.identify(unseen(3), ["mug-3"], top_k=1, exact=exact)
            own.registry.rename(own.registry.with_name("away"))
            await one.identify(unseen(3), [""], top_k=1, exact=exact)

        with pytest.raises(RegistryUnavailableError):
            ask(engine, scenario)

    def test_with_all_in_memory_it_still_answers(self, own: Sample) -> None:
        engine = engine_of(own)

        async def scenario(one: LocalEngine) -> Identification:
            await one.identify(unseen(3), [""], top_k=1, exact=True)
            own.registry.rename(own.registry.with_name("away"))
            return await one.identify(unseen(3), [""], top_k=1, exact=True)

        assert ids(ask(engine, scenario)) == ["mug-3"]

    def test_one_object_that_cannot_be_read_now(self, own: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
        read = LocalStore.read

        def fails(store: LocalStore, key: str, **options: Any) -> bytes:
            if key == "objects/mug-3/versions/v1/prototypes.safetensors":
                raise StorageError(f"read {key}: Input/output error")
            return read(store, key, **options)

        monkeypatch.setattr(LocalStore, "read", fails)
        with pytest.raises(RegistryUnavailableError):
            identify(engine_of(own, encoder={"load_timeout_s": 0.3}), 3)
