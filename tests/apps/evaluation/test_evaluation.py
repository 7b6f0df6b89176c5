from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import tempfile
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from toy_bundle import write_toy_bundle
from typer.testing import CliRunner

from inter2former_deploy.apps.batch.places import open_folder
from inter2former_deploy.apps.cli import app
from inter2former_deploy.apps.cli import evaluate as evaluate_command
from inter2former_deploy.apps.evaluation import ReferenceSegmenter, evaluate, overlay_worst, plot_mean_iou, table
from inter2former_deploy.apps.evaluation.report import mean_iou_figure
from inter2former_deploy.core.contract import MEAN_BGR, STD_BGR
from inter2former_deploy.core.pictures import read_image
from inter2former_deploy.data import DataError, Sample, open_dataset
from inter2former_deploy.data.sample import EMPTY
from inter2former_deploy.families.checkpoint import save_checkpoint, synthetic_state_dict
from inter2former_deploy.families.inter2former.config import PROBE
from inter2former_deploy.families.inter2former.labels import add_clicks, unknown_labels
from inter2former_deploy.families.inter2former.modules.model import Inter2Former
from inter2former_deploy.runtime import Segmenter


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


class Parts:
    """Samples of two splits and two groups; every third has no object."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        mask = np.zeros((20, 20), np.uint8)
        mask[4:12, 5 + index : 12] = index % 3 != 2
        image = np.repeat(mask[..., None] * np.uint8(200), 3, 2)
        split, group = ("train", "val")[index // 3], f"part {index % 2}"
        return Sample(f"s{index}", image, mask, group, split)


def test_splits_are_never_in_one_score_and_samples_without_an_object_are_counted():
    result = evaluate(Oracle(), Parts())
    assert (result.problems, result.passed_over.names) == ([], {EMPTY: ["s2", "s5"]})
    counts = {name: row["samples"] for name, row in result.scores().items()}
    assert counts == {
        "train": 2, "part 0 train": 1, "part 1 train": 1, "val": 2, "part 0 val": 1, "part 1 val": 1
    }  # fmt: skip
    assert result.to_dict()["passed over"] == {EMPTY: ["s2", "s5"]}


class Encodes(Oracle):
    """Counts what it encodes."""

    def __init__(self):
        super().__init__()
        self.encoded = []

    def encode(self, image):
        self.encoded.append(image)
        return ("encoded", image)

    def open(self, encoded):
        assert encoded[0] == "encoded"
        return super().open(encoded[1])


def test_a_picture_is_encoded_once_for_all_its_objects():
    class Objects:
        def __len__(self):
            return 6

        def __getitem__(self, index):
            return replace(Squares()[0], name=f"object {index}", picture=f"picture {index // 3}")

    model, other = Encodes(), Encodes()
    result = evaluate(model, Objects(), clicks=3, against=other)
    assert len(model.encoded) == len(other.encoded) == 2
    assert [r.name for r in result.results] == [f"object {i}" for i in range(6)]
    plain = evaluate(Oracle(), Objects(), clicks=3)
    assert [r.ious for r in result.results] == [r.ious for r in plain.results]
    seconds = [r.open_seconds for r in result.results]
    assert all(s > 0 for s in seconds)  # every object's session includes the encoding of its picture
    model.encoded.clear()
    evaluate(model, Squares(), clicks=1)  # pictures of one object each
    assert len(model.encoded) == 4


def test_a_reference_model_encodes_once_and_gives_the_same_masks(probe):
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    model = ReferenceSegmenter(probe, 64)
    encoded = model.encode(image)
    sessions = [model.open(encoded), model.open(encoded), model.open(image)]
    masks = [[session.click(40, 30), session.click(10, 50, False)] for session in sessions]
    assert all((one == other).all() for one, other in zip(masks[0] + masks[0], masks[1] + masks[2], strict=True))


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
    add_clicks(labels, [session.prompts[0]._replace(x=20, y=30)])
    with torch.no_grad():
        logits = probe(x, torch.from_numpy(labels)[None])
        large = torch.nn.functional.interpolate(logits, size=(256, 256), mode="bilinear")[0, 0]
    assert (mask == (large.numpy() > 0)).mean() > 0.999


def test_pictures_of_a_report(tmp_path):
    result = evaluate(Oracle(), Squares())
    scores = result.scores()
    (axis,) = mean_iou_figure(scores).axes
    drawn = {line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axis.get_lines()}
    clicks = list(range(1, 21))
    assert drawn == {f"{n} ({row['samples']})": (clicks, row["mIoU by click"]) for n, row in scores.items()}
    assert [t.get_text() for t in axis.get_legend().get_texts()] == ["all (4)", "large (2)", "small (2)"]
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_ylim()[1]) == ("clicks", "mean IoU", 1)
    assert axis.get_xticks().tolist() == [1, 5, 10, 15, 20]
    for budget in (1, 2, 7):  # clicks are whole numbers
        few = mean_iou_figure(evaluate(Oracle(), Squares(), clicks=budget).scores()).axes[0]
        assert few.get_xticks().tolist() == list(range(1, budget + 1))
    plot_mean_iou(scores, tmp_path / "plot.png")
    assert cv2.imread(str(tmp_path / "plot.png")).shape == (400, 600, 3)
    names = overlay_worst(result, Oracle(), Squares(), open_folder(str(tmp_path / "worst"), "--output"), 2)
    assert names == ["001-square-3.jpg", "002-square-2.jpg"]
    assert cv2.imread(str(tmp_path / "worst" / names[0])).shape == (48, 128, 3)


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


def test_a_run_that_was_stopped_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("inter2former_deploy.apps.batch.scoring.TOGETHER", 1)
    bundle, data, out = write_toy_bundle(tmp_path / "bundle"), write_squares(tmp_path / "data"), tmp_path / "out"
    command = ["eval", str(data), "--bundle", str(bundle), "--clicks", "3", "--no-custom-ops", "--seed", "4", "-o"]
    assert CliRunner().invoke(app, [*command, str(tmp_path / "whole")]).exit_code == 0
    encode, calls = Segmenter.encode, [0]

    def counted(self, image):
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt
        return encode(self, image)

    monkeypatch.setattr(Segmenter, "encode", counted)
    assert CliRunner().invoke(app, [*command, str(out)]).exit_code != 0
    assert len(list((out / "unfinished").iterdir())) == 1
    result = CliRunner().invoke(app, [*command, str(out)])
    assert (result.exit_code, calls[0]) == (0, 3)
    assert "1 of 2 samples were scored by a run that was stopped" in result.output
    assert not (out / "unfinished").exists()
    reports = [json.loads((folder / "eval.json").read_text())["64"] for folder in (tmp_path / "whole", out)]
    for result in (result for report in reports for result in report["results"]):
        assert len(result.pop("click_seconds")) == len(result["clicks"])
        assert result.pop("open_seconds") > 0
    assert reports[0]["results"] == reports[1]["results"]
    assert len(reports[0]["results"]) == 2
    assert CliRunner().invoke(app, [*command, str(out)]).exit_code == 0
    assert calls[0] == 5  # what was complete is scored anew


def test_a_data_set_in_an_object_store_is_scored_into_one(tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    monkeypatch.setattr("inter2former_deploy.apps.batch.scoring.TOGETHER", 1)
    system = fsspec.filesystem("memory")
    system.store.clear()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))  # other tests have copies, too
    bundle, data = write_toy_bundle(tmp_path / "bundle"), write_squares(tmp_path / "data")
    (data / "masks/torn.png").write_bytes(b"torn")
    shutil.copy(data / "images/0.png", data / "images/torn.png")
    system.put(str(data), "/scored/data", recursive=True)
    common = ["--bundle", str(bundle), "--clicks", "3", "--no-custom-ops", "--save-worst", "1", "-o"]
    here = CliRunner().invoke(app, ["eval", str(data), *common, str(tmp_path / "out")])
    there = CliRunner().invoke(app, ["eval", "memory://scored/data/", *common, "memory://scored/out"])
    assert (here.exit_code, there.exit_code) == (1, 1), there.output  # for the torn mask
    assert "memory://scored/data/masks/torn.png: not a readable image" in there.output
    written = {path.removeprefix("/scored/out/"): system.cat_file(path) for path in system.find("/scored/out")}
    assert written.keys() == {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert written["eval.png"][:4] == b"\x89PNG"
    reports = [json.loads((tmp_path / "out/eval.json").read_text()), json.loads(written["eval.json"])]
    results = [[(r["name"], r["clicks"], r["ious"]) for r in report["64"]["results"]] for report in reports]
    assert results[0] == results[1]
    assert len(results[0]) == 2
    assert not list((tmp_path / "temporary").glob("i2f-*/data")), "the copy is still there"
    system.pipe_file("/scored/bad/images/../../x.png", b"")
    refused = CliRunner().invoke(app, ["eval", "memory://scored/bad", *common, str(tmp_path / "bad")])
    assert "is no path below it" in str(refused.exception)
    system.store.clear()


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
    assert result.exit_code == 0
    assert "passed over: 1 masks without an object: images/1.png" in result.output
    assert json.loads((tmp_path / "out/eval.json").read_text())["64"]["passed over"] == {EMPTY: ["images/1.png"]}
    assert CliRunner().invoke(app, [*command, "--strict"]).exit_code == 1
    (data / "masks/1.png").write_bytes(b"torn")
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "not scored: " in result.output
    assert "1.png: not a readable image" in result.output


def test_the_command_looks_first_at_what_it_can_know(tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("inter2former_deploy.apps.evaluation.models.open_bundle_model", never)
    data = write_squares(tmp_path / "data")
    (tmp_path / "file").write_text("")
    (tmp_path / "photo.jpg").write_bytes((data / "images/0.png").read_bytes())
    for arguments, text in (
        ([str(data), "-o", str(tmp_path / "file")], "cannot write there"),
        ([str(tmp_path / "nothing")], "and neither a folder nor a JSON file"),
        ([str(tmp_path / "photo.jpg")], "a picture, not a dataset"),
        ([str(data), "--split", "val"], "no samples of the split val"),
        ([str(data), "--group", "x"], "no samples of the group x"),
    ):
        command = ["eval", *arguments, "--bundle", str(tmp_path / "bundle")]
        command += [] if "-o" in arguments else ["-o", str(tmp_path / "out")]
        result = CliRunner().invoke(app, command)
        assert isinstance(result.exception, ValueError | OSError), result.output
        assert text in str(result.exception)


def test_without_matplotlib_scores_are_printed_and_written(tmp_path, monkeypatch):
    bundle = write_toy_bundle(tmp_path / "bundle")
    data = write_squares(tmp_path / "data")
    command = [
        "eval",
        str(data),
        "--bundle",
        str(bundle),
        "--clicks",
        "3",
        "--no-custom-ops",
        "-o",
        str(tmp_path / "out"),
    ]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert (tmp_path / "out/eval.png").is_file()
    shutil.rmtree(tmp_path / "out")
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    real = importlib.util.find_spec
    monkeypatch.setattr(evaluate_command, "find_spec", lambda name: None if name == "matplotlib" else real(name))
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "no plot will be made: pip install 'inter2former-deploy[eval]'" in result.stderr
    assert "| all at 64 | 2 |" in result.stdout
    assert json.loads((tmp_path / "out/eval.json").read_text())["64"]["scores"]["all"]["samples"] == 2
    assert not (tmp_path / "out/eval.png").exists()
    assert "matplotlib" not in sys.modules


def test_the_command_says_how_it_read_the_files(tmp_path):
    bundle = write_toy_bundle(tmp_path / "bundle")
    data = write_squares(tmp_path / "data/test")
    write_squares(tmp_path / "data/train")
    (data / "images/._0.png").write_bytes(b"")
    shutil.copy(data / "images/0.png", data / "images/lonely.png")
    command = ["eval", str(tmp_path / "data"), "--bundle", str(bundle), "--clicks", "3", "--no-custom-ops"]
    command += ["-o", str(tmp_path / "out")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    for text in (
        "4 objects; colours as they are stored, as the authors' code reads them",
        "splits, of which no score mixes two (--split takes one): test (2), train (2)",
        "passed over: 1 pictures without a mask: test/images/lonely.png",
        "ignored: 1 hidden files and folders: test/images/._0.png",
    ):
        assert text in result.stderr
    assert "| test at 64 | 2 |" in result.stdout
    assert "| train at 64 | 2 |" in result.stdout
    assert "all at 64" not in result.stdout
    result = CliRunner().invoke(app, [*command, "--split", "test", "--convert-colours"])
    assert "2 objects; colours converted to sRGB by their profiles" in result.stderr
    assert "| all at 64 | 2 |" in result.stdout


def test_colours_are_converted_if_asked_for(tmp_path, monkeypatch):
    data = write_squares(tmp_path / "data")
    asked = []

    def read(path, *, convert_colours):
        asked.append(convert_colours)
        return read_image(path, convert_colours=convert_colours)

    monkeypatch.setattr("inter2former_deploy.data.sample.read_picture", read)
    for convert in (False, True):
        assert open_dataset(data, convert_colours=convert)[0].image.shape == (48, 64, 3)
    assert asked == [False, True]
