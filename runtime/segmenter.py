"""A bundle, loaded: opens images."""

from __future__ import annotations

import ctypes
import math
import textwrap
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from inter2former_deploy.core import library
from inter2former_deploy.core.contract import DECODER_INPUTS, ENCODER_INPUT, IMAGE_FEATURES
from inter2former_deploy.core.errors import BundleError, EncodedImageError, SessionStateError
from inter2former_deploy.core.threads import available_cpus
from inter2former_deploy.families.inter2former.labels import check_labels
from inter2former_deploy.families.inter2former.prompts import LabelMapPrompts
from inter2former_deploy.runtime.bundle import Bundle, read_bundle
from inter2former_deploy.runtime.encoded import EncodedImage, RecentImages, empty_features, picture_key
from inter2former_deploy.runtime.onnx_bytes import keep_outputs
from inter2former_deploy.runtime.postprocess import Box, BoxLogits
from inter2former_deploy.runtime.preprocess import Floats, Frame, Image, check_image, model_input
from inter2former_deploy.runtime.region import Region
from inter2former_deploy.runtime.session import Session
from inter2former_deploy.runtime.state import SessionState

Features = dict[str, ort.OrtValue]


class Segmenter:
    """Interactive segmentation with one exported model.

    One Segmenter may serve several threads, each with sessions of its own: decodes run side by side on the
    Segmenter's threads; images are encoded one at a time, since each uses all threads and much memory.

    A Segmenter is pickled as its arguments: another process, or another machine that has the bundle at the same place,
    loads it anew, with what `num_threads=None` means there. Encoded images that it remembers stay behind.

    Args:
        bundle: the folder that `i2f export` wrote.
        num_threads: threads an operator may use; when None as many as this process may keep busy
            (`threads.available_cpus`: the least of its CPU affinity and its control groups' quota).
        custom_ops: use the operator library; without it plain onnxruntime gives the same masks, slower.
        cache_bytes: memory for encoded images, so that opening one of the last pictures again costs nothing. One
            takes about 41 bytes a pixel of the model's square (`EncodedImage.nbytes`).

    Raises:
        BundleError: the bundle is incomplete, changed, mixed, or newer than this package.
        OperatorLibraryError: the operator library is missing or does not load.
        TypeError, ValueError: `num_threads` is no positive whole number, or `cache_bytes` a negative one.
    """

    def __init__(
        self,
        bundle: str | PathLike[str],
        *,
        num_threads: int | None = None,
        custom_ops: bool = True,
        cache_bytes: int = 0,
    ) -> None:
        _expect_whole("num_threads", 1 if num_threads is None else num_threads, 1)
        _expect_whole("cache_bytes", cache_bytes, 0)
        self._arguments = {"num_threads": num_threads, "custom_ops": custom_ops, "cache_bytes": cache_bytes}
        self.bundle: Bundle = read_bundle(Path(bundle))
        with ThreadPoolExecutor(1) as thread:
            check = thread.submit(self.bundle.check_files)  # while onnxruntime loads the same files
            try:
                self._load(num_threads or available_cpus(), custom_ops)
            finally:
                check.result()  # if it fails, it explains what else may have failed
        self._encoding = Lock()
        self._recent = RecentImages(cache_bytes)

    def __getstate__(self) -> dict[str, Any]:
        return {"bundle": self.bundle.folder.absolute(), **self._arguments}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _load(self, num_threads: int, custom_ops: bool) -> None:
        encoder, decoder = self.bundle.encoder, self.bundle.decoder
        self._encoder = _Graph(
            encoder,
            encoder,
            (ENCODER_INPUT,),
            IMAGE_FEATURES,
            num_threads,
            custom_ops,
            reuse_memory=False,
            spin=False,
        )
        # Its working memory is many times what it leaves behind: give it back. A click's is little and used again.
        self._encoder.run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        # Without the map of all logits, which `Session.logits` makes when it is asked for.
        wanted = ("box_logits", "box")
        model = keep_outputs(decoder.read_bytes(), wanted)
        self._decoder = _Graph(decoder, model, DECODER_INPUTS, wanted, num_threads, custom_ops)
        _give_back_freed_memory()

    @property
    def size(self) -> int:
        """S, the model resolution: the side of the square that images are scaled into, pixels."""
        return self.bundle.manifest.size

    @property
    def encoded_nbytes(self) -> int:
        """Size of any image's encoding, in memory and, but for a header, in a file, bytes."""
        return 4 * sum(map(math.prod, self._encoder.shapes.values()))

    def open(self, image: np.ndarray | EncodedImage, region: Sequence[int] | None = None) -> Session:
        """Begin to segment an image. It is encoded once for all its prompts, unless it is already.

        Args:
            image: uint8 RGB, `[H, W, 3]`, any size. It is not kept. Or what `encode` made of it, with this bundle.
            region: x0, y0, x1, y1, whole pixels of the image, x1 and y1 exclusive: only this window is encoded, so that
                small objects keep their pixels. Prompts and masks stay in the image's frame.

        Returns:
            A session without prompts.

        Raises:
            TypeError: not a uint8 array, or the region is not four whole numbers.
            ValueError: not of shape H x W x 3, or empty; the message says how to convert grey, alpha and the like. The
                region is empty or reaches beyond the image, or the image was encoded with another.
            EncodedImageError: another bundle encoded it.
        """
        if not isinstance(image, EncodedImage):
            encoded = self.encode(image, region)
        else:
            encoded = image
            if region is not None and tuple(region) != encoded.window.sides:
                raise ValueError(
                    f"region {tuple(region)} is not what was encoded of this image, {encoded.window.sides}: encode the "
                    "image with it, or open what was encoded without naming a region"
                )
        origin = self._origin(encoded.picture, encoded.window)
        return Session(encoded.frame, LabelMapPrompts(encoded.frame.size), _Decode(self, encoded), origin)

    def restore(self, image: np.ndarray | EncodedImage, state: object) -> Session:
        """Open an image where another session left off.

        Args:
            image: as in `open`; the one that the other session segmented.
            state: what `Session.state` gave, with this bundle. It may come from anywhere: it is checked.

        Returns:
            A session with the same prompts and masks.

        Raises:
            SessionStateError: this is no state, or one of another bundle or image; the message says which entry.
                Nothing has been computed then.
            TypeError, ValueError, EncodedImageError: as in `open`.
        """
        if isinstance(image, EncodedImage):
            height, width = image.window.picture_height, image.window.picture_width
        else:
            height, width = check_image(image).shape[:2]
        told = SessionState.from_dict(state, height, width)
        self.check_state(image, told)
        session = self.open(image, told.region.sides)
        for prompt in told.prompts:
            session.add(prompt)
        return session

    def check_state(self, image: np.ndarray | EncodedImage, state: SessionState) -> None:
        """Refuse a state of another bundle or image.

        Raises:
            SessionStateError: the message says in what they differ.
        """
        if isinstance(image, EncodedImage):
            key, region = image.picture, image.window
        else:
            key, region = picture_key(check_image(image), state.region), state.region
        here = self._origin(key, region)
        for name, theirs, ours in (
            ("model.family", state.family, here.family),
            ("model.size", state.size, here.size),
            ("model.bundle", state.bundle, here.bundle),
            ("region", state.region.sides, here.region.sides),
            ("image.key", state.key, here.key),
        ):
            if theirs != ours:
                what = "bundle" if name.startswith("model") else "image"
                raise SessionStateError(f"this state is of another {what}: {name} is {theirs}, here {ours}")

    def encode(self, image: np.ndarray, region: Sequence[int] | None = None) -> EncodedImage:
        """Encode an image for `open`: to keep it, or to save it for another time.

        Args:
            image: uint8 RGB, `[H, W, 3]`, any size. It is not kept.
            region: as in `open`.

        Raises:
            TypeError, ValueError: as in `open`.
        """
        checked = check_image(image)
        height, width = checked.shape[:2]
        window = Region.whole(height, width) if region is None else Region.of(region, height, width)
        key = picture_key(checked, window)
        known = self._recent.get(key)
        if known is None:
            with self._encoding:
                known = self._recent.get(key) or self._encode(
                    checked, window, key
                )  # another thread may have encoded it
        return known

    def _encode(self, image: Image, window: Region, key: str) -> EncodedImage:
        part = window.crop(image)
        height, width = part.shape[:2]
        frame = Frame(height, width, self.size)
        picture = ort.OrtValue.ortvalue_from_numpy(model_input(part, frame))
        features = empty_features(self._encoder.shapes)
        self._encoder.run_into(features, {ENCODER_INPUT: picture})
        region = None if window.is_whole else window
        encoded = EncodedImage(frame, features, key, self.bundle.fingerprint, region)
        self._recent.add(encoded)
        return encoded

    def _origin(self, key: str, region: Region) -> SessionState:
        """What a session's state says of model and image."""
        return SessionState("inter2former", self.bundle.fingerprint, self.size, key, region)

    def _check_encoded(self, image: EncodedImage) -> None:
        shapes = {name: array.shape for name, array in image.features.items()}
        if image.bundle != self.bundle.fingerprint or image.frame.size != self.size or shapes != self._encoder.shapes:
            raise EncodedImageError(
                f"this image was encoded with another bundle than {self.bundle.folder} ({image.bundle}, not "
                f"{self.bundle.fingerprint}): encode the picture again with this one, or use the other"
            )

    def _decode(self, features: Features, prompts: Mapping[str, npt.NDArray[Any]]) -> BoxLogits:
        check_labels(prompts["labels"])  # plain onnxruntime does not
        # On the CPU an OrtValue views the array and the array the OrtValue: nothing is copied here.
        values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in prompts.items()}
        outputs = self._decoder.run(values | features)
        return BoxLogits(Box(*outputs["box"].numpy().tolist()), outputs["box_logits"].numpy())


class _Decode:
    """Decodes prompts on one image. It is pickled as what it was made of.

    Raises:
        EncodedImageError: another bundle encoded the image, or in another process the bundle has changed meanwhile.
    """

    def __init__(self, segmenter: Segmenter, image: EncodedImage) -> None:
        segmenter._check_encoded(image)
        self._segmenter, self._image = segmenter, image
        self._features = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in image.features.items()}

    def __call__(self, prompts: Mapping[str, npt.NDArray[Any]]) -> BoxLogits:
        return self._segmenter._decode(self._features, prompts)

    def __reduce__(self) -> tuple[type[_Decode], tuple[Segmenter, EncodedImage]]:
        return type(self), (self._segmenter, self._image)


class _Graph:
    """A graph in onnxruntime: the model of a file, or what was made of it.

    Where `reuse_memory`, onnxruntime plans ahead which tensor takes over the memory of which, by equal sizes, and holds
    each piece until the last of its tensors is done. The encoder's live tensors are a fraction of that, and the pages
    that it touches are what its memory costs in time: without, each tensor has its own, until it is done.

    Where `spin`, threads that run out of work look for more for a while before they sleep. The decoder gains by it;
    the encoder's threads would take time from the click that comes right after.
    """

    def __init__(
        self,
        path: Path,
        model: Path | bytes,
        inputs: Sequence[str],
        outputs: Sequence[str],
        num_threads: int,
        custom_ops: bool,
        *,
        reuse_memory: bool = True,
        spin: bool = True,
    ) -> None:
        options = ort.SessionOptions()
        options.enable_mem_reuse = reuse_memory
        options.intra_op_num_threads = num_threads
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
        options.log_severity_level = 3  # errors only
        if custom_ops:
            library.register(options)
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            raise BundleError(
                f"onnxruntime {ort.__version__} cannot load {path} ({textwrap.shorten(str(error), 300)}): "
                "update onnxruntime, or export again with this version installed"
            ) from error
        _expect_names(path, "inputs", inputs, [value.name for value in self._session.get_inputs()])
        _expect_names(path, "outputs", outputs, [value.name for value in self._session.get_outputs()])
        self._outputs = list(outputs)
        self.shapes = {value.name: tuple(value.shape) for value in self._session.get_outputs() if value.name in outputs}
        self.run_options = ort.RunOptions()

    def run(self, feeds: Mapping[str, ort.OrtValue]) -> Features:
        values = self._session.run_with_ort_values(self._outputs, dict(feeds), self.run_options)
        return dict(zip(self._outputs, values, strict=True))

    def run_into(self, results: Mapping[str, Floats], feeds: Mapping[str, ort.OrtValue]) -> None:
        """Fill arrays with the outputs of their names.

        An output that onnxruntime allocates keeps the whole region of the session's arena that it lies in.
        """
        binding = self._session.io_binding()
        for name, value in feeds.items():
            binding.bind_ortvalue_input(name, value)
        for name, array in results.items():
            binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
        self._session.run_with_iobinding(binding, self.run_options)


def _expect_names(path: Path, kind: str, expected: Sequence[str], found: Sequence[str]) -> None:
    if missing := [name for name in expected if name not in found]:
        raise BundleError(f"{path} lacks the {kind} {', '.join(missing)}: export again with this version")


def _expect_whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def _give_back_freed_memory() -> None:
    """What onnxruntime frees while it loads a graph, glibc keeps: 130 MB at vit_b, in 10 ms."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
    if trim is not None:
        trim(0)
