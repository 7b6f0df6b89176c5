from __future__ import annotations

import hashlib

import numpy as np
import pytest

from inter2former_deploy.data.photos import HELD_OUT, JUDGED, TEXTURES, TRAINED
from inter2former_deploy.data.shapes import SOLID, THIN, Primitive, coverage, place
from inter2former_deploy.data.synthetic import SyntheticDataset, make_scene, render, training_view


def test_coverage_is_exact_for_a_square_off_the_grid():
    square = np.array([[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]])
    for shift in (0.0, 0.5 / 64):
        cover = coverage([Primitive(square + shift)], (0.0, 0.0, 1.0), 64) / 255
        # OpenCV paints the outline's own subpixels, too: an eighth of a pixel outwards
        np.testing.assert_allclose(cover.sum(), 32.25**2, atol=0.25)
    assert coverage([Primitive(square)], (0.0, 0.0, 1.0), 64)[40, 40] == 255


def test_holes_are_cut_and_pens_never_vanish():
    square = np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    shape = [Primitive(square), Primitive(square / 2, cut=True), Primitive(np.array([[-0.4, 0.0], [0.4, 0]]), 1e-6)]
    cover = coverage(place(shape, (0.5, 0.5), 0.4, 0.0, 1.0, min_width=0.02), (0.0, 0.0, 1.0), 128)
    assert cover[64, 64] > 127  # the bar in the hole
    assert cover[50, 64] == 0  # the hole
    assert cover[20, 64] == 255


@pytest.mark.parametrize("family", dict.fromkeys((*SOLID, *THIN)), ids=lambda f: f.__name__)
def test_every_family_draws_something_within_reach(family):
    rng = np.random.default_rng(3)
    for _ in range(5):
        shape = place(family(rng), (0.5, 0.5), 0.2, 0.0, 1.0, 0.004)
        cover = coverage(shape, (0.0, 0.0, 1.0), 128) > 127
        assert 0.001 < cover.mean() < 0.5


def test_masks_agree_between_resolutions_and_views():
    for index in range(6):
        scene = make_scene(5, index)
        target = scene.target
        fine = render(scene, 512)[1][target]
        coarse = render(scene, 128)[1][target]
        blocks = fine.reshape(128, 4, 128, 4).mean((1, 3))
        sure = (blocks == 0) | (blocks == 1)  # pixels without a boundary in them
        assert (coarse == (blocks > 0.5))[sure].mean() > 0.998
        part = render(scene, 128, (0.25, 0.25, 0.25))[1][target]
        assert (part == fine[128:256, 128:256]).mean() > 0.995


def test_a_seed_always_gives_the_same_scene_and_another_seed_another():
    digests = set()
    for dataset in (SyntheticDataset(seed=1, length=4, size=96), SyntheticDataset(seed=2, length=4, size=96)):
        first, again = dataset[3], dataset[3]
        assert np.array_equal(first.image, again.image)
        assert np.array_equal(first.mask, again.mask)
        digests.add(hashlib.sha256(first.image.tobytes()).hexdigest())
    assert len(digests) == 2
    # the outlines are reproducible to the bit on every machine
    assert int(SyntheticDataset(seed=1, length=4, size=96)[3].mask.sum()) == MASK_PIXELS


MASK_PIXELS = 339


def test_every_third_target_is_thin_and_none_is_empty():
    dataset = SyntheticDataset(length=9, size=64)
    samples = [dataset[i] for i in range(9)]
    assert [s.name.split("-")[0] == "thin" for s in samples] == [i % 3 == 0 for i in range(9)]
    for sample in samples:
        assert sample.image.shape == (64, 64, 3)
        assert sample.image.dtype == np.uint8
        assert 0 < sample.mask.sum() < sample.mask.size
        assert set(np.unique(sample.mask)) == {0, 1}
    with pytest.raises(IndexError):
        dataset[9]
    with pytest.raises(ValueError, match="size >= 16"):
        SyntheticDataset(size=8)


def test_training_views_show_the_middle_of_the_target():
    rng = np.random.default_rng(0)
    mask = np.zeros((64, 64), bool)
    mask[50:60, 2:6] = True
    views = [training_view(rng, mask) for _ in range(200)]
    assert views.count((0.0, 0.0, 1.0)) > 10
    for left, top, side in views:
        assert 0 <= left <= 1 - side + 1e-9
        assert 0 <= top <= 1 - side + 1e-9
        assert left < 4 / 64 < left + side
        assert top < 55 / 64 < top + side
        assert side > 10 / 64


def test_held_out_photographs_are_no_textures():
    assert not set(HELD_OUT) & set(TEXTURES)


def test_photographs_with_masks_to_judge_by_are_no_textures_of_training_pictures():
    assert not {*HELD_OUT, *JUDGED} & set(TRAINED)
    used = {
        texture.photo
        for index in range(40)
        for thing in make_scene(3, index, photos=TRAINED).things
        for texture in (thing.texture, thing.marks)
        if texture and texture.kind == "photo"
    }
    assert len(used) > 5
    assert used <= set(TRAINED)


def test_easy_scenes_have_nothing_that_hides_boundaries():
    easy = [make_scene(3, index, difficulty=0.0) for index in range(12)]
    for scene in easy:
        assert (scene.blur, scene.noise, scene.jpeg) == (0, 0, 100)
        assert all(t.marks is None and t.softness == t.relief == t.shadow == 0 for t in scene.things)
        assert all(t.texture.kind in ("flat", "gradient", "noise") for t in scene.things)
    assert any(t.texture.kind == "photo" for index in range(12) for t in make_scene(3, index).things)
