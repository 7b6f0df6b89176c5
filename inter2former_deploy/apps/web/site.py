"""The site: the page's own files, a bundle with one decoder, onnxruntime-web."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from inter2former_deploy.apps.web import onnxruntime
from inter2former_deploy.core.files import replacing_folder
from inter2former_deploy.runtime.bundle import read_bundle

STATIC = Path(__file__).parent / "static"


def write_site(bundle: Path, folder: Path, *, decoder: str | None = None, archive: Path | None = None) -> None:
    """Write a folder that any web server can hand out.

    Args:
        bundle: what `i2f export` wrote.
        folder: to be made.
        decoder: the one that the page uses; the first of the bundle when None.
        archive: of onnxruntime-web, see `onnxruntime.copy_files`.

    Raises:
        BundleError: the bundle is incomplete, changed or newer than this package.
        ValueError: it has no such decoder, or the archive is another one.
        OSError: a file cannot be fetched or written.
    """
    opened = read_bundle(bundle, decoder)
    manifest = opened.manifest
    chosen = manifest.decoder(decoder)
    opened.check_files(chosen)
    (name,) = (name for name, entry in manifest.decoders.items() if entry is chosen)
    with replacing_folder(folder) as unfinished:
        shutil.copytree(STATIC, unfinished, ignore=shutil.ignore_patterns("package.json"), dirs_exist_ok=True)
        (unfinished / "onnxruntime").mkdir()
        onnxruntime.copy_files(unfinished / "onnxruntime", archive)
        graphs = unfinished / "bundle"
        graphs.mkdir()
        for graph in (manifest.encoder.graph, chosen.prepare, chosen.click):
            (graphs / graph.file).parent.mkdir(exist_ok=True)
            for file in (graph.file, graph.weights_file):
                if file is not None:
                    shutil.copyfile(bundle / file, graphs / file)
        replace(manifest, decoders={name: chosen}).write(graphs)
