"""A bundle, loaded: opens images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from threading import Lock

import numpy as np
import onnxruntime as ort

from inter2former_deploy import library
from inter2former_deploy.contract import DECODER_INPUTS, ENCODER_INPUT, IMAGE_FEATURES
from inter2former_deploy.errors import BundleError
from inter2former_deploy.labels import Labels
from inter2former_deploy.runtime.bundle import Bundle, open_bundle
from inter2former_deploy.runtime.onnx_bytes import keep_outputs
from inter2former_deploy.runtime.postprocess import Box
from inter2former_deploy.runtime.preprocess import Floats, Frame, check_image, model_input
from inter2former_deploy.runtime.session import Session

Features = dict[str, ort.OrtValue]


class Segmenter:
    """Interactive segmentation with one exported model.

    One Segmenter may serve several threads, each with sessions of its own: decodes run side by side on the
    Segmenter's threads; images are encoded one at a time, since each uses all threads and much memory.

    Args:
        bundle: the folder that `i2f export` wrote.
        num_threads: threads an operator may use; as many as the machine has cores when None.
        custom_ops: use the operator library; without it plain onnxruntime gives the same masks, slower.

    Raises:
        BundleError: the bundle is incomplete, changed, mixed, or newer than this package.
        OperatorLibraryError: the operator library is missing or does not load.
        TypeError, ValueError: `num_threads` is no positive whole number.
    """

    def __init__(self, bundle: str | PathLike[str], *, num_threads: int | None = None, custom_ops: bool = True) -> None:
        if num_threads is not None and (isinstance(num_threads, bool) or not isinstance(num_threads, int)):
            raise TypeError(f"num_threads must be a whole number or None, got {num_threads!r}")
        if num_threads is not None and num_threads < 1:
            raise ValueError(f"num_threads must be at least 1, got {num_threads}")
        self.bundle: Bundle = open_bundle(Path(bundle))
        encoder, decoder = self.bundle.encoder, self.bundle.decoder
        self._encoder = _Graph(encoder, encoder, (ENCODER_INPUT,), IMAGE_FEATURES, num_threads, custom_ops)
        # Its working memory is many times what it leaves behind: give it back. A click's is little and used again.
        self._encoder.run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        # Without the map of all logits, which `Session.logits` makes when it is asked for.
        wanted = ("box_logits", "box")
        model = keep_outputs(decoder.read_bytes(), wanted)
        self._decoder = _Graph(decoder, model, DECODER_INPUTS, wanted, num_threads, custom_ops)
        self._encoding = Lock()

    @property
    def size(self) -> int:
        """S, the model resolution: the side of the square that images are scaled into, pixels."""
        return self.bundle.manifest.size

    def open(self, image: np.ndarray) -> Session:
        """Encode an image, once for all its clicks.

        Args:
            image: uint8 RGB, `[H, W, 3]`, any size. It is not kept.

        Returns:
            A session without clicks.

        Raises:
            TypeError: not a uint8 array.
            ValueError: not of shape H x W x 3, or empty; the message says how to convert grey, alpha and the like.
        """
        checked = check_image(image)
        height, width = checked.shape[:2]
        frame = Frame(height, width, self.size)
        picture = model_input(checked, frame)
        with self._encoding:
            features = self._encoder.run({ENCODER_INPUT: ort.OrtValue.ortvalue_from_numpy(picture)})
        return Session(frame, partial(self._decode, features))

    def _decode(self, features: Features, labels: Labels) -> tuple[Box, Floats]:
        # On the CPU an OrtValue views the array and the array the OrtValue: nothing is copied here.
        outputs = self._decoder.run({"labels": ort.OrtValue.ortvalue_from_numpy(labels), **features})
        return Box(*outputs["box"].numpy().tolist()), outputs["box_logits"].numpy()


class _Graph:
    """A graph in onnxruntime: the model of a file, or what was made of it."""

    def __init__(
        self,
        path: Path,
        model: Path | bytes,
        inputs: Sequence[str],
        outputs: Sequence[str],
        num_threads: int | None,
        custom_ops: bool,
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = num_threads or 0  # 0: onnxruntime's choice, the number of cores
        options.log_severity_level = 3  # errors only
        if custom_ops:
            library.register(options)
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            raise BundleError(
                f"onnxruntime {ort.__version__} cannot load {path} ({error}): "
                "update onnxruntime, or export again with this version installed"
            ) from error
        _expect_names(path, "inputs", inputs, [value.name for value in self._session.get_inputs()])
        _expect_names(path, "outputs", outputs, [value.name for value in self._session.get_outputs()])
        self._outputs = list(outputs)
        self.run_options = ort.RunOptions()

    def run(self, feeds: Mapping[str, ort.OrtValue]) -> Features:
        values = self._session.run_with_ort_values(self._outputs, dict(feeds), self.run_options)
        return dict(zip(self._outputs, values, strict=True))


def _expect_names(path: Path, kind: str, expected: Sequence[str], found: Sequence[str]) -> None:
    if missing := [name for name in expected if name not in found]:
        raise BundleError(f"{path} lacks the {kind} {', '.join(missing)}: export again with this version")
