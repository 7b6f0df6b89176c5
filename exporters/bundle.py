"""A bundle from a checkpoint: the three graphs, verified, and the manifest that ties them together."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

import onnx
from onnx.external_data_helper import set_external_data
from torch import nn

from inter2former_deploy import families
from inter2former_deploy.core import library
from inter2former_deploy.core.contract import DECODER_FILES, ENCODER_FILE, GraphName, inline_file, weights_file
from inter2former_deploy.core.errors import BundleError, CheckpointError, ExportMismatchError
from inter2former_deploy.core.files import check_new_bundle, check_space, failed_folder
from inter2former_deploy.core.manifest import (
    DecoderEntry,
    DecoderPrecision,
    EncoderEntry,
    GraphEntry,
    Manifest,
    Precision,
    check_name,
    sha256,
)
from inter2former_deploy.exporters.agreement import AgreementReport, check_agreement
from inter2former_deploy.exporters.bodies import check_opset, inline_bodies
from inter2former_deploy.exporters.graphs import DEFAULT_OPSET, export_model
from inter2former_deploy.exporters.half import store_half
from inter2former_deploy.exporters.parity import OPERATORS, PLAIN, Graphs, ParityReport
from inter2former_deploy.exporters.precision import (
    has_edges_in_bf16,
    reduce_click,
    reduce_precision,
    reduce_preparation,
)
from inter2former_deploy.families.checkpoint import (
    bundled_weights,
    load_checkpoint,
    not_finite,
    synthetic_state_dict,
)
from inter2former_deploy.families.config import Config, read_config

DEFAULT_SIZE = 1024
DEFAULT_SEED = 7  # of synthetic weights
# In another precision: what is not in float32 is in float32 here, while it is verified.
REFERENCE_FILES: dict[GraphName, str] = {name: f"{name}.fp32.onnx" for name in ("encoder", "prepare", "click")}
SPACE_FOR_REST = 32_000_000  # bytes of a bundle beside the weights: constants, both forms of the operators, the report
PROTOBUF_LIMIT = (1 << 31) - 1  # bytes of one file
APART_FROM = 1 << 26  # bytes of weights that are written beside their graph
APART_EACH = 1 << 12  # of a tensor, at least; smaller ones stay in the graph
ALIGNMENT = 1 << 12  # of a tensor beside its graph: a page of memory, so that it can be used where it is mapped

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an export made."""

    folder: Path
    manifest: Manifest
    decoder: str  # the name of what was exported
    parity: ParityReport
    agreement: AgreementReport | None  # with the float32 encoder, in another precision
    seconds: dict[str, float]  # by step, without the gate's


def export_bundle(
    checkpoint: str | Path | nn.Module | None,
    folder: str | Path,
    *,
    name: str | None = None,
    config: Config | None = None,
    size: int = DEFAULT_SIZE,
    edge_rule: str | None = None,
    opset: int = DEFAULT_OPSET,
    precision: Precision = "fp32",
    decoder_precision: DecoderPrecision = "fp32",
    min_iou: float | None = None,
    seed: int = DEFAULT_SEED,
    custom_ops: bool = True,
    inline: bool = False,
    force: bool = False,
    keep_failed: bool = False,
    num_threads: int | None = None,
    progress: Progress = lambda _: None,
) -> ExportReport:
    """Export a model as a bundle and verify it; the folder appears only when all is well.

    Args:
        checkpoint: A file that `load_checkpoint` reads, or a model; None for the bundled weights, or with a `config`
            for seeded synthetic ones.
        folder: Where the bundle goes; its parent must exist.
        name: Of the decoder in the bundle; its configuration's when None.
        config: The configuration that a checkpoint must fit or synthetic weights are made for.
        size: S, the model resolution, pixels, a multiple of 16.
        edge_rule: Which tokens get full attention; the configuration's own when None.
        opset: Version of the standard operators.
        precision: Of the encoder's layers; with either, the edge network is in bf16 where masks agree so, too.
        decoder_precision: Of attention, experts and upsampling of a click.
        min_iou: With another precision than "fp32": how well masks must agree with float32's, mean IoU 0-1;
            `agreement.MIN_IOU` when None.
        seed: Of synthetic weights.
        custom_ops: Verify with the operator library, too; without it the manifest says that nobody did.
        inline: Write the graphs a second time, without functions, for runtimes that know none
            (docs/other-runtimes.md).
        force: Replace a bundle that is there.
        keep_failed: Leave the bundle of a failed export in `<folder>.failed`: `verify_bundle` and `i2f info` take it,
            a Segmenter does not.
        num_threads: Of onnxruntime in the verification; as many as this process may keep busy when None.
        progress: Told what comes next.

    Raises:
        ExportMismatchError: The graphs do not compute what PyTorch computes, or masks of the reduced precision differ
            too much from float32's; carries the `ParityReport` or `AgreementReport`.
        CheckpointError: The checkpoint is unreadable or does not fit.
        OperatorLibraryError: The operator library is missing or does not load.
        FileExistsError: There is something in the folder that may not be replaced.
        FileNotFoundError: The folder's parent does not exist.
        ValueError: A setting is out of range, or the graphs are too large for ONNX files.
    """
    folder = Path(folder)
    _check_settings(opset, custom_ops)
    _check_precision(precision, decoder_precision, min_iou)
    check_new_bundle(folder, force=force, keep_failed=keep_failed)
    steps = _Steps(progress)
    model, weights = steps.load_weights(checkpoint, config=config, edge_rule=edge_rule, seed=seed)
    name = _name(name, model)
    families.interface(model.config.family).graph_tensors(model.config, size)  # checks the size
    kept = 1 if precision == "fp32" else 2  # encoders, while they are compared
    check_space(folder, kept * _nbytes(model) + SPACE_FOR_REST, "the bundle")
    with _working(folder) as working:
        manifest = write_bundle(
            working,
            model,
            size=size,
            name=name,
            opset=opset,
            precision=precision,
            decoder_precision=decoder_precision,
            inline=inline,
            weights=weights,
            reference=working,
            steps=steps,
        )
        reference = _reference_in(working, manifest, name)
        gate = min_iou, custom_ops, num_threads, steps.verify
        compared = _compare(model, working, manifest, name, reference, *gate)
        manifest, compared = _spare_edges(model, working, manifest, name, reference, compared, gate, inline)
        return _finish(working, folder, manifest, name, compared, steps, keep_failed=keep_failed)


def add_decoder(
    checkpoint: str | Path | nn.Module | None,
    folder: str | Path,
    *,
    name: str | None = None,
    opset: int = DEFAULT_OPSET,
    decoder_precision: DecoderPrecision = "fp32",
    min_iou: float | None = None,
    custom_ops: bool = True,
    inline: bool = False,
    keep_failed: bool = False,
    num_threads: int | None = None,
    progress: Progress = lambda _: None,
    **settings: Any,
) -> ExportReport:
    """Export a model's decoder into a bundle that has its encoder, and verify it; replaces a decoder of the same name.

    The encoder stays as it is, and with it the encoded images that were saved. The bundle changes only when all is
    well.

    Size and precision are those of the bundle; all else is as of `export_bundle`.

    Args:
        checkpoint: Whose decoder; its encoder must be the bundle's.
        folder: The bundle.
        name: As of `export_bundle`, and so the others.
        opset: Version of the standard operators.
        decoder_precision: As of `export_bundle`.
        min_iou: In reduced precision.
        custom_ops: Verify with the operator library, too.
        inline: Write the graphs a second time, without functions.
        keep_failed: Leave the bundle of a failed export in `<folder>.failed`.
        num_threads: Of onnxruntime in the verification.
        progress: Told what comes next.
        **settings: `config`, `edge_rule` and `seed`, which choose weights as in `load_weights`.

    Raises:
        BundleError: The bundle is incomplete, changed, or of another version.
        ValueError: The model's encoder is not the bundle's, or as of `export_bundle`.
        ExportMismatchError, CheckpointError, OperatorLibraryError: As of `export_bundle`.
    """
    folder = Path(folder)
    _check_settings(opset, custom_ops)
    before = _read_whole(folder)
    precision = before.encoder.precision
    _check_precision(precision, decoder_precision, min_iou)
    check_new_bundle(folder, force=True, keep_failed=keep_failed)
    steps = _Steps(progress)
    model, weights = steps.load_weights(checkpoint, **settings)
    name = _name(name, model)
    if model.config.family != before.family or weights_sha256(model) != before.encoder.weights_sha256:
        raise ValueError(
            f"the encoder of {weights.get('file', 'this model')} is not that of {folder}: their weights differ. A "
            "bundle holds decoders of one encoder: export a bundle of its own with -o"
        )
    check_space(folder, 2 * _nbytes(model) + SPACE_FOR_REST, "the bundle")
    with _working(folder) as working:
        for file in before.files():
            if not file.startswith(f"{name}/"):
                _link(folder / file, working / file)
        precisions = precision, decoder_precision
        entry = _write_decoder(working, model, before.size, name, opset, precisions, inline, weights, working, steps)
        manifest = replace(before, decoders=before.decoders | {name: entry})
        _export_reference(model, working, manifest, name, ["encoder"], progress)
        reference = _reference_in(working, manifest, name)
        gate = min_iou, custom_ops, num_threads, steps.verify
        compared = _compare(model, working, manifest, name, reference, *gate)
        manifest, compared = _spare_edges(model, working, manifest, name, reference, compared, gate, inline)
        return _finish(working, folder, manifest, name, compared, steps, keep_failed=keep_failed)


def write_bundle(
    folder: Path,
    model: Any,
    *,
    size: int,
    name: str | None = None,
    opset: int = DEFAULT_OPSET,
    precision: Precision = "fp32",
    decoder_precision: DecoderPrecision = "fp32",
    inline: bool = False,
    weights: dict[str, Any] | None = None,
    reference: Path | None = None,
    steps: _Steps | None = None,
) -> Manifest:
    """Write a whole bundle that nobody has verified.

    Args:
        folder: That is there.
        model: Of any family, in evaluation mode.
        size: As of `export_bundle`, and so the others.
        name: Of the decoder.
        opset: Version of the standard operators.
        precision: As of `export_bundle`, and so the next.
        decoder_precision: Of the click.
        inline: Write the graphs a second time, without functions.
        weights: Where they come from.
        reference: Folder for `REFERENCE_FILES`, in another precision.
        steps: Announce what is done.
    """
    steps = steps or _Steps(lambda _: None)
    family = model.config.family
    of_family = families.interface(family)
    with steps("export encoder"):
        encoder = export_model(model, "encoder", size=size, opset=opset)
    if precision != "fp32":
        if reference is not None:
            _save(encoder, reference / REFERENCE_FILES["encoder"])
        with steps(f"encoder in {precision}"):
            encoder = reduce_precision(encoder, precision)
    tensors = of_family.graph_tensors(model.config, size)
    graph = _write_graph(folder, ENCODER_FILE, encoder, tensors["encoder"], opset, inline)
    del encoder
    name = _name(name, model)
    precisions = precision, decoder_precision
    manifest = Manifest(
        family=family,
        size=size,
        encoder=EncoderEntry(
            graph=graph, weights_sha256=weights_sha256(model), kept=list(of_family.KEPT), precision=precision
        ),
        decoders={
            name: _write_decoder(folder, model, size, name, opset, precisions, inline, weights or {}, reference, steps)
        },
        preprocessing=of_family.preprocessing(),
        prompts=of_family.prompts(),
        postprocessing=of_family.postprocessing(),
    )
    manifest.write(folder)
    return manifest


def verify_bundle(
    folder: str | Path,
    checkpoint: str | Path | nn.Module | None = None,
    *,
    decoder: str | None = None,
    custom_ops: bool = True,
    num_threads: int | None = None,
    progress: Progress = lambda _: None,
) -> ParityReport:
    """Run the parity gate on a bundle again.

    Args:
        folder: The bundle.
        checkpoint: The weights that it was exported from, or the model; None where they are bundled, or synthetic and
            made again.
        decoder: Which of its decoders; the first when None.
        custom_ops: Compare with the operator library, too.
        num_threads: Of onnxruntime; as many as this process may keep busy when None.
        progress: Told what comes next.

    Raises:
        BundleError: The bundle is incomplete, changed, or of another version.
        CheckpointError: The checkpoint is unreadable or does not fit.
        OperatorLibraryError: The operator library is missing or does not load.
        ValueError: The checkpoint is not the one that the bundle was exported from, or is needed and not given; or
            there is no such decoder.
    """
    folder = Path(folder)
    manifest = _read_whole(folder)
    stated = manifest.decoder(decoder)
    progress("read weights")
    model = load_exported(stated, checkpoint)
    min_iou = (stated.agreement or {}).get("min_iou")
    with tempfile.TemporaryDirectory() as work:
        _export_reference(model, Path(work), manifest, decoder, list(REFERENCE_FILES), progress)
        reference = _reference_in(Path(work), manifest, decoder, folder)
        parity, agreement = _compare(
            model, folder, manifest, decoder, reference, min_iou, custom_ops, num_threads, progress, always=True
        )
    return parity if agreement is None else replace(parity, checks=(*parity.checks, agreement.check()))


def weights_sha256(model: Any) -> str:
    """What tells encoders apart: of the weights and the configuration of a model's encoder, hexadecimal."""
    prefix = families.graphs(model.config.family).ENCODER
    digest = hashlib.sha256(json.dumps(model.config.to_dict()["encoder"], sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(prefix):
            array = tensor.detach().contiguous().numpy()
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.data)
    return digest.hexdigest()


def load_weights(
    checkpoint: str | Path | nn.Module | None,
    *,
    config: Config | None = None,
    edge_rule: str | None = None,
    seed: int = DEFAULT_SEED,
) -> tuple[Any, dict[str, Any]]:
    """A model in evaluation mode, and where its weights come from, as the manifest says it.

    Args:
        checkpoint: A file that `load_checkpoint` reads, or a model, which is not changed; None for the bundled
            weights, or with a `config` for synthetic ones.
        config: The configuration; the checkpoint's own when None.
        edge_rule: Which tokens get full attention; the configuration's own when None.
        seed: Of synthetic weights.

    Raises:
        CheckpointError: The checkpoint is unreadable or does not fit.
    """
    weights: dict[str, Any]
    chosen: Any = config
    if isinstance(checkpoint, nn.Module):
        chosen = config or checkpoint.config
        state, weights = checkpoint.state_dict(), {"source": "a model in memory"}
        if problem := not_finite(state):
            raise CheckpointError(f"the model holds weights that are no numbers: {problem}")
    elif checkpoint is None and config is not None:
        state, weights = synthetic_state_dict(config, seed), {"source": "synthetic", "seed": seed}
    else:
        path = bundled_weights() if checkpoint is None else Path(checkpoint)
        loaded = load_checkpoint(path, config)
        state, chosen = loaded.state_dict, loaded.config
        source = "bundled" if path == bundled_weights() else "checkpoint"
        weights = {"source": source, "file": path.name, "sha256": sha256(path)}
        if loaded.notes:
            weights["notes"] = list(loaded.notes)
    if edge_rule is not None:
        if not hasattr(chosen.decoder, "edge_rule"):
            raise ValueError(f"edge_rule is a choice of Inter2Former's decoder; {chosen.family} has none: leave it out")
        chosen = chosen.with_decoder(edge_rule=edge_rule)
    model = families.graphs(chosen.family).MODEL(chosen)
    model.load_state_dict(state, assign=True)
    return model.eval(), weights


def load_exported(decoder: DecoderEntry, checkpoint: str | Path | nn.Module | None = None) -> Any:
    """The model that a decoder of a bundle was exported from.

    Args:
        decoder: Of the bundle's manifest.
        checkpoint: The weights, or the model; None where they are bundled, or synthetic and made again.

    Raises:
        CheckpointError: The checkpoint is unreadable or does not fit.
        ValueError: The checkpoint is not the one that the bundle was exported from, or is needed and not given.
    """
    stated = decoder.weights
    if checkpoint is None and stated.get("source") == "bundled":
        checkpoint = bundled_weights()
    elif checkpoint is None and stated.get("source") != "synthetic":
        named = stated.get("file", "a model in memory")
        raise ValueError(f"the bundle was exported from {named}: name that checkpoint to compare with it")
    model, weights = load_weights(
        checkpoint, config=read_config(decoder.config), seed=int(stated.get("seed", DEFAULT_SEED))
    )
    if "sha256" in stated and "sha256" in weights and stated["sha256"] != weights["sha256"]:
        raise ValueError(f"{checkpoint} is not the checkpoint that the bundle was exported from: their SHA-256 differ")
    return model


def tool_versions() -> dict[str, str]:
    """Of everything that takes part in an export."""
    found = {"python": platform.python_version(), "platform": f"{sys.platform} {platform.machine()}"}
    for package in ("inter2former-deploy", "torch", "onnx", "onnxscript", "onnxruntime", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


class _Steps:
    """Announces and times the steps of an export."""

    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self.progress = progress

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        self.progress(what)
        start = time.perf_counter()
        yield
        self.seconds[what] = round(time.perf_counter() - start, 3)

    def verify(self, what: str) -> None:
        """Announces a step of the gate, which times itself."""
        self.progress(f"verify: {what}")

    def load_weights(self, checkpoint: str | Path | nn.Module | None, **settings: Any) -> Any:
        """`load_weights`, and what is to be said of them."""
        with self("read weights"):
            model, weights = load_weights(checkpoint, **settings)
        for note in weights.get("notes", ()):
            self.progress(f"{weights['file']}: {note}")
        return model, weights


def _write_decoder(
    folder: Path,
    model: Any,
    size: int,
    name: str,
    opset: int,
    precisions: tuple[Precision, DecoderPrecision],
    inline: bool,
    weights: dict[str, Any],
    reference: Path | None,
    steps: _Steps,
) -> DecoderEntry:
    """The graphs of a decoder in its folder; of those in reduced precision, float32 in that of the reference."""
    (folder / name).mkdir()
    tensors = families.interface(model.config.family).graph_tensors(model.config, size)
    graphs = {}
    for graph, file in DECODER_FILES.items():
        with steps(f"export {graph}"):
            proto = export_model(model, graph, size=size, opset=opset)
        if precisions[graph == "click"] != "fp32":
            if reference is not None:
                _save(proto, reference / REFERENCE_FILES[graph])
            proto = (reduce_click if graph == "click" else reduce_preparation)(proto)
        graphs[graph] = _write_graph(folder, f"{name}/{file}", proto, tensors[graph], opset, inline)
    return DecoderEntry(
        config=model.config.to_dict(),
        prepare=graphs["prepare"],
        click=graphs["click"],
        weights=weights,
        precision=precisions[1],
        tools=tool_versions(),
        differences=list(families.graphs(model.config.family).DIFFERENCES),
    )


def _write_graph(
    folder: Path, file: str, graph: onnx.ModelProto, tensors: dict[str, Any], opset: int, inline: bool
) -> GraphEntry:
    """The files of a graph, in both forms if that is wanted. The graph is changed."""
    store_half(graph)
    forms = {file: graph} | ({inline_file(file): inline_bodies(graph)} if inline else {})
    weights = None
    if sum(len(tensor.raw_data) for tensor in graph.graph.initializer) >= APART_FROM:
        weights = weights_file(file)
        _move_weights([form.graph for form in forms.values()], folder / weights)
    for name, form in forms.items():
        _save(form, folder / name)
    inline_form = inline_file(file) if inline else None
    return GraphEntry(
        file=file,
        sha256=sha256(folder / file),
        opset=opset,
        inline_file=inline_form,
        inline_sha256=None if inline_form is None else sha256(folder / inline_form),
        weights_file=weights,
        weights_sha256=None if weights is None else sha256(folder / weights),
        **tensors,
    )


def _move_weights(forms: Sequence[onnx.GraphProto], path: Path) -> None:
    """Move the weights of a graph into a file of their own, to which all its forms then refer; in place."""
    places: dict[bytes, tuple[int, int]] = {}
    with path.open("wb") as file:
        for tensor in (tensor for form in forms for tensor in form.initializer):
            data = tensor.raw_data
            if len(data) < APART_EACH:
                continue
            digest = hashlib.sha256(data).digest()
            if digest not in places:
                file.write(bytes(-file.tell() % ALIGNMENT))
                places[digest] = file.tell(), len(data)
                file.write(data)
            set_external_data(tensor, path.name, *places[digest])
            tensor.ClearField("raw_data")


def _save(graph: onnx.ModelProto, path: Path) -> None:
    """A file that is the same for the same graph."""
    if graph.ByteSize() > PROTOBUF_LIMIT:
        raise ValueError(f"a graph of {graph.ByteSize() / 1e9:.1f} GB is too large for an ONNX file (2 GB)")
    path.write_bytes(graph.SerializeToString(deterministic=True))


def _reduced_graphs(manifest: Manifest, name: str | None) -> dict[GraphName, bool]:
    """Which graphs of the encoder and a decoder are in reduced precision."""
    encoder = manifest.encoder.precision != "fp32"
    return {"encoder": encoder, "prepare": encoder, "click": manifest.decoder(name).precision != "fp32"}


def _export_reference(
    model: Any, work: Path, manifest: Manifest, name: str | None, graphs: Sequence[GraphName], progress: Progress
) -> None:
    """Exports those of some graphs that the bundle has in reduced precision into a folder, in float32."""
    opset = manifest.encoder.graph.opset or DEFAULT_OPSET
    reduced = _reduced_graphs(manifest, name)
    for graph in graphs:
        if reduced[graph]:
            progress(f"export {graph} in fp32")
            _save(export_model(model, graph, size=manifest.size, opset=opset), work / REFERENCE_FILES[graph])


def _graphs_in(folder: Path, manifest: Manifest, name: str | None) -> dict[GraphName, Path]:
    """The graphs of the encoder and a decoder."""
    decoder = manifest.decoder(name)
    graphs: dict[GraphName, GraphEntry] = {
        "encoder": manifest.encoder.graph,
        "prepare": decoder.prepare,
        "click": decoder.click,
    }
    return {graph: folder / entry.file for graph, entry in graphs.items()}


def _reference_in(work: Path, manifest: Manifest, name: str | None, folder: Path | None = None) -> Graphs:
    """The graphs in float32: those of the bundle (in `work` if there is no `folder`), or `work`'s own."""
    reduced = _reduced_graphs(manifest, name)
    own = {graph: work / REFERENCE_FILES[graph] for graph in reduced if reduced[graph]}
    return Graphs(**_graphs_in(folder or work, manifest, name) | own)


def _compare(
    model: Any,
    folder: Path,
    manifest: Manifest,
    name: str | None,
    reference: Graphs,
    min_iou: float | None,
    custom_ops: bool,
    num_threads: int | None,
    progress: Progress,
    *,
    always: bool = False,
) -> tuple[ParityReport, AgreementReport | None]:
    """The gates: of the graphs, and where these pass (or `always`) of masks in reduced precision."""
    precision = manifest.encoder.precision
    graphs = Graphs(**_graphs_in(folder, manifest, name))
    parity = families.gate(manifest.family).check_parity(
        model,
        reference.encoder,
        reference.prepare,
        reference.click,
        size=manifest.size,
        reduced=graphs,
        precision=precision,
        custom_ops=custom_ops,
        num_threads=num_threads,
        progress=progress,
    )
    if graphs == reference or not (always or parity.passed):
        return parity, None
    agreement = _agreement(model, manifest, name, reference, graphs, min_iou, custom_ops, num_threads, progress)
    return parity, agreement


def _agreement(
    model: Any,
    manifest: Manifest,
    name: str | None,
    reference: Graphs,
    graphs: Graphs,
    min_iou: float | None,
    custom_ops: bool,
    num_threads: int | None,
    progress: Progress,
) -> AgreementReport:
    """The gate of masks in reduced precision."""
    precision = manifest.encoder.precision
    return check_agreement(
        model.config,
        reference,
        graphs,
        precision=manifest.decoder(name).precision if precision == "fp32" else precision,
        size=manifest.size,
        min_iou=min_iou,
        custom_ops=custom_ops,
        num_threads=num_threads,
        progress=progress,
    )


def _spare_edges(
    model: Any,
    working: Path,
    manifest: Manifest,
    name: str,
    reference: Graphs,
    compared: tuple[ParityReport, AgreementReport | None],
    gate: tuple[float | None, bool, int | None, Progress],
    inline: bool,
) -> tuple[Manifest, tuple[ParityReport, AgreementReport | None]]:
    """Where masks disagree, the edge network goes back to float32, and masks are compared again."""
    parity, agreement = compared
    decoder = manifest.decoders[name]
    if agreement is None or agreement.passed or not has_edges_in_bf16(working / decoder.prepare.file):
        return manifest, compared
    gate[-1](f"masks agree to {agreement.mean_iou:.4f}: the edge network goes back to fp32")
    tensors = families.interface(manifest.family).graph_tensors(model.config, manifest.size)["prepare"]
    opset = decoder.prepare.opset or DEFAULT_OPSET
    prepare = _write_graph(working, decoder.prepare.file, onnx.load(reference.prepare), tensors, opset, inline)
    manifest = replace(manifest, decoders=manifest.decoders | {name: replace(decoder, prepare=prepare)})
    graphs = Graphs(**_graphs_in(working, manifest, name))
    return manifest, (parity, _agreement(model, manifest, name, reference, graphs, *gate))


def _finish(
    working: Path,
    folder: Path,
    manifest: Manifest,
    name: str,
    compared: tuple[ParityReport, AgreementReport | None],
    steps: _Steps,
    *,
    keep_failed: bool,
) -> ExportReport:
    """The bundle in its place, with the reports, or an error."""
    for file in REFERENCE_FILES.values():
        (working / file).unlink(missing_ok=True)
    parity, agreement = compared
    judged = replace(
        manifest.decoders[name],
        parity=parity.to_dict(),
        agreement=None if agreement is None else agreement.to_dict(),
    )
    manifest = replace(manifest, decoders=manifest.decoders | {name: judged})
    manifest.write(working)
    if judged.failed:
        left = _keep_failed(working, folder) if keep_failed else None
        if agreement is None:
            raise ExportMismatchError(_failure(parity, left), parity)
        raise ExportMismatchError(agreement.failure(), agreement)
    _move_into_place(working, folder)
    return ExportReport(
        folder=folder, manifest=manifest, decoder=name, parity=parity, agreement=agreement, seconds=steps.seconds
    )


def _read_whole(folder: Path) -> Manifest:
    """The manifest of a bundle whose files are all there and unchanged."""
    manifest = Manifest.read(folder)
    for name, expected in manifest.files().items():
        path = folder / name
        if not path.is_file() or sha256(path) != expected:
            raise BundleError(f"{path} is missing or is not the file of this bundle: export it again")
    return manifest


def _link(source: Path, target: Path) -> None:
    """The same file in another folder; files of a bundle are replaced, never changed."""
    target.parent.mkdir(exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _name(name: str | None, model: Any) -> str:
    name = model.config.name if name is None else name
    check_name(name)
    return str(name)


@contextmanager
def _working(folder: Path) -> Iterator[Path]:
    """A folder beside the place of a bundle, gone in the end unless it was moved."""
    working = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        working.chmod(0o755)  # mkdtemp lets only the owner in
        yield working
    finally:
        shutil.rmtree(working, ignore_errors=True)


def _check_settings(opset: int, custom_ops: bool) -> None:
    check_opset(opset)
    if custom_ops:
        library.library_path()  # before the work begins, not after it


def _check_precision(precision: Precision, of_decoder: DecoderPrecision, min_iou: float | None) -> None:
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
    if of_decoder not in get_args(DecoderPrecision):
        raise ValueError(
            f"decoder_precision must be one of {', '.join(get_args(DecoderPrecision))}, got {of_decoder!r}"
        )
    if min_iou is not None and precision == of_decoder == "fp32":
        raise ValueError("min_iou is a limit of reduced precision: name a precision, too")
    if min_iou is not None and not 0 <= min_iou <= 1:
        raise ValueError(f"min_iou must be 0 to 1, got {min_iou}")


def _nbytes(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def _move_into_place(working: Path, folder: Path) -> None:
    """The new bundle becomes visible in one step; an old one is out of the way just before."""
    if not folder.exists():
        working.replace(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        folder.replace(old)  # onto an empty folder
        working.replace(folder)
    finally:
        if not folder.exists():  # stopped in between
            old.replace(folder)
        shutil.rmtree(old, ignore_errors=True)


def _keep_failed(working: Path, folder: Path) -> Path:
    """Move a bundle that failed beside where it would have been; returns its new place."""
    failed = failed_folder(folder)
    shutil.rmtree(failed, ignore_errors=True)
    working.rename(failed)
    return failed


def _failure(parity: ParityReport, kept: Path | None) -> str:
    """Which tensors are off, how far, compared with what, and what to try."""
    failures = sorted(parity.failures, key=lambda check: -check.excess)
    worst = "; ".join(
        f"{check.tensor} ({check.backend}): {check.measure} {check.value:.3g}, at most {check.limit:.3g}"
        + (f" against {check.against}" if check.against else "")
        + (f" [{check.note}]" if check.note else "")
        for check in failures[:4]
    )
    more = f"; and {len(failures) - 4} more" if len(failures) > 4 else ""
    plain_alone = {check.backend for check in failures} == {PLAIN} and OPERATORS in parity.backends
    operators_alone = {check.backend for check in failures} == {OPERATORS}
    if plain_alone:
        advice = (
            "onnxruntime alone computes this: try another version of onnxruntime than " + parity.tools["onnxruntime"]
        )
    elif operators_alone:
        advice = (
            "only the operator library is off: install it again, look at i2f doctor, or export with --no-custom-ops"
        )
    else:
        advice = "export again; if it stays, report it with the versions that i2f doctor prints"
    examine = f"i2f verify {kept} shows every comparison" if kept else "--keep-failed keeps the bundle for i2f verify"
    return f"the exported graphs differ from PyTorch: {worst}{more}. What to try: {advice}; {examine}"
