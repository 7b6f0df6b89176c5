"""Who has the model: this process, or others. A service asks either in the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from inter2former_deploy.apps.server.encodings import Opened, Opener
from inter2former_deploy.apps.server.errors import bad_request
from inter2former_deploy.apps.server.pool import Pool, WirePrompt, Work
from inter2former_deploy.apps.server.settings import Settings
from inter2former_deploy.core.prompts import Image, Mask
from inter2former_deploy.runtime import Segmenter
from inter2former_deploy.runtime.region import Region


class Model(Protocol):
    """What encodes pictures and makes masks of prompts. For several threads."""

    @property
    def nbytes(self) -> int:
        """Memory that an encoding takes, bytes."""

    @property
    def at_a_time(self) -> int:
        """How many pictures it is given to encode at a time."""

    @property
    def gauges(self) -> Mapping[str, tuple[str, Callable[[], float]]]:
        """Values of the moment by their names, each with what it means."""

    def encode(self, region: Region, image: Image) -> Any:
        """What `predict` wants of a region of a picture."""

    def predict(
        self,
        key: str,
        encoding: Any,
        prompts: Sequence[WirePrompt],
        client: str,
        preview: bool,
        still_wanted: Callable[[], None],
    ) -> Mask:
        """The mask of a region that all prompts make; do not change it.

        Args:
            key: of picture and region.
            encoding: what `encode` gave.
            prompts: all of them, in order.
            client: who asks.
            preview: the last prompt is only where the pointer is.
            still_wanted: raises where nobody waits for it any more.

        Raises:
            ApiError: a prompt is not possible (400), or what `still_wanted` raises.
        """

    def close(self) -> None:
        """End."""


class Here:
    """The model in this process."""

    at_a_time = 1  # encoding takes all threads

    def __init__(self, settings: Settings) -> None:
        segmenter = Segmenter(
            settings.bundle, decoder=settings.decoder, num_threads=settings.threads, custom_ops=settings.custom_ops
        )
        self.nbytes = segmenter.opened_nbytes
        self.encode: Callable[[Region, Image], Opened] = Opener(segmenter, settings.cache)
        self._pool = Pool(settings.limits.kept_bytes)
        self.gauges = {"i2f_kept_bytes": ("Memory of what was predicted last.", lambda: float(self._pool.nbytes))}

    def predict(
        self,
        key: str,
        encoding: Opened,
        prompts: Sequence[WirePrompt],
        client: str,
        preview: bool,
        still_wanted: Callable[[], None],
    ) -> Mask:
        """The mask of the region that all prompts make."""
        make = lambda: Work(key, encoding.region, encoding.session.copy())  # noqa: E731
        with self._pool.work(key, prompts, client, preview, make) as work:
            still_wanted()
            try:
                return work.predict(prompts)
            except (TypeError, ValueError) as error:
                raise bad_request(str(error)) from error

    def close(self) -> None:
        """Nothing is left behind."""
