"""The scripts that make training data: regions of photographs, and the list of what is trained and judged on."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from inter2former_deploy.data import CocoDataset

SCRIPTS = Path(__file__).parents[2] / "scripts"


def script(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_regions_of_a_drawn_picture_are_its_things_and_their_parts(tmp_path, monkeypatch):
    """A plate with a red part on grey, and a small thing: the plate with its part, the part and the thing are found."""
    pytest.importorskip("skimage")
    pytest.importorskip("pycocotools")
    colours = np.full((320, 480, 3), 110, np.uint8)
    truth = {}
    for name, centre, radius, colour in (
        ("plate", (160, 160), 110, (60, 90, 200)),
        ("part", (160, 160), 50, (200, 60, 50)),
        ("thing", (380, 120), 40, (240, 230, 90)),
    ):
        truth[name] = cv2.circle(np.zeros((320, 480), np.uint8), centre, radius, 1, -1) > 0
        colours[truth[name]] = colour
    noise = cv2.GaussianBlur(np.random.default_rng(0).normal(0, 120, colours.shape), (0, 0), 4)  # cloudy surfaces
    (tmp_path / "photos/a").mkdir(parents=True)
    picture = np.clip(colours + noise, 0, 255).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "photos/a/plate.png"), picture[..., ::-1])

    arguments = ["photo_regions.py", str(tmp_path / "photos"), "-o", str(tmp_path / "regions.json")]
    monkeypatch.setattr(sys, "argv", arguments)
    script("photo_regions").main()

    found = CocoDataset(tmp_path / "regions.json", tmp_path / "photos")
    samples = [found[i] for i in range(len(found))]
    assert 3 <= len(samples) <= 30
    for sample in samples:
        np.testing.assert_array_equal(sample.image, picture)
        assert 0.003 < (sample.mask == 1).mean() < 0.62
    for name, mask in truth.items():
        best = max(((s.mask == 1) & mask).sum() / ((s.mask == 1) | mask).sum() for s in samples)
        assert best > 0.93, name


def test_a_hierarchy_merges_what_differs_least_first():
    """Four columns of the values 0, 0.1, 1 and 1.3: the first two are merged, the last two, and then all."""
    labels = np.repeat(np.arange(4), 5)[None].repeat(20, 0)
    channels = np.array([0, 0.1, 1, 1.3], np.float32)[labels][..., None]
    regions = script("photo_regions").hierarchy(channels, np.zeros(labels.shape, np.float32), labels)
    assert [sorted(r.leaves) for r in regions[4:]] == [[0, 1], [2, 3], [0, 1, 2, 3]]
    assert [r.area for r in regions[4:]] == [200, 200, 400]
    np.testing.assert_allclose([r.mean[0] for r in regions[4:]], [0.05, 1.15, 0.6], rtol=1e-6)
    # unlikeness times the fourth root of the smaller one's share
    np.testing.assert_allclose([r.height for r in regions[4:6]], np.array([0.1, 0.3]) * 0.25**0.25, rtol=1e-5)
    np.testing.assert_allclose(regions[6].height, 1.1 * 0.5**0.25, rtol=1e-5)
    assert regions[4].next_height == regions[5].next_height == regions[6].height


def test_what_is_held_out_is_never_trained_on():
    data = script("training_data")
    rules = data.read_rules(data.LIST)
    assert {package for _, package, _ in rules} <= set(data.PACKAGES)
    stamps = "tuxpaint-stamps-default"
    for name in ("vehicles/car.png", "vehicles/ship/a.png", "vehicles/christmas/a_photo.png", "animals/birds/crow.png"):
        assert data.use_of(rules, stamps, f"tuxpaint/stamps/{name}") in ("judged-cutouts", "drawn"), name
    assert data.use_of(rules, stamps, "tuxpaint/stamps/animals/birds/crow.png") == "judged-cutouts"
    assert data.use_of(rules, stamps, "tuxpaint/stamps/animals/amphibians/frog.png") == "cutouts"
    assert data.use_of(rules, "mate-backgrounds", "backgrounds/mate/nature/Dune.jpg") == "judged-backgrounds"
    assert data.use_of(rules, "mate-backgrounds", "backgrounds/mate/abstract/Elephants.jpg") == "unused"
    assert {use for use, package, _ in rules if package == "mate-backgrounds"} == {"judged-backgrounds"}
    assert set(data.FOLDERS) | {"drawn"} == {use for use, _, _ in rules}


def test_licences_are_read_from_a_copyright_file(tmp_path):
    data = script("training_data")
    (tmp_path / "copyright").write_text(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n"
        "Files: *\nCopyright: somebody\nLicense: GPL-2+\n\n"
        "Files: photos/a.jpg\n photos/b*\nCopyright: another\nLicense: CC-BY-SA-3.0\n\n"
        "Files: 16.04/d.jpg\nCopyright: a third\nLicense: CC-BY-4.0\n\n"
        "Files: debian/*\nCopyright: the packager\nLicense: Expat\n\n"
        "License: GPL-2+\n The text.\n"
    )
    licences = data.read_licences(tmp_path / "copyright")
    assert data.licence_of(licences, "share/photos/a.jpg") == "CC-BY-SA-3.0"
    assert data.licence_of(licences, "share/photos/bee.jpg") == "CC-BY-SA-3.0"
    assert data.licence_of(licences, "share/photos/c.jpg") == "GPL-2+"
    assert data.licence_of(licences, "backgrounds/d.jpg") == "CC-BY-4.0"  # the source lies in another folder
    assert data.licence_of(licences, "debian/rules") == "Expat"
    (tmp_path / "copyright").write_text("All pictures are under CC-BY-SA-3.0, the scripts under GPL-2.")
    assert data.licence_of(data.read_licences(tmp_path / "copyright"), "a.jpg") == "CC-BY-SA-3.0 and GPL-2"
