"""The model in replicas of Ray Serve, which a server asks as it asks its own.

An encoding is made by any replica that has time, and lies in Ray's object store, on behalf of the server: a replica
that ends takes none with it. Prompts go to a replica that has the encoding open already; if there is none, or it has
too much to do, another one opens it, from the object store and, on the same machine, without a copy. What a replica has
predicted last is kept there, so that one more prompt is one decode; all prompts are sent each time, so that any replica
can go on.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from inter2former_deploy.apps.batch.on_ray import start_ray
from inter2former_deploy.apps.server.encodings import Opened, Opener
from inter2former_deploy.apps.server.errors import bad_request, busy
from inter2former_deploy.apps.server.pool import Pool, WirePrompt, Work
from inter2former_deploy.apps.server.settings import Settings
from inter2former_deploy.core.prompts import Image, Mask
from inter2former_deploy.runtime import EncodedImage, Segmenter
from inter2former_deploy.runtime.bundle import read_bundle
from inter2former_deploy.runtime.region import Region

T = TypeVar("T")

NAME = "inter2former"
AT_A_TIME = 8  # predictions of a replica; the next ones go to others, if those have less to do
BUSY = 4.0  # requests of each replica, beyond which there should be more replicas
TRIES = 20  # of a request whose replica was lost
PATIENCE = 0.5  # seconds between them


@dataclass(frozen=True)
class Encoded:
    """An encoding in the object store."""

    region: Region
    image: Any  # reference of an `EncodedImage`


class Replicas:
    """The model in replicas, on this machine or on a cluster.

    Args:
        settings: of the server; its bundle must be there by this name for every replica. `threads` are those of each
            replica, for which Ray reserves CPUs: 1 where None.
        address: of a cluster, as `ray.init` takes it; `local` starts one on this machine, which ends with the server.
        least: replicas, at least.
        most: replicas, at most; their number follows the requests that wait.

    Raises:
        ConnectionError: there is no cluster at the address.
    """

    def __init__(self, settings: Settings, address: str, least: int, most: int | None = None) -> None:
        most = most or least
        threads = settings.threads or 1
        bundle = read_bundle(settings.bundle, settings.decoder)
        self.nbytes = bundle.encoded_nbytes
        self.at_a_time = most
        start_ray(address, most * threads)
        from ray import serve

        serve.start(proxy_location="Disabled")  # clients come to the server, never to Ray
        scaling: dict[str, Any] = {"num_replicas": least}
        if most > least:
            scaling = {
                "autoscaling_config": {
                    "min_replicas": least,
                    "max_replicas": most,
                    "target_ongoing_requests": BUSY,
                    "upscale_delay_s": 5,
                    "downscale_delay_s": 120,
                }
            }
        deployment = serve.deployment(
            _replica_class(max(1, settings.limits.encodings // (most * bundle.encoded_nbytes))),
            name="Replica",
            max_ongoing_requests=AT_A_TIME,
            ray_actor_options={"num_cpus": threads},
            health_check_period_s=2,
            health_check_timeout_s=30,
            **scaling,
        )
        told = replace(settings, token=None, label_studio=None)  # secrets stay here
        self._replicas = serve.run(deployment.bind(told, threads), name=NAME, route_prefix=None)
        self._lost = 0

    @property
    def gauges(self) -> Mapping[str, tuple[str, Callable[[], float]]]:
        """Values of the moment by their names, each with what it means."""
        return {"i2f_lost_total": ("Requests that were made anew as their replica was lost.", lambda: self._lost)}

    def encode(self, region: Region, image: Image) -> Encoded:
        """The encoding of a region of a picture, which some replica makes."""
        import ray

        part = region.crop(image)  # only this is sent

        def ask() -> EncodedImage:
            made: EncodedImage = self._replicas.encode.remote(part).result()
            return made

        return Encoded(region, ray.put(self._asked(ask)))

    def predict(
        self,
        key: str,
        encoding: Encoded,
        prompts: Sequence[WirePrompt],
        client: str,
        preview: bool,
        still_wanted: Callable[[], None],
    ) -> Mask:
        """The mask of the region that all prompts make, by a replica that has its encoding."""
        handle = self._replicas.options(multiplexed_model_id=key)

        def ask() -> Mask | str:
            still_wanted()
            answer: Mask | str = handle.predict.remote(
                key, encoding.region, [encoding.image], list(prompts), client, preview
            ).result()
            return answer

        answer = self._asked(ask)
        if isinstance(answer, str):
            raise bad_request(answer)
        return answer

    def close(self) -> None:
        """End the replicas, and the cluster if it was started here."""
        import ray
        from ray import serve

        serve.delete(NAME)
        ray.shutdown()

    def _asked(self, ask: Callable[[], T]) -> T:
        """The answer of a replica. If that one is lost, another is asked: nothing but the answer comes of a request."""
        from ray import serve
        from ray.exceptions import RayActorError

        for _ in range(TRIES):
            try:
                return ask()
            except (RayActorError, serve.exceptions.ReplicaUnavailableError):
                self._lost += 1
                time.sleep(PATIENCE)
        raise busy("no replica answers: come again", 10)


def _replica_class(keep: int) -> type[Any]:
    """The class of replicas, made here as Ray is not loaded before it is needed.

    Args:
        keep: encodings that each has open at most.
    """
    from ray import serve

    class Replica:
        """The model in one process of Ray."""

        def __init__(self, settings: Settings, threads: int) -> None:
            segmenter = Segmenter(
                settings.bundle, decoder=settings.decoder, num_threads=threads, custom_ops=settings.custom_ops
            )
            self._opener = Opener(segmenter, settings.cache)
            self._pool = Pool(settings.limits.kept_bytes)
            self._encoding = ThreadPoolExecutor(1, thread_name_prefix="encode")
            self._decoding = ThreadPoolExecutor(AT_A_TIME, thread_name_prefix="decode")
            self._coming: dict[str, tuple[Region, Any]] = {}  # what is about to be opened
            self._asking = Counter[str]()  # by how many requests

        async def encode(self, image: Image) -> EncodedImage:
            """The encoding of a picture."""
            height, width = image.shape[:2]
            whole = Region.whole(height, width)
            return await asyncio.get_running_loop().run_in_executor(self._encoding, self._opener.encode, whole, image)

        async def predict(
            self,
            key: str,
            region: Region,
            encoding: list[Any],
            prompts: list[WirePrompt],
            client: str,
            preview: bool,
        ) -> Mask | str:
            """The mask that all prompts make, or why they make none."""
            self._coming[key] = region, encoding[0]
            self._asking[key] += 1
            try:
                opened: Opened = await self.open_encoding(key)
            finally:
                self._asking[key] -= 1
                if not self._asking[key]:
                    del self._asking[key], self._coming[key]
            return await asyncio.get_running_loop().run_in_executor(
                self._decoding, self._mask, key, opened, prompts, client, preview
            )

        async def open_encoding(self, key: str) -> Opened:
            """An encoding, ready for prompts. Ray Serve remembers which replica has it."""
            region, reference = self._coming[key]
            encoded: EncodedImage = await reference
            session = await asyncio.get_running_loop().run_in_executor(self._encoding, self._opener.session, encoded)
            return Opened(region, session)

        def _mask(self, key: str, opened: Opened, prompts: list[WirePrompt], client: str, preview: bool) -> Mask | str:
            make = lambda: Work(key, opened.region, opened.session.copy())  # noqa: E731
            with self._pool.work(key, prompts, client, preview, make) as work:
                try:
                    return work.predict(prompts)
                except (TypeError, ValueError) as error:
                    return str(error)

    remembered = serve.multiplexed(max_num_models_per_replica=keep)(Replica.open_encoding)
    Replica.open_encoding = remembered  # type: ignore[method-assign]  # by this name it finds the replica
    return Replica
