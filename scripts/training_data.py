"""Fetches the pictures that the bundled weights are trained and judged on, and lists them.

    scripts/training-data FOLDER [--packages FOLDER]

The Debian packages are fetched by name with `apt-get download` and unpacked with `dpkg -x`; nothing is installed.
FOLDER then holds `train/` and `judged/`, each with `cutouts/` and `backgrounds/` as `i2f train composites:FOLDER/train`
and `i2f eval composites:FOLDER/judged` take them, and `pictures.csv`: every picture of the packages with its use and
licence. The packages stay in FOLDER/packages, or where --packages says, for the next time.
`scripts/training_pictures.txt` says which is used for what.
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
import subprocess
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

from PIL import Image, ImageOps

LIST = Path(__file__).with_name("training_pictures.txt")
PACKAGES = (
    "tuxpaint-stamps-default",
    "gnome-backgrounds",
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "plasma-workspace-wallpapers",
    "ukui-wallpapers",
    "mate-backgrounds",
    "opencv-doc",
)
FOLDERS = {
    "cutouts": "train/cutouts",
    "backgrounds": "train/backgrounds",
    "judged-cutouts": "judged/cutouts",
    "judged-backgrounds": "judged/backgrounds",
}
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
LONGEST_SIDE = 1600  # of a background: pictures are trained on at 1024 at most


def main() -> None:
    """Fetches, sorts and lists."""
    parser = argparse.ArgumentParser(description="Fetch the pictures of training and judging.")
    parser.add_argument("folder", type=Path, help="What is made.")
    parser.add_argument("--packages", type=Path, help="Folder of the unpacked packages, kept for the next time.")
    arguments = parser.parse_args()
    for name in ("train", "judged"):  # what an earlier list put there could be held out by now
        if (arguments.folder / name).exists():
            parser.error(f"{arguments.folder / name} exists already: remove it, or name another folder")
    packages = arguments.packages or arguments.folder / "packages"
    rules = read_rules(LIST)
    rows = []
    for package in PACKAGES:
        root = fetch(package, packages) / "usr" / "share"
        licences = read_licences(root / "doc" / package / "copyright")
        for path in sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
            name = path.relative_to(root).as_posix()
            use = use_of(rules, package, name)
            if use in FOLDERS:
                put(path, arguments.folder / FOLDERS[use] / package / name, reduced=use.endswith("backgrounds"))
            rows.append((package, name, use, licence_of(licences, name)))
    with (arguments.folder / "pictures.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("package", "file", "use", "licence"))
        writer.writerows(rows)
    for (package, use), count in sorted(Counter((row[0], row[2]) for row in rows).items()):
        print(f"{package}: {count} {use}")


def fetch(package: str, folder: Path) -> Path:
    """The unpacked package, fetched if it is not there."""
    target = folder / package
    if not target.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", package], cwd=folder, check=True)
        (archive,) = folder.glob(f"{package}_*.deb")
        unfinished = folder / f".{package}"
        subprocess.run(["dpkg", "-x", archive, unfinished], check=True)
        unfinished.rename(target)
        archive.unlink()
    return target


def read_rules(path: Path) -> list[tuple[str, str, str]]:
    """Use, package and pattern of every line of the list."""
    lines = (line.split() for line in path.read_text().splitlines())
    return [(use, package, pattern) for use, package, pattern in (line for line in lines if line and line[0] != "#")]


def use_of(rules: list[tuple[str, str, str]], package: str, name: str) -> str:
    """What a picture is used for; of the lines that fit it, the last holds."""
    fitting = [use for use, of, pattern in rules if of == package and fnmatchcase(name, pattern)]
    return fitting[-1] if fitting else "unused"


def put(source: Path, target: Path, *, reduced: bool) -> None:
    """A copy; of a background one that is not larger than it is needed, as PNG."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not reduced:
        shutil.copyfile(source, target)
        return
    with Image.open(source) as file:
        image = ImageOps.exif_transpose(file).convert("RGB")
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    image.save(target.with_suffix(".png"))


def read_licences(path: Path) -> list[tuple[str, str]]:
    """Patterns and licences of a package's copyright file, in its order; of a free text one line for all files."""
    text = path.read_text(errors="replace")
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        files = re.search(r"^Files:((?:.*\n)(?:[ \t].*\n)*)", paragraph + "\n", re.MULTILINE)
        licence = re.search(r"^License:\s*(\S.*)", paragraph, re.MULTILINE)
        if files and licence:
            found += [(pattern, licence[1].strip()) for pattern in files[1].split()]
    if found:
        return found
    named = sorted(set(re.findall(r"CC[- ]BY(?:-SA)?[- ]?[\d.]*\d|CC0|GPL-\d\+?|LGPL-\d", text)))
    return [("*", " and ".join(named) or "see the package's copyright file")]


def licence_of(licences: list[tuple[str, str]], name: str) -> str:
    """Of a file: the last whose pattern fits its path or the end of it, or names it in another folder."""
    parts = name.split("/")
    ends = ["/".join(parts[i:]) for i in range(len(parts))]
    fitting = [
        licence
        for pattern, licence in licences
        if any(fnmatchcase(end, pattern) for end in ends) or pattern.split("/")[-1] == parts[-1]
    ]
    return fitting[-1] if fitting else "not named in the copyright file"


if __name__ == "__main__":
    main()
