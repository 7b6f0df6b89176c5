"""The two halves of scripts/check_formats: `write` exports 200 masks, `read` reads them with the tools themselves."""

from __future__ import annotations

import json
import shutil
import sys
import uuid
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

HEIGHT, WIDTH, COUNT = 60, 80, 200


def write(folder: Path) -> None:
    """One picture for each mask, so that no tool mixes them up."""
    from masks_of_all_kinds import random_masks
    from PIL import Image

    from inter2former_deploy.annotations import formats
    from inter2former_deploy.annotations.project import Class, Draft, Project
    from inter2former_deploy.core.runs import Runs

    (folder / "photos").mkdir(parents=True)
    masks = random_masks(COUNT, HEIGHT, WIDTH)
    for number in range(COUNT):
        pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number:03}.png")
    with Project.open(folder=folder / "photos") as project:
        list(project.scan())
        project.put_classes([Class("thing", "#ff0000")], 0)
        for picture, mask in zip(project.pictures(), masks, strict=True):
            project.add_objects(picture.id, {str(uuid.uuid4()): Draft(class_name="thing", mask=Runs.of(mask))})
        for entry in formats.FORMATS.values():
            formats.export(project, entry.name, folder / entry.name)
            if entry.polygons:
                formats.export(project, entry.name, folder / f"{entry.name}-polygons", polygons=True)
    np.savez_compressed(folder / "masks.npz", masks=np.array(masks))


def read_coco(folder: Path) -> dict[int, np.ndarray]:
    """pycocotools: COCO.annToMask."""
    from pycocotools.coco import COCO

    with redirect_stdout(None):  # it tells of its progress
        data = COCO(folder / "annotations.json")
    return {int(Path(data.imgs[e["image_id"]]["file_name"]).stem): data.annToMask(e) for e in data.anns.values()}


def read_datumaro(kind: str) -> Callable[[Path], dict[int, np.ndarray]]:
    """Datumaro: masks and polygons of its dataset."""

    def read(folder: Path) -> dict[int, np.ndarray]:
        from datumaro.components.annotation import AnnotationType
        from datumaro.components.dataset import Dataset

        source = folder.parent / f"{folder.name}-datumaro"  # it wants pictures, and folders of these names
        shutil.copytree(folder.parent / "photos", source / "images")
        if kind == "coco":
            (source / "annotations").mkdir()
            shutil.copy(folder / "annotations.json", source / "annotations" / "instances_default.json")
        else:
            shutil.copy(folder / "annotations.xml", source)
        found = {}
        for item in Dataset.import_from(str(source), kind):
            union = np.zeros((HEIGHT, WIDTH), bool)
            there = False
            for annotation in item.annotations:
                if annotation.type == AnnotationType.mask:
                    union |= np.asarray(annotation.image) > 0
                    there = True
                elif annotation.type == AnnotationType.polygon:
                    from pycocotools import mask as coco

                    rle = coco.frPyObjects([list(annotation.points)], HEIGHT, WIDTH)
                    union |= coco.decode(coco.merge(rle)).astype(bool)
                    there = True
            if there:
                found[int(Path(item.id).stem)] = union
        return found

    return read


def read_cvat(folder: Path) -> dict[int, np.ndarray]:
    """cvat-sdk: decode_mask of the run lengths with their box."""
    from xml.etree import ElementTree

    from cvat_sdk.masks import decode_mask

    found = {}
    for image in ElementTree.parse(folder / "annotations.xml").getroot().findall("image"):
        for entry in image.findall("mask"):
            left, top, width, height = (int(entry.attrib[name]) for name in ("left", "top", "width", "height"))
            runs = [int(count) for count in entry.attrib["rle"].split(",")]
            points = [*runs, left, top, left + width - 1, top + height - 1]
            found[int(Path(image.attrib["name"]).stem)] = decode_mask(points, image_width=WIDTH, image_height=HEIGHT)
    return found


def read_label_studio(folder: Path) -> dict[int, np.ndarray]:
    """label-studio-sdk: brush.decode_rle, channel 3."""
    from label_studio_sdk.converter.brush import decode_rle

    found = {}
    for task in json.loads((folder / "tasks.json").read_text()):
        (region,) = task["annotations"][0]["result"]
        pixels = decode_rle(region["value"]["rle"]).reshape(HEIGHT, WIDTH, 4)
        found[int(Path(task["data"]["image"]).stem)] = pixels[..., 3]
    return found


def read_labelme(folder: Path) -> dict[int, np.ndarray]:
    """Labelme: its reader of files, and shape_to_mask for polygons."""
    from labelme._label_file import LabelFile
    from labelme.utils import shape_to_mask

    found = {}
    for path in sorted(folder.glob("*.json")):
        (folder / f"{path.stem}.png").write_bytes((folder.parent / "photos" / f"{path.stem}.png").read_bytes())
        shapes = LabelFile(str(path)).shapes
        union = np.zeros((HEIGHT, WIDTH), bool)
        for shape in shapes:
            if shape["shape_type"] == "mask":
                (x0, y0), (x1, y1) = (map(int, point) for point in shape["points"])
                union[y0 : y1 + 1, x0 : x1 + 1] |= np.asarray(shape["mask"]) > 0
            else:
                union |= shape_to_mask((HEIGHT, WIDTH), shape["points"], shape["shape_type"])
        if shapes:
            found[int(path.stem)] = union
    return found


def read_yolo(folder: Path) -> dict[int, np.ndarray]:
    """OpenCV's fillPoly, as training code fills polygons."""
    import cv2

    found = {}
    for path in sorted((folder / "labels").glob("*.txt")):
        for line in path.read_text().splitlines():
            points = np.array(line.split()[1:], float).reshape(-1, 2) * (WIDTH, HEIGHT)
            canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
            found[int(path.stem)] = cv2.fillPoly(canvas, [points.round().astype(np.int32)], 1)
    return found


READERS: list[tuple[str, str, Callable[[Path], dict[int, np.ndarray]]]] = [
    ("coco", "pycocotools", read_coco),
    ("coco-polygons", "pycocotools", read_coco),
    ("coco", "datumaro", read_datumaro("coco")),
    ("coco-polygons", "datumaro", read_datumaro("coco")),
    ("cvat", "datumaro", read_datumaro("cvat")),
    ("cvat", "cvat-sdk", read_cvat),
    ("label-studio", "label-studio-sdk", read_label_studio),
    ("labelme", "labelme", read_labelme),
    ("labelme-polygons", "labelme", read_labelme),
    ("yolo", "opencv-python-headless", read_yolo),
]


def read(folder: Path) -> None:
    """A line for each format and tool."""
    masks = np.load(folder / "masks.npz")["masks"]
    print("| format | read by | exact | different, median IoU | left out |")
    print("|---|---|---|---|---|")
    for name, package, reader in READERS:
        found = reader(folder / name)
        exact, scores = 0, []
        for number, mask in enumerate(masks):
            if number in found:
                one = np.asarray(found[number]) > 0
                if (one == mask).all():
                    exact += 1
                else:
                    scores.append((one & mask).sum() / (one | mask).sum())
        different = f"{len(scores)}, {np.median(scores):.3f}" if scores else "0"
        print(f"| {name} | {package} {_version(package)} | {exact} | {different} | {len(masks) - len(found)} |")


def _version(package: str) -> Any:
    try:
        return version(package)
    except ModuleNotFoundError:
        return ""


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
