from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from toy_bundle import write_toy_bundle
from typer.testing import CliRunner

from inter2former_deploy.checkpoint import save_checkpoint, synthetic_state_dict
from inter2former_deploy.cli import app
from inter2former_deploy.config import PROBE
from inter2former_deploy.contract import MEAN_BGR, STD_BGR
from inter2former_deploy.data import DataError, Sample
from inter2former_deploy.evaluation import ReferenceSegmenter, evaluate, overlay_worst, plot_mean_iou, table
from inter2former_deploy.labels import add_clicks, unknown_labels
from inter2former_deploy.modules.model import Inter2Former


class Squares:
    """Squares of growing size; the last sample may be broken."""

    def __init__(self, broken=False):
        self.broken = broken

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if self.broken and index == 3:
            raise DataError("square-3: not a readable image")
        mask = np.zeros((48, 64), np.uint8)
        mask[4 : 12 + 8 * index, 8:48] = 1
        return Sample(
            f"square-{index}", np.repeat(mask[..., None] * 200, 3, 2), mask, "large" if index > 1 else "small"
        )


class Oracle:
    """Knows the white pixels, and shows a row more of them with each click; the masks of `late` start later."""

    def __init__(self, late=0):
        self.late = late

    def open(self, image):
        return OracleSession(image[..., 0] > 0, self.late)


class OracleSession:
    def __init__(self, truth, late):
        self.truth, self.clicks, self.late = truth, 0, late

    def click(self, x, y, positive=True):
        assert self.truth[int(y), int(x)] == positive
        self.clicks += 1
        mask = self.truth.copy()
        mask[4 + max(0, 4 * (self.clicks - self.late)) :] = False
        return mask


def test_scores_of_a_model_whose_masks_are_known():
    result = evaluate(Oracle(), Squares())
    heights = np.array([8, 16, 24, 32])
    shown = np.minimum(4 * np.arange(1, 21)[None] / heights[:, None], 1)
    np.testing.assert_allclose([r.ious for r in result.results], shown)
    scores = result.scores()["all"]
    assert scores["NoC@90"] == np.mean([2, 4, 6, 8])
    assert scores["NoC@85"] == np.mean([2, 4, 6, 7])
    assert scores["failures@90"] == 0
    np.testing.assert_allclose(scores["2-mIoU"], shown[:, 1].mean())
    assert [len(r.clicks) for r in result.results] == [2, 4, 6, 8]  # a perfect mask needs no more
    assert result.scores()["small"]["samples"] == 2
    assert [r.name for r in result.worst(2)] == ["square-3", "square-2"]
    few = evaluate(Oracle(), Squares(), clicks=5).scores()["all"]
    assert few["failures@90"] == 2
    assert few["NoC@90"] == np.mean([2, 4, 20, 20])
    assert "20-mIoU" not in few
    assert "| all | 4 |" in table(result.scores())


def test_a_broken_sample_is_named_and_the_others_count():
    seen = []
    result = evaluate(Oracle(), Squares(broken=True), progress=lambda *at: seen.append(at))
    assert result.problems == ["sample 3: square-3: not a readable image"]
    assert len(result.results) == 3
    assert seen[-1][:2] == (4, 4)


def test_models_that_differ_are_told_apart():
    assert evaluate(Oracle(), Squares(), against=Oracle()).differing() == []
    result = evaluate(Oracle(), Squares(), against=Oracle(late=1))
    assert result.differing() == [f"square-{i}" for i in range(4)]
    assert result.results[0].agreement[1] == 0.5


def test_a_seed_draws_other_clicks_and_always_the_same():
    runs = [[r.clicks for r in evaluate(Oracle(), Squares(), seed=seed).results] for seed in (None, 1, 1, 2)]
    assert runs[1] == runs[2]
    assert runs[0] != runs[1] != runs[3]


@pytest.fixture(scope="module")
def probe():
    model = Inter2Former(PROBE)
    model.load_state_dict(synthetic_state_dict(PROBE))
    return model.eval()


def test_reference_segmenter_is_the_modules_behind_pre_and_postprocessing(probe):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (256, 256, 3), dtype=np.uint8)  # so that scale is 1/2, and padding none
    session = ReferenceSegmenter(probe, 128).open(image)
    mask = session.click(40, 60)
    small = torch.nn.functional.interpolate(
        torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None].float(), size=(128, 128), mode="bilinear"
    )
    x = (small - torch.tensor(MEAN_BGR)[:, None, None]) / torch.tensor(STD_BGR)[:, None, None]
    labels = unknown_labels(128)
    add_clicks(labels, [session.clicks[0]._replace(x=20, y=30)])
    with torch.no_grad():
        logits = probe(x, torch.from_numpy(labels)[None])
        large = torch.nn.functional.interpolate(logits, size=(256, 256), mode="bilinear")[0, 0]
    assert (mask == (large.numpy() > 0)).mean() > 0.999


def test_pictures_of_a_report(tmp_path):
    result = evaluate(Oracle(), Squares())
    plot_mean_iou(result.scores(), tmp_path / "plot.png")
    assert cv2.imread(str(tmp_path / "plot.png")).std() > 1
    paths = overlay_worst(result, Oracle(), Squares(), tmp_path, 2)
    assert [p.name for p in paths] == ["001-square-3.jpg", "002-square-2.jpg"]
    assert cv2.imread(str(paths[0])).shape == (48, 128, 3)


def write_squares(folder):
    for i in range(2):
        sample = Squares()[i]
        for kind, array in (("images", sample.image), ("masks", sample.mask * 255)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / kind / f"{i}.png"), array)
    return folder


def test_the_command_scores_a_bundle_and_tells_when_a_checkpoint_differs(tmp_path, probe):
    bundle = write_toy_bundle(tmp_path / "bundle")  # foreground is what is bright
    data = write_squares(tmp_path / "data")
    command = ["eval", str(data), "--bundle", str(bundle), "--clicks", "3", "--no-custom-ops", "--json"]
    command += ["-o", str(tmp_path / "out")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    scores = json.loads(result.stdout)["all at 64"]
    assert scores["samples"] == 2
    assert scores["agreement"] is None
    save_checkpoint(probe, tmp_path / "probe.safetensors")
    result = CliRunner().invoke(app, [*command, "--checkpoint", str(tmp_path / "probe.safetensors")])
    assert result.exit_code == 1
    assert "bundle and checkpoint differ: images/0.png" in result.output


def test_the_command_scores_a_folder_and_reports_its_broken_sample(tmp_path, probe):
    save_checkpoint(probe, tmp_path / "probe.safetensors")
    data = write_squares(tmp_path / "data")
    command = ["eval", str(data), "--checkpoint", str(tmp_path / "probe.safetensors"), "--clicks", "2"]
    command += ["--size", "64", "--size", "128", "-o", str(tmp_path / "out"), "--save-worst", "1"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "all at 64" in result.output
    assert "all at 128" in result.output
    report = json.loads((tmp_path / "out/eval.json").read_text())
    assert report["128"]["scores"]["all"]["samples"] == 2
    np.testing.assert_allclose(sum(report["128"]["expert shares"]), 1)
    assert len(list((tmp_path / "out").glob("worst-*/*.jpg"))) == 2
    cv2.imwrite(str(data / "masks/1.png"), np.zeros((48, 64), np.uint8))
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "1.png: the mask is empty" in result.output
