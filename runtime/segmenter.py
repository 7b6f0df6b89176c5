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
from inter2former_deploy.core.contract import MANIFEST_FILE
from inter2former_deploy.core.errors import BundleError, EncodedImageError, SessionStateError
from inter2former_deploy.core.manifest import DecoderEntry, GraphEntry
from inter2former_deploy.core.prompts import Floats, Image, Prediction
from inter2former_deploy.core.threads import available_cpus
from inter2former_deploy.runtime.bundle import Bundle, read_bundle
from inter2former_deploy.runtime.checks import check_image
from inter2former_deploy.runtime.encoded import EncodedImage, PreparedImage, RecentImages, ScaledImage, picture_key
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
        decoder: the name of one of its decoders; the first when None (`i2f info` lists them).
        num_threads: threads an operator may use; when None as many as this process may keep busy
            (`threads.available_cpus`: the least of its CPU affinity and its control groups' quota).
        custom_ops: use the operator library; without it plain onnxruntime gives the same masks, slower.
        cache_bytes: memory for encoded images, so that opening one of the last pictures again costs nothing. One
            takes about 66 bytes a pixel of the model's square.

    Raises:
        BundleError: the bundle is incomplete, changed, mixed, or newer than this package.
        OperatorLibraryError: the operator library is missing or does not load.
        TypeError, ValueError: `num_threads` is no positive whole number, or `cache_bytes` a negative one; the bundle
            has no such decoder.
    """

    def __init__(
        self,
        bundle: str | PathLike[str],
        *,
        decoder: str | None = None,
        num_threads: int | None = None,
        custom_ops: bool = True,
        cache_bytes: int = 0,
    ) -> None:
        _expect_whole("num_threads", 1 if num_threads is None else num_threads, 1)
        _expect_whole("cache_bytes", cache_bytes, 0)
        self._arguments = {
            "decoder": decoder,
            "num_threads": num_threads,
            "custom_ops": custom_ops,
            "cache_bytes": cache_bytes,
        }
        self.bundle: Bundle = read_bundle(Path(bundle), decoder)
        chosen = self.bundle.manifest.decoder(decoder)
        self._family = self.bundle.family
        self._model_id = self.bundle.manifest.model_id(chosen)
        with ThreadPoolExecutor(1) as thread:
            check = thread.submit(self.bundle.check_files, chosen)  # while onnxruntime loads the same files
            try:
                self._load(chosen, num_threads or available_cpus(), custom_ops)
            finally:
                check.result()  # if it fails, it explains what else may have failed
        self._encoding = Lock()
        self._recent = RecentImages(cache_bytes)

    def __getstate__(self) -> dict[str, Any]:
        return {"bundle": self.bundle.folder.absolute(), **self._arguments}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _load(self, decoder: DecoderEntry, num_threads: int, custom_ops: bool) -> None:
        folder, encoder = self.bundle.folder, self.bundle.manifest.encoder.graph
        self._prepared_tensors = decoder.prepare.outputs
        once_an_image = {"reuse_memory": False, "spin": False}
        self._encoder = _Graph(folder, encoder, num_threads, custom_ops, **once_an_image)
        self._prepare = _Graph(folder, decoder.prepare, num_threads, custom_ops, **once_an_image)
        self._click = _Graph(folder, decoder.click, num_threads, custom_ops)
        for graph in (self._encoder, self._prepare):
            # Its working memory is many times what it leaves behind: give it back. A click's is little and used again.
            graph.run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        _give_back_freed_memory()

    @property
    def size(self) -> int:
        """S, the model resolution: the side of the square that images are scaled into, pixels."""
        return self.bundle.manifest.size

    @property
    def encoded_nbytes(self) -> int:
        """Size of any image's encoding, in memory and, but for a header, in a file, bytes."""
        return self.bundle.encoded_nbytes

    @property
    def opened_nbytes(self) -> int:
        """Memory that any open image takes, encoded and prepared for the decoder, bytes."""
        return self.encoded_nbytes + sum(4 * math.prod(tensor["sizes"]) for tensor in self._prepared_tensors.values())

    def open(self, image: np.ndarray | EncodedImage, region: Sequence[int] | None = None) -> Session:
        """Begin to segment an image. It is encoded once for all its prompts, unless it is already.

        Args:
            image: uint8 RGB, `[H, W, 3]`, any size. It is not kept. Or what `encode` made of it, with this bundle or
                another that has the same encoder.
            region: x0, y0, x1, y1, whole pixels of the image, x1 and y1 exclusive: only this window is encoded, so that
                small objects keep their pixels. Prompts and masks stay in the image's frame.

        Returns:
            A session without prompts.

        Raises:
            TypeError: not a uint8 array, or the region is not four whole numbers.
            ValueError: not of shape H x W x 3, or empty; the message says how to convert grey, alpha and the like. The
                region is empty or reaches beyond the image, or the image was encoded with another.
            EncodedImageError: another encoder encoded it.
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
        frame = self._family.make_frame(encoded.height, encoded.width, encoded.size)
        return Session(frame, self._family.make_prompts(self.size), _Decode(self, encoded), origin)

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

    def scale(self, image: np.ndarray, region: Sequence[int] | None = None) -> ScaledImage:
        """What the encoder takes of an image, for `encode`: whoever has many makes it while another is encoded.

        Args:
            image: uint8 RGB, `[H, W, 3]`, any size. It is not kept.
            region: as in `open`.

        Raises:
            TypeError, ValueError: as in `open`.
        """
        checked = check_image(image)
        window = _window(checked, region)
        return self._scale(checked, window, picture_key(checked, window))

    def encode(self, image: np.ndarray | ScaledImage, region: Sequence[int] | None = None) -> EncodedImage:
        """Encode an image for `open`: to keep it, or to save it for another time.

        Args:
            image: uint8 RGB, `[H, W, 3]`, any size. It is not kept. Or what `scale` made of it, of this Segmenter or
                another of the same encoder.
            region: as in `open`; what was scaled holds its own.

        Raises:
            TypeError, ValueError: as in `open`, or the image was scaled for another size.
        """
        if isinstance(image, ScaledImage):
            if image.size != self.size or region is not None:
                raise ValueError(f"a scaled image must be of {self.size} pixels and comes without a region: scale anew")
            key = image.key
        else:
            checked = check_image(image)
            window = _window(checked, region)
            key = picture_key(checked, window)

        def known() -> EncodedImage | None:
            found = self._recent.get(key)
            return found.encoded if isinstance(found, PreparedImage) else found

        encoded = known()
        if encoded is None:
            with self._encoding:
                encoded = known()  # another thread may have encoded it
                if encoded is None:
                    scaled = image if isinstance(image, ScaledImage) else self._scale(checked, window, key)
                    encoded = self._encode(scaled)
                    self._recent.add(key, encoded)
        return encoded

    def _scale(self, image: Image, window: Region, key: str) -> ScaledImage:
        part = window.crop(image)
        height, width = part.shape[:2]
        frame = self._family.make_frame(height, width, self.size)
        return ScaledImage(self._family.make_input(part, frame), key, window, self.size)

    def _encode(self, scaled: ScaledImage) -> EncodedImage:
        manifest, window = self.bundle.manifest, scaled.window
        (picture,) = manifest.encoder.graph.inputs
        tensors = {picture: scaled.input}
        tensors |= self._encoder.run_once(tensors)
        kept = {name: tensors[name] for name in manifest.encoder.kept}
        height, width = window.bottom - window.top, window.right - window.left
        region = None if window.is_whole else window
        return EncodedImage(height, width, self.size, kept, scaled.key, manifest.encoder_id, region)

    def _prepared(self, encoded: EncodedImage) -> PreparedImage:
        """What the decoder wants of an image."""

        def known() -> PreparedImage | None:
            found = self._recent.get(encoded.picture)
            return found if isinstance(found, PreparedImage) and found.encoded is encoded else None

        prepared = known()
        if prepared is None:
            self._check_encoded(encoded)
            with self._encoding:
                prepared = known()
                if prepared is None:
                    prepared = PreparedImage(encoded, self._prepare.run_once(encoded.tensors))
                    if self._recent.get(encoded.picture) is encoded:  # one that was loaded is its owner's to keep
                        self._recent.add(encoded.picture, prepared)
        return prepared

    def _origin(self, key: str, region: Region) -> SessionState:
        """What a session's state says of model and image."""
        return SessionState(self.bundle.manifest.family, self._model_id, self.size, key, region)

    def _check_encoded(self, image: EncodedImage) -> None:
        manifest = self.bundle.manifest
        stated = {name: (tensor["type"], tuple(tensor["sizes"])) for name, tensor in self.bundle.kept.items()}
        found = {name: (str(array.dtype), array.shape) for name, array in image.tensors.items()}
        if image.encoder != manifest.encoder_id or image.size != self.size or found != stated:
            raise EncodedImageError(
                f"this image was encoded with another encoder than that of {self.bundle.folder} ({image.encoder}, not "
                f"{manifest.encoder_id}): encode the picture again with this one, or use the other"
            )

    def _decode(self, tensors: Features, prompts: Mapping[str, npt.NDArray[Any]]) -> Prediction:
        self._family.check_inputs(prompts)
        # On the CPU an OrtValue views the array and the array the OrtValue: nothing is copied here.
        values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in prompts.items()}
        outputs = self._click.run(values | tensors)
        return self._family.read_prediction({name: value.numpy() for name, value in outputs.items()})


def _window(image: Image, region: Sequence[int] | None) -> Region:
    height, width = image.shape[:2]
    return Region.whole(height, width) if region is None else Region.of(region, height, width)


class _Decode:
    """Decodes prompts on one image. It is pickled as what it was made of, and prepared again.

    Raises:
        EncodedImageError: another encoder encoded the image, or in another process the bundle has changed meanwhile.
    """

    def __init__(self, segmenter: Segmenter, image: EncodedImage, prepared: PreparedImage | None = None) -> None:
        prepared = prepared or segmenter._prepared(image)
        self._segmenter, self._image = segmenter, image
        tensors = {**image.tensors, **prepared.tensors}
        self._tensors = {
            name: ort.OrtValue.ortvalue_from_numpy(tensors[name]) for name in segmenter._click.inputs if name in tensors
        }

    def __call__(self, prompts: Mapping[str, npt.NDArray[Any]]) -> Prediction:
        return self._segmenter._decode(self._tensors, prompts)

    def __reduce__(self) -> tuple[type[_Decode], tuple[Segmenter, EncodedImage]]:
        return type(self), (self._segmenter, self._image)


class _Graph:
    """A graph in onnxruntime, with the inputs and outputs that the manifest states.

    Where `reuse_memory`, onnxruntime plans ahead which tensor takes over the memory of which, by equal sizes, and holds
    each piece until the last of its tensors is done. The encoder's live tensors are a fraction of that, and the pages
    that it touches are what its memory costs in time: without, each tensor has its own, until it is done.

    Where `spin`, threads that run out of work look for more for a while before they sleep, as long as the graph runs. A
    click gains by it; the encoder's threads would take time from the click that comes right after. After the graph's
    end all sleep: else they would take time from whoever shows the mask.
    """

    def __init__(
        self,
        folder: Path,
        stated: GraphEntry,
        num_threads: int,
        custom_ops: bool,
        *,
        reuse_memory: bool = True,
        spin: bool = True,
    ) -> None:
        path = folder / stated.file
        options = ort.SessionOptions()
        options.enable_mem_reuse = reuse_memory
        options.intra_op_num_threads = num_threads
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3  # errors only
        if custom_ops:
            library.register(options)
        try:
            self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            raise BundleError(
                f"onnxruntime {ort.__version__} cannot load {path} ({textwrap.shorten(str(error), 300)}): "
                "update onnxruntime, or export again with this version installed"
            ) from error
        _expect_tensors(path, "inputs", stated.inputs, self._session.get_inputs())
        _expect_tensors(path, "outputs", stated.outputs, self._session.get_outputs())
        self.inputs, self._outputs = list(stated.inputs), stated.outputs
        self.run_options = ort.RunOptions()

    def run(self, feeds: Mapping[str, ort.OrtValue]) -> Features:
        """The outputs by name."""
        values = self._session.run_with_ort_values(list(self._outputs), dict(feeds), self.run_options)
        return dict(zip(self._outputs, values, strict=True))

    def run_once(self, feeds: Mapping[str, Floats]) -> dict[str, Floats]:
        """The outputs by name, of those of the arrays that the graph takes, in memory of their own.

        An output that onnxruntime allocates keeps the whole region of the session's arena that it lies in.
        """
        results: dict[str, Any] = {
            name: np.empty(tensor["sizes"], tensor["type"]) for name, tensor in self._outputs.items()
        }
        binding = self._session.io_binding()
        for name in self.inputs:
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(feeds[name]))
        for name, array in results.items():
            binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
        self._session.run_with_iobinding(binding, self.run_options)
        return results


def _expect_tensors(path: Path, kind: str, stated: Mapping[str, Any], found: Sequence[Any]) -> None:
    """Whether a graph has the tensors that the manifest states; a size that is a name may be any."""
    expected = {name: f"{_TYPES[tensor['type']]} {tensor['sizes']}" for name, tensor in stated.items()}
    actual = {}
    for value in found:
        names = stated[value.name]["sizes"] if value.name in stated else []
        sizes = list(value.shape)
        if len(names) == len(sizes):
            sizes = [name if isinstance(name, str) else size for name, size in zip(names, sizes, strict=True)]
        actual[value.name] = f"{value.type} {sizes}"
    if expected != actual:
        differ = [name for name in {**expected, **actual} if expected.get(name) != actual.get(name)]
        raise BundleError(
            f"{path} has other {kind} than {MANIFEST_FILE} states: "
            + "; ".join(f"{name}: {actual.get(name, 'none')}, not {expected.get(name, 'none')}" for name in differ[:4])
            + ": export again with this version"
        )


_TYPES = {"float32": "tensor(float)", "uint8": "tensor(uint8)", "int64": "tensor(int64)"}


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
