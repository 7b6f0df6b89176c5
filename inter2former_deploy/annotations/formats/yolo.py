"""YOLO segmentation: `labels/NAME.txt`, a polygon a line, and `data.yaml` with the classes.

A line holds one polygon: parts and holes of an object are joined by cuts that are walked twice. Filled by the even-odd
rule it gives the same pixels; training code that fills it with OpenCV adds the pixels along its outline and cuts.
"""

from __future__ import annotations

import json

from inter2former_deploy.annotations.formats import Export
from inter2former_deploy.annotations.masks import joined, outlines


def write(export: Export) -> None:
    """Write lines `class x y x y ...`, x and y in parts of width and height, with 9 digits behind the point."""
    for annotated in export.pictures:
        picture = annotated.picture
        lines = []
        for entry in export.filled(annotated):
            rings = [ring for outline in outlines(entry.mask) for ring in (outline.ring, *outline.holes)]
            shares = joined(rings) / (picture.width, picture.height)
            numbers = " ".join(f"{value:.9f}" for value in shares.ravel().tolist())
            lines.append(f"{export.class_index(entry)} {numbers}\n")
        export.path("labels", picture.name, ".txt").write_text("".join(lines), encoding="ascii")
    names = "".join(f"  {number}: {json.dumps(entry.name)}\n" for number, entry in enumerate(export.classes))
    text = f"path: .\ntrain: images\nval: images\nnames:\n{names}"
    (export.folder / "data.yaml").write_text(text, encoding="utf-8")
