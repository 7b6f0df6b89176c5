from __future__ import annotations

import cv2
import numpy as np
import pytest

from inter2former_deploy.data import CompositeDataset, DataError, composites, open_dataset
from inter2former_deploy.data.composites import Composites, _unfocused
from inter2former_deploy.data.sample import SIZE_GROUPS


@pytest.fixture
def folder(tmp_path):
    """White discs and one white ring on black photographs: what is bright belongs to a thing."""
    for name in ("cutouts/a", "cutouts/b", "backgrounds"):
        (tmp_path / name).mkdir(parents=True)
    y, x = np.mgrid[-80:80, -80:80]
    disc = np.hypot(y, x) < 70
    for name, inside in (("a/disc", disc), ("a/again", disc), ("b/ring", disc & (np.hypot(y, x) > 40))):
        rgba = np.full((160, 160, 4), 255, np.uint8)
        rgba[..., 3] = 255 * inside
        cv2.imwrite(str(tmp_path / f"cutouts/{name}.png"), rgba)
    cv2.imwrite(str(tmp_path / "backgrounds/dark.png"), np.zeros((200, 300, 3), np.uint8))
    return tmp_path


def test_masks_are_what_is_seen_of_each_thing(folder):
    pictures = Composites(folder)
    for index in range(12):
        image, masks, target = pictures.draw(np.random.default_rng([7, index]), 128)
        assert image.shape == (128, 128, 3)
        assert masks.shape[1:] == (128, 128)
        assert masks.sum(0).max() == 1  # a pixel shows one thing
        assert 0.005 <= masks[target].mean() <= 0.61
        inner = cv2.erode(masks.any(0).astype(np.uint8), np.ones((9, 9))) > 0
        outer = cv2.dilate(masks.any(0).astype(np.uint8), np.ones((9, 9))) == 0
        if inner.any():
            assert image[inner].mean() > image[outer].mean() + 30


def test_targets_have_all_sizes_and_some_scenes_have_several_of_their_kind(folder):
    pictures = Composites(folder)
    drawn = [pictures.draw(np.random.default_rng([3, i]), 64) for i in range(80)]
    shares = np.array([masks[target].mean() for _, masks, target in drawn])
    assert shares.min() < 0.015
    assert shares.max() > 0.4
    for low, high in ((0, 0.05), (0.05, 0.2), (0.2, 0.61)):
        assert ((low < shares) & (shares <= high)).sum() >= 8
    assert {len(masks) for _, masks, _ in drawn} == {1, 2, 3, 4, 5}


def test_a_picture_is_its_things_over_each_other_and_masks_are_their_halves(folder, monkeypatch):
    """Without light, shadows and camera, against a composition in float64 that weighs each thing by what is seen."""
    monkeypatch.setattr(composites, "_lit", lambda rng, colours, alpha, image: colours)
    monkeypatch.setattr(composites, "_unfocused", lambda colours, alpha, sigma: (colours, alpha))
    monkeypatch.setattr(composites, "blurred", lambda image, sigma: image * (image.ndim == 3))  # no shadow
    monkeypatch.setattr(composites, "photographed", lambda image, rng, **_: image)
    pictures = Composites(folder)
    monkeypatch.setattr(pictures, "_detailed", lambda rng, colours, size: colours)
    placed = []
    place = pictures._things
    monkeypatch.setattr(pictures, "_things", lambda rng, size: placed.append(place(rng, size)) or placed[-1])
    hidden = 0
    for index in range(20):
        image, masks, target = pictures.draw(np.random.default_rng([5, index]), 96)
        things, place_of_target = placed[-1]  # earlier ones were drawn again
        assert target == place_of_target
        left = np.ones((96, 96))
        expected = np.zeros((96, 96, 3))
        in_front = np.zeros((96, 96), bool)
        for (colours, alpha), mask in zip(things[::-1], masks[::-1], strict=True):
            weight = left * np.float64(alpha)
            expected += weight[..., None] * np.float64(colours)
            left -= weight
            covered = np.float64(alpha) >= 0.5
            np.testing.assert_array_equal(mask, covered & ~in_front)
            hidden += (covered & in_front).any()
            in_front |= covered
            assert (weight[mask & (left + weight == 1)] >= 0.5).all()
        np.testing.assert_allclose(image, expected, atol=0.01)
    assert hidden > 5


def test_a_thing_covers_the_share_that_was_asked_for_with_half_coverage_on_its_outline(folder):
    """A disc becomes an ellipse: its area is the share, and its outline follows from its moments."""
    pictures = Composites(folder)
    disc = next(i for i, cutout in enumerate(pictures.cutouts) if cutout.kind == "a")
    y, x = np.mgrid[:256, :256].astype(np.float64)
    whole = 0
    for index, share in enumerate((0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4) * 6):
        _, alpha = pictures._place(np.random.default_rng([1, index]), disc, share, 256)
        if alpha[[0, -1]].any() or alpha[:, [0, -1]].any():
            continue  # cut off by the picture's border
        whole += 1
        cover = alpha.astype(np.float64)
        assert cover.sum() == pytest.approx(share * 256**2, rel=0.03)
        assert (alpha >= 0.5).sum() == pytest.approx(share * 256**2, rel=0.03)
        offset = np.stack([y - (cover * y).sum() / cover.sum(), x - (cover * x).sum() / cover.sum()])
        spread = np.einsum("ihw,jhw,hw->ij", offset, offset, cover) / cover.sum()
        radius = np.einsum("ihw,ij,jhw->hw", offset, np.linalg.inv(spread), offset) / 4  # 1 on the outline
        assert np.mean((alpha >= 0.5) != (radius <= 1)) < 0.04 * np.sqrt(share)
    assert whole > 15


def test_other_things_are_often_of_the_targets_kind_and_the_very_same_picture(tmp_path, monkeypatch):
    disc = cv2.circle(np.zeros((60, 60, 4), np.uint8), (30, 30), 28, (255, 255, 255, 255), -1)
    for kind in range(12):
        (tmp_path / f"cutouts/{kind}").mkdir(parents=True)
        for n in range(2):
            cv2.imwrite(str(tmp_path / f"cutouts/{kind}/{n}.png"), disc)
    (tmp_path / "backgrounds").mkdir()
    cv2.imwrite(str(tmp_path / "backgrounds/dark.png"), np.zeros((70, 70, 3), np.uint8))
    pictures = Composites(tmp_path)
    chosen = []
    place = pictures._place
    monkeypatch.setattr(pictures, "_place", lambda rng, which, *a: chosen.append(which) or place(rng, which, *a))
    same, alike, several = 0, 0, 0
    for index in range(150):
        chosen.clear()
        pictures._things(np.random.default_rng([2, index]), 32)
        kinds = [pictures.cutouts[i].kind for i in chosen]  # the target first
        several += len(kinds) > 1
        same += chosen[0] in chosen[1:]
        alike += any(k == kinds[0] and i != chosen[0] for i, k in zip(chosen[1:], kinds[1:], strict=True))
    assert several > 100
    assert 0.3 * several < same < 0.6 * several  # by chance it would be less than a tenth
    assert 0.15 * several < alike < 0.5 * several


def test_a_soft_border_is_half_covered_where_the_sharp_one_was():
    alpha = np.zeros((64, 64), np.float32)
    alpha[:, :32] = 1
    colours = np.full((64, 64, 3), 200, np.float32)
    soft_colours, soft = _unfocused(colours, alpha, 4.0)
    assert np.array_equal(soft[20:40] >= 0.5, alpha[20:40] >= 0.5)
    assert 0 < soft[30, 36] < 0.5
    # no colour of what lies outside the thing comes in
    np.testing.assert_allclose(soft_colours[30, 24:38], 200, atol=0.5)


def test_a_seed_gives_the_same_set_and_samples_say_how_large_their_objects_are(folder):
    dataset = open_dataset(f"composites:{folder}", length=6, size=64)
    assert isinstance(dataset, CompositeDataset)
    assert len(dataset) == 6
    again = CompositeDataset(folder, length=6, size=64)
    for index in range(6):
        one, other = dataset[index], again[index]
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.mask, other.mask)
        assert one.mask.mean() <= SIZE_GROUPS[one.group]
        assert one.group == "small" or one.mask.mean() > 0.05
    assert not np.array_equal(CompositeDataset(folder, seed=1, size=64)[0].image, dataset[0].image)
    with pytest.raises(IndexError):
        dataset[6]
    with pytest.raises(ValueError, match="size >= 16"):
        CompositeDataset(folder, size=8)


def test_folders_that_cannot_be_used_are_named(folder, tmp_path):
    with pytest.raises(DataError, match="cutouts: no such folder"):
        Composites(tmp_path / "nothing")
    opaque = folder / "cutouts/b/opaque.png"
    cv2.imwrite(str(opaque), np.zeros((80, 80, 3), np.uint8))  # without alpha: not a cut-out
    assert len(Composites(folder).cutouts) == 3
    opaque.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"opaque\.png"):
        Composites(folder)
    opaque.unlink()
    (folder / "backgrounds/broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"broken\.png"):
        Composites(folder).check()


def test_large_cutouts_are_refused_before_they_are_decoded(folder, monkeypatch):
    monkeypatch.setattr("inter2former_deploy.data.composites.LARGEST_CUTOUT", 160 * 160 - 1)
    with pytest.raises(DataError, match="160 x 160 pixels"):
        Composites(folder)


def test_cutouts_that_no_scene_shows_are_an_error_and_no_endless_search(tmp_path, monkeypatch):
    monkeypatch.setattr(composites, "_TRIES", 20)
    (tmp_path / "cutouts").mkdir()
    (tmp_path / "backgrounds").mkdir()
    dust = np.zeros((200, 200, 4), np.uint8)
    dust[::4, ::4] = 255  # far apart: nothing of it is half covered when it is reduced
    cv2.imwrite(str(tmp_path / "cutouts/dust.png"), dust)
    cv2.imwrite(str(tmp_path / "backgrounds/dark.png"), np.zeros((70, 70, 3), np.uint8))
    with pytest.raises(DataError, match="cutouts: none of 20 scenes of 32 pixels"):
        Composites(tmp_path).draw(np.random.default_rng(0), 32)


def test_large_photographs_are_reduced(folder, monkeypatch):
    monkeypatch.setattr(composites, "_BACKGROUND_SIDE", 50)
    cv2.imwrite(str(folder / "backgrounds/large.png"), np.full((100, 160, 3), 90, np.uint8))
    photo = composites._photo(folder / "backgrounds/large.png")
    assert photo.shape == (50, 80, 3)
    assert (photo == 90).all()
