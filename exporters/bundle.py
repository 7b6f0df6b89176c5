"""A bundle from a checkpoint: both graphs, verified, and the manifest that ties them together."""

from __future__ import annotations

import hashlib
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

import onnx

from inter2former_deploy.core import library
from inter2former_deploy.core.contract import DECODER_FILE, ENCODER_FILE, INLINE_FILES
from inter2former_deploy.core.errors import BundleError, CheckpointError, ExportMismatchError
from inter2former_deploy.core.files import check_new_bundle, check_space, failed_folder
from inter2former_deploy.core.manifest import BUNDLE_ID_KEY, Manifest, Precision, sha256
from inter2former_deploy.exporters.agreement import AgreementReport, check_agreement
from inter2former_deploy.exporters.bodies import check_opset, inline_bodies
from inter2former_deploy.exporters.graphs import DEFAULT_OPSET, decoder_shapes, export_decoder, export_encoder
from inter2former_deploy.exporters.parity import OPERATORS, PLAIN, ParityReport, check_parity
from inter2former_deploy.exporters.precision import reduce_precision
from inter2former_deploy.families.checkpoint import (
    bundled_weights,
    load_checkpoint,
    not_finite,
    synthetic_state_dict,
)
from inter2former_deploy.families.inter2former.config import EdgeRule, ModelConfig
from inter2former_deploy.families.inter2former.modules.model import Inter2Former

DEFAULT_SIZE = 1024
DEFAULT_SEED = 7  # of synthetic weights
REFERENCE_FILE = "encoder.fp32.onnx"  # beside an encoder in another precision, while it is verified
SPACE_FOR_REST = 32_000_000  # bytes of a bundle beside the weights: constants, both forms of the operators, the report
PROTOBUF_LIMIT = (1 << 31) - 1  # bytes of one file

DIFFERENCES = (
    "Canny direction bins come from comparisons, as ONNX has no Atan2; on a zero vertical gradient the release's bin "
    "depends on the sign of that zero, here it does not",
    "edge tokens are found in integers; the release compares float32 rounding errors, which gives the same tokens",
    "edge features enter each upsampling stage already convolved, once an image; equal but for rounding",
)


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an export made."""

    folder: Path
    manifest: Manifest
    parity: ParityReport
    agreement: AgreementReport | None  # with the float32 encoder, in another precision
    seconds: dict[str, float]  # by step, without the gate's


def export_bundle(
    checkpoint: str | Path | Inter2Former | None,
    folder: str | Path,
    *,
    config: ModelConfig | None = None,
    size: int = DEFAULT_SIZE,
    edge_rule: EdgeRule | None = None,
    opset: int = DEFAULT_OPSET,
    precision: Precision = "fp32",
    min_iou: float | None = None,
    seed: int = DEFAULT_SEED,
    custom_ops: bool = True,
    inline: bool = False,
    force: bool = False,
    keep_failed: bool = False,
    num_threads: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> ExportReport:
    """Export a model as a bundle and verify it; the folder appears only when all is well.

    Args:
        checkpoint: A file that `load_checkpoint` reads, or a model; None for the bundled weights, or with a `config`
            for seeded synthetic ones.
        folder: Where the bundle goes; its parent must exist.
        config: The configuration that a checkpoint must fit or synthetic weights are made for.
        size: S, the model resolution, pixels, a multiple of 16.
        edge_rule: Which tokens get full attention; the configuration's own when None.
        opset: Version of the standard operators.
        precision: Of the encoder's linear layers.
        min_iou: With another precision than "fp32": how well masks must agree with float32's, mean IoU 0-1;
            `agreement.MIN_IOU` when None.
        seed: Of synthetic weights.
        custom_ops: Verify with the operator library, too; without it the manifest says that nobody did.
        inline: Write the graphs a second time, without functions (`contract.INLINE_FILES`), for runtimes that know
            none (docs/other-runtimes.md).
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
    check_opset(opset)
    _check_precision(precision, min_iou)
    if edge_rule is not None and edge_rule not in get_args(EdgeRule):
        raise ValueError(f"edge_rule must be one of {', '.join(get_args(EdgeRule))}, got {edge_rule!r}")
    check_new_bundle(folder, force=force, keep_failed=keep_failed)
    if custom_ops:
        library.library_path()  # before the work begins, not after it
    steps = _Steps(progress)
    with steps("read weights"):
        model, weights = load_weights(checkpoint, config=config, edge_rule=edge_rule, seed=seed)
    for note in weights.get("notes", ()):
        progress(f"{weights['file']}: {note}")
    decoder_shapes(model.config, size)  # checks the size
    kept = 1 if precision == "fp32" else 2  # encoders, while they are compared
    check_space(folder, kept * _nbytes(model) + SPACE_FOR_REST, "the bundle")
    working = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with steps("export encoder"):
            encoder = export_encoder(model, size=size, opset=opset)
        with steps("export decoder"):
            decoder = export_decoder(model, size=size, opset=opset)
        reference = working / ENCODER_FILE
        if precision != "fp32":
            reference = working / REFERENCE_FILE
            reference.write_bytes(encoder.SerializeToString())
            with steps(f"encoder in {precision}"):
                encoder = reduce_precision(encoder, precision)
        with steps("write graphs"):
            bundle_id = _write_graphs(working, encoder, decoder, inline=inline)
        del encoder, decoder
        parity = check_parity(
            model,
            reference,
            working / DECODER_FILE,
            size=size,
            reduced=None if precision == "fp32" else (working / ENCODER_FILE, precision),
            custom_ops=custom_ops,
            num_threads=num_threads,
            progress=lambda what: progress(f"verify: {what}"),
        )
        agreement = None
        if precision != "fp32" and parity.passed:
            agreement = check_agreement(
                reference,
                working / ENCODER_FILE,
                working / DECODER_FILE,
                precision=precision,
                size=size,
                min_iou=min_iou,
                custom_ops=custom_ops,
                num_threads=num_threads,
                progress=lambda what: progress(f"verify: {what}"),
            )
        (working / REFERENCE_FILE).unlink(missing_ok=True)
        manifest = Manifest(
            size=size,
            config=model.config.to_dict(),
            files={name: sha256(working / name) for name in (ENCODER_FILE, DECODER_FILE)},
            inline_files={name: sha256(working / name) for name in INLINE_FILES.values()} if inline else {},
            bundle_id=bundle_id,
            opset=opset,
            precision=precision,
            weights=weights,
            tools=tool_versions(),
            differences=list(DIFFERENCES),
            parity=parity.to_dict(),
            agreement=None if agreement is None else agreement.to_dict(),
        )
        manifest.write(working)
        working.chmod(0o755)  # mkdtemp lets only the owner in
        if not (parity.passed and (agreement is None or agreement.passed)):
            left = _keep_failed(working, folder) if keep_failed else None
            if agreement is None:
                raise ExportMismatchError(_failure(parity, left), parity)
            raise ExportMismatchError(agreement.failure(), agreement)
        _move_into_place(working, folder)
    finally:
        shutil.rmtree(working, ignore_errors=True)
    return ExportReport(folder=folder, manifest=manifest, parity=parity, agreement=agreement, seconds=steps.seconds)


def verify_bundle(
    folder: str | Path,
    checkpoint: str | Path | Inter2Former | None = None,
    *,
    custom_ops: bool = True,
    num_threads: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> ParityReport:
    """Run the parity gate on a bundle again.

    Args:
        folder: The bundle.
        checkpoint: The weights that it was exported from, or the model; None where they are bundled, or synthetic and
            made again.
        custom_ops: Compare with the operator library, too.
        num_threads: Of onnxruntime; as many as this process may keep busy when None.
        progress: Told what comes next.

    Raises:
        BundleError: The bundle is incomplete, changed, or newer than this package.
        CheckpointError: The checkpoint is unreadable or does not fit.
        OperatorLibraryError: The operator library is missing or does not load.
        ValueError: The checkpoint is not the one that the bundle was exported from, or is needed and not given.
    """
    folder = Path(folder)
    manifest = Manifest.read(folder)
    for name, expected in (manifest.files | manifest.inline_files).items():
        path = folder / name
        if not path.is_file() or sha256(path) != expected:
            raise BundleError(f"{path} is missing or is not the file of this bundle: export it again")
    progress("read weights")
    model = load_exported(manifest, checkpoint)
    encoder, decoder = folder / ENCODER_FILE, folder / DECODER_FILE
    size, precision = manifest.size, manifest.precision

    def compare(encoder: Path, reduced: tuple[Path, Precision] | None = None) -> ParityReport:
        return check_parity(
            model,
            encoder,
            decoder,
            size=size,
            reduced=reduced,
            custom_ops=custom_ops,
            num_threads=num_threads,
            progress=progress,
        )

    if precision == "fp32":
        return compare(encoder)
    with tempfile.TemporaryDirectory() as work:  # the float32 encoder is not in the bundle: it is exported again
        reference = Path(work) / REFERENCE_FILE
        progress("export encoder in fp32")
        reference.write_bytes(
            export_encoder(model, size=size, opset=manifest.opset or DEFAULT_OPSET).SerializeToString()
        )
        parity = compare(reference, (encoder, precision))
        agreement = check_agreement(
            reference,
            encoder,
            decoder,
            precision=precision,
            size=size,
            min_iou=(manifest.agreement or {}).get("min_iou"),
            custom_ops=custom_ops,
            num_threads=num_threads,
            progress=progress,
        )
    return replace(parity, checks=(*parity.checks, agreement.check()))


def load_weights(
    checkpoint: str | Path | Inter2Former | None,
    *,
    config: ModelConfig | None = None,
    edge_rule: EdgeRule | None = None,
    seed: int = DEFAULT_SEED,
) -> tuple[Inter2Former, dict[str, Any]]:
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
    if isinstance(checkpoint, Inter2Former):
        config = config or checkpoint.config
        state, weights = checkpoint.state_dict(), {"source": "a model in memory"}
        if problem := not_finite(state):
            raise CheckpointError(f"the model holds weights that are no numbers: {problem}")
    elif checkpoint is None and config is not None:
        state, weights = synthetic_state_dict(config, seed), {"source": "synthetic", "seed": seed}
    else:
        path = bundled_weights() if checkpoint is None else Path(checkpoint)
        loaded = load_checkpoint(path, config, family="inter2former")
        state, config = loaded.state_dict, loaded.config
        source = "bundled" if path == bundled_weights() else "checkpoint"
        weights = {"source": source, "file": path.name, "sha256": sha256(path)}
        if loaded.notes:
            weights["notes"] = list(loaded.notes)
    if edge_rule is not None:
        config = config.with_decoder(edge_rule=edge_rule)
    model = Inter2Former(config)
    model.load_state_dict(state, assign=True)
    return model.eval(), weights


def load_exported(manifest: Manifest, checkpoint: str | Path | Inter2Former | None = None) -> Inter2Former:
    """The model that a bundle was exported from.

    Args:
        manifest: Of the bundle.
        checkpoint: The weights, or the model; None where they are bundled, or synthetic and made again.

    Raises:
        CheckpointError: The checkpoint is unreadable or does not fit.
        ValueError: The checkpoint is not the one that the bundle was exported from, or is needed and not given.
    """
    stated = manifest.weights
    if checkpoint is None and stated.get("source") == "bundled":
        checkpoint = bundled_weights()
    elif checkpoint is None and stated.get("source") != "synthetic":
        named = stated.get("file", "a model in memory")
        raise ValueError(f"the bundle was exported from {named}: name that checkpoint to compare with it")
    model, weights = load_weights(checkpoint, config=manifest.model_config, seed=int(stated.get("seed", DEFAULT_SEED)))
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

    def __init__(self, progress: Callable[[str], None]) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        self._progress(what)
        start = time.perf_counter()
        yield
        self.seconds[what] = round(time.perf_counter() - start, 3)


def _write_graphs(folder: Path, encoder: onnx.ModelProto, decoder: onnx.ModelProto, *, inline: bool) -> str:
    """Both files, or all four; returns the bundle's id, which is the same for the same graphs and stands in all."""
    digest = hashlib.sha256()
    for graph in (encoder, decoder):
        if graph.ByteSize() > PROTOBUF_LIMIT:
            raise ValueError(f"a graph of {graph.ByteSize() / 1e9:.1f} GB is too large for an ONNX file (2 GB)")
        digest.update(graph.SerializeToString(deterministic=True))
    bundle_id = digest.hexdigest()[:32]
    for name, graph in ((ENCODER_FILE, encoder), (DECODER_FILE, decoder)):
        onnx.helper.set_model_props(graph, {BUNDLE_ID_KEY: bundle_id})
        (folder / name).write_bytes(graph.SerializeToString(deterministic=True))
        if inline:
            (folder / INLINE_FILES[name]).write_bytes(inline_bodies(graph).SerializeToString(deterministic=True))
    return bundle_id


def _check_precision(precision: Precision, min_iou: float | None) -> None:
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
    if min_iou is not None and precision == "fp32":
        raise ValueError("min_iou is a limit of reduced precision: name a precision, too")
    if min_iou is not None and not 0 <= min_iou <= 1:
        raise ValueError(f"min_iou must be 0 to 1, got {min_iou}")


def _nbytes(model: Inter2Former) -> int:
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
