"""Index PNG as Pascal VOC has them: `SegmentationClass/` and `SegmentationObject/`; later objects lie above."""

from __future__ import annotations

import numpy as np

from inter2former_deploy.annotations.formats import OVERLAPS, Export, colour_of
from inter2former_deploy.annotations.formats.png import write_png

MOST = 254  # ids of a picture or classes; 255 is void


def write(export: Export) -> None:
    """Write two files a picture, and `labels.txt` with the classes from 1 on; class colours are the project's."""
    if len(export.classes) > MOST:
        raise ValueError(f"an index PNG holds {MOST} classes, the project has {len(export.classes)}: export coco")
    of_classes = [0, 0, 0, *(int(entry.colour[i : i + 2], 16) for entry in export.classes for i in (1, 3, 5))]
    of_objects = [int(colour_of(number)[i : i + 2], 16) for number in range(256) for i in (1, 3, 5)]
    for annotated in export.pictures:
        picture = annotated.picture
        if len(annotated.objects) > MOST:
            raise ValueError(
                f"an index PNG holds {MOST} objects, {picture.name} has {len(annotated.objects)}: export png or coco"
            )
        classes = np.zeros((picture.height, picture.width), np.uint8)
        ids = np.zeros_like(classes)
        for number, entry in enumerate(annotated.objects, 1):
            mask = entry.mask.mask()
            classes[mask] = export.class_index(entry) + 1
            ids[mask] = number
        for number, entry in enumerate(annotated.objects, 1):
            if np.count_nonzero(ids == number) < entry.mask.area:
                export.notes.add(OVERLAPS, f"{picture.name}#{number}")
        write_png(export.path("SegmentationClass", picture.name, ".png"), classes, of_classes)
        write_png(export.path("SegmentationObject", picture.name, ".png"), ids, of_objects)
    names = ["background", *(entry.name for entry in export.classes)]
    (export.folder / "labels.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
