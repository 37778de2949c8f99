from __future__ import annotations

import math

import numpy as np
import pytest

from persrep_ray.tasks.recognize import (
    MOST_COHORT,
    MOST_PHOTOS,
    PREFIX,
    PRIORS,
    Recognizer,
    Whitening,
    Witness,
    posterior,
    published_recognizer,
)

NONE = np.empty((0, 16), np.float32)
CLS, GEOMETRY = PRIORS["cls"], PRIORS["geometry"]


def photos_of(objects: int, each: int = 3, nuisance: float = 2.0, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Embeddings of photos of several objects, which differ less among objects than by a nuisance along one axis."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(objects, 1, 16))
    photos = centres + 0.1 * rng.normal(size=(objects, each, 16))
    photos[..., 0] += nuisance * rng.normal(size=(objects, each))
    names = [f"object {index}" for index in range(objects) for _ in range(each)]
    return photos.reshape(-1, 16).astype(np.float32), names


def fit(rows: np.ndarray, names: list[str], name: str, **changed: object) -> Recognizer:
    ours = np.array([one == name for one in names])
    options = {"synthetic_positives": NONE, "synthetic_others": NONE, "held_out": {}, **changed}
    others = [one for one in names if one != name]
    return Recognizer.fit(rows[ours], rows[~ours], others, **options)  # type: ignore[arg-type]


class TestWhitening:
    def test_it_forgets_what_varies_within_objects(self) -> None:
        rows, names = photos_of(20, nuisance=20)
        tests = rows[1::3]  # one photo of each object is asked for
        kept = np.delete(rows, np.s_[1::3], axis=0)
        kept_names = np.array([name for index, name in enumerate(names) if index % 3 != 1])
        whitening = Whitening.fit(kept, list(kept_names))

        def right(gallery: np.ndarray, queries: np.ndarray) -> float:
            nearest = kept_names[(queries @ gallery.T).argmax(axis=1)]
            return float(np.mean(nearest == np.array(names)[1::3]))

        unit = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in (kept, tests)]
        assert right(whitening(kept), whitening(tests)) > right(*unit) + 0.1

    def test_with_one_photo_per_object_it_only_subtracts_the_mean(self) -> None:
        rows, names = photos_of(5, each=1)
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        centred = unit - unit.mean(axis=0)
        expected = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        np.testing.assert_allclose(Whitening.fit(rows, names)(rows), expected, atol=1e-5)

    def test_the_same_photos_in_another_order_give_the_same_whitening(self) -> None:
        rows, names = photos_of(6)
        backwards = Whitening.fit(rows[::-1], names[::-1])
        np.testing.assert_allclose(Whitening.fit(rows, names)(rows), backwards(rows), atol=1e-4)


class TestWitness:
    def test_without_images_it_is_the_prior(self) -> None:
        witness = Witness.fit(np.empty(0), np.empty(0), CLS)
        assert witness.middle == pytest.approx((CLS.low + CLS.high) / 2)
        assert witness.slope == pytest.approx((CLS.high - CLS.low) / CLS.spread**2)
        assert witness.evidence(np.array([witness.middle])) == pytest.approx(0)

    def test_evidence_rises_with_the_score_within_limits(self) -> None:
        evidence = Witness.fit(np.full(3, 3.0), np.zeros(20), GEOMETRY).evidence(np.array([-1e9, 0, 1, 2, 3, 5, 1e9]))
        assert (np.diff(evidence) >= 0).all()
        assert evidence[0] == pytest.approx(math.log(1 / 5))
        assert evidence[-1] == 20

    def test_keypoints_that_never_fit_the_objects_photos_do_not_speak_against_it(self) -> None:
        plush = Witness.fit(np.zeros(10), np.zeros(30), GEOMETRY)
        carton = Witness.fit(np.full(10, 4.0), np.zeros(30), GEOMETRY)
        assert plush.evidence(np.array(0.0)) > -0.1
        assert carton.evidence(np.array(0.0)) < -2
        assert plush.evidence(np.array(5.0)) > 3  # yet if they fit, they do

    def test_others_that_score_high_make_it_less_sure(self) -> None:
        rng = np.random.default_rng(0)
        sure = Witness.fit(np.full(10, 4.0), rng.normal(0, 0.3, 100), GEOMETRY)
        unsure = Witness.fit(np.full(10, 4.0), rng.normal(2, 1.5, 100), GEOMETRY)
        assert unsure.evidence(np.array(3.0)) < sure.evidence(np.array(3.0)) - 1

    def test_it_says_nothing_if_others_score_higher(self) -> None:
        blind = Witness.fit(np.empty(0), np.full(1000, 9.0), CLS)
        assert blind.evidence(np.array([-1.0, 9.0])) == pytest.approx(0)

    def test_scores_that_are_not_finite_are_refused(self) -> None:
        with pytest.raises(ValueError, match="not finite"):
            Witness.fit(np.array([np.nan]), np.empty(0), CLS)


class TestRecognizer:
    def test_the_object_has_more_evidence_than_others(self) -> None:
        rows, names = photos_of(12, each=4)
        train = np.array([index % 4 != 3 for index in range(len(rows))])
        known = [name for name, kept in zip(names, train, strict=True) if kept]
        evidence = np.stack([fit(rows[train], known, f"object {j}").evidence(rows[~train], {}) for j in range(12)], 1)
        assert (evidence.argmax(axis=1) == np.arange(12)).all()
        assert (np.diag(evidence) > 1).all()
        assert (evidence > 0).sum() == 12

    def test_witnesses_add_up_and_those_that_are_not_asked_say_nothing(self) -> None:
        rows, names = photos_of(6)
        found = fit(rows, names, "object 2", held_out={"geometry": (np.full(3, 4.0), np.zeros(15))})
        alone = found.evidence(rows, {})
        scores = np.linspace(0, 4, len(rows))
        np.testing.assert_allclose(
            found.evidence(rows, {"geometry": scores}), alone + found.witnesses["geometry"].evidence(scores)
        )
        np.testing.assert_allclose(found.evidence(rows, {"patches": scores}), alone)  # the object has no such witness

    def test_one_photo_and_one_other_object_are_enough(self) -> None:
        rows, names = photos_of(2, each=1)
        assert np.isfinite(fit(rows, names, "object 0").evidence(rows, {})).all()
        with pytest.raises(ValueError, match="other objects"):
            fit(rows[:1], names[:1], "object 0")

    def test_synthetic_images_count(self) -> None:
        rows, names = photos_of(6)
        clear = fit(rows, names, "object 2", synthetic_positives=rows[6:8], synthetic_others=rows[:2])
        blurred = fit(rows, names, "object 2", synthetic_positives=rows[:2], synthetic_others=rows[6:8])
        assert clear.witnesses["cls"].miss < blurred.witnesses["cls"].miss

    def test_arrays_make_the_same_recognizer_and_are_small(self) -> None:
        rows, names = photos_of(60, each=2)
        many = np.concatenate([rows, rows[:2].repeat(30, axis=0)])
        found = fit(many, [*names, *["object 0"] * 60], "object 0", held_out={"geometry": (np.ones(2), np.zeros(9))})
        arrays = found.to_arrays()
        assert (len(arrays["photos"]), len(arrays["cohort"])) == (MOST_PHOTOS, MOST_COHORT)
        again = Recognizer.from_arrays(arrays)
        asked = {"geometry": np.linspace(0, 4, len(rows))}
        np.testing.assert_allclose(again.evidence(rows, asked), found.evidence(rows, asked), atol=0.2)

    @pytest.mark.parametrize(
        ("name", "bad"),
        [
            ("photos", np.zeros((0, 16), np.float16)),
            ("photos", np.zeros((3, 15), np.float16)),
            ("photos", np.full((3, 16), np.nan, np.float16)),
            ("cohort", np.zeros((MOST_COHORT + 1, 16), np.int8)),
            ("cohort", np.zeros((3, 16), np.float64)),
            ("directions", np.zeros((5, 3), np.float16)),
            ("factors", np.zeros(99, np.float32)),
            ("mean", np.zeros(3, np.float32)),
            ("witness.cls", np.array([1.0, 0.0])),
            ("witness.cls", np.array([1.0, 0.0, 1.0])),  # a witness that is always blind
            ("witness.cls", np.array([-1.0, 0.0, 0.5])),
            ("witness.cls", np.array([np.inf, 0.0, 0.5])),
        ],
    )
    def test_hostile_arrays_are_refused(self, name: str, bad: np.ndarray) -> None:
        rows, names = photos_of(3)
        arrays = fit(rows, names, "object 0").to_arrays()
        with pytest.raises(ValueError, match="recognize"):
            Recognizer.from_arrays({**arrays, name: bad})
        with pytest.raises(ValueError, match=f"recognize.{name} is missing"):
            Recognizer.from_arrays({key: array for key, array in arrays.items() if key != name})

    @pytest.mark.parametrize("cls", [np.zeros((1, 15)), np.full((1, 16), np.nan), np.zeros(16)])
    def test_embeddings_that_do_not_fit_are_refused(self, cls: np.ndarray) -> None:
        rows, names = photos_of(3)
        with pytest.raises(ValueError, match="embeddings"):
            fit(rows, names, "object 0").evidence(cls, {})


class TestPosterior:
    def test_two_candidates_share_what_none_leaves(self) -> None:
        shares = posterior(np.log([40.0, 20.0]), known=20)
        np.testing.assert_allclose(shares, [1 / 2, 0.5 / 2])  # 1 and 0.5, and 0.5 for none

    def test_the_more_objects_the_more_evidence_is_needed(self) -> None:
        few, many = (posterior(np.array([4.0]), known)[0] for known in (10, 10_000))
        assert few > 0.8
        assert many < 0.01

    def test_false_alarms_do_not_grow_with_the_number_of_objects(self) -> None:
        """The LLRs are those of normal scores; no image shows any of the objects."""
        rng, gap = np.random.default_rng(0), 3.0
        alarms = []
        for known in (30, 3000):
            shares = [posterior(one, known) for one in gap * (rng.normal(size=(400, known)) - gap / 2)]
            alarms.append(np.mean([share.max() > 1 - share.sum() for share in shares]))
        assert alarms[1] < alarms[0] + 0.02 < 0.2

    def test_no_candidates(self) -> None:
        assert posterior(np.empty(0), known=5).shape == (0,)


class TestPublished:
    def test_it_is_found_among_the_arrays_of_a_version(self) -> None:
        rows, names = photos_of(6)
        recognizer = fit(rows, names, "object 0")
        arrays = {f"{PREFIX}{name}": value for name, value in recognizer.to_arrays().items()}
        found = published_recognizer({"cls": rows, **arrays}, 16)
        assert found is not None
        np.testing.assert_allclose(found.evidence(rows, {}), recognizer.evidence(rows, {}), atol=0.2)

    def test_an_earlier_version_has_none(self) -> None:
        assert published_recognizer({"cls": np.ones((2, 16), np.float32)}, 16) is None

    def test_another_width_is_refused(self) -> None:
        rows, names = photos_of(6)
        arrays = {f"{PREFIX}{name}": value for name, value in fit(rows, names, "object 0").to_arrays().items()}
        with pytest.raises(ValueError, match=r"recognize\.photos has 16 dimensions, not 8"):
            published_recognizer(arrays, 8)
