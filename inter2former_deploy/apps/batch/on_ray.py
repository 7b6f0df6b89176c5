"""The work on many pictures by workers of Ray, each a process with the model."""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import redirect_stdout
from typing import Any

from inter2former_deploy.apps.batch.work import Chunk, Job, Outcome
from inter2former_deploy.core.threads import available_cpus

OBJECT_STORE = 500_000_000  # bytes, where the cluster is this machine's alone: chunks and outcomes are small


def run(
    job: Job, chunks: Sequence[Chunk], *, address: str, workers: int | None, threads: int | None
) -> Generator[Outcome, None, None]:
    """Have workers do chunks of work; one that is lost costs what it has not written of its chunk, which others do.

    Args:
        job: what is done; files that it names must be there, by the same names, for every worker.
        chunks: of the items. Any worker takes any of them.
        address: of a cluster, as `ray.init` takes it; `local` starts one on this machine, which ends with the work.
        workers: how many; as many as the cluster's CPUs allow where None.
        threads: of each worker's model, for which Ray reserves CPUs; 1 where None.

    Yields:
        The outcomes of all items; those of a chunk follow each other, chunks come as they are done.

    Raises:
        ConnectionError: there is no cluster at the address.
        ValueError: it has too few CPUs for the workers.
    """
    with redirect_stdout(sys.stderr):  # Ray tells of lost workers on standard output, which is the result's
        yield from _run(job, chunks, address, workers, threads)


def _run(
    job: Job, chunks: Sequence[Chunk], address: str, workers: int | None, threads: int | None
) -> Iterator[Outcome]:
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    threads = threads or 1
    start_ray(address, (workers or max(1, available_cpus() // threads)) * threads)
    try:
        cpus = int(ray.cluster_resources().get("CPU", 0))
        workers = min(workers or cpus // threads, max(1, len(chunks)))
        if workers * threads > cpus or workers < 1:
            raise ValueError(f"{max(workers, 1)} workers of {threads} threads need more CPUs than the cluster's {cpus}")
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = 0
        data = ray.data.from_items(
            [{"chunk": pickle.dumps(list(chunk))} for chunk in chunks], override_num_blocks=max(1, len(chunks))
        )
        done = data.map_batches(
            _Worker,
            fn_constructor_args=(job, threads),
            batch_size=1,
            batch_format="numpy",
            num_cpus=threads,
            compute=ray.data.ActorPoolStrategy(size=workers),
        )
        for row in done.iter_rows():
            yield from pickle.loads(row["outcomes"])
    finally:
        ray.shutdown()


class _Worker:
    """What an actor of Ray Data holds: the model, loaded once."""

    def __init__(self, job: Job, threads: int) -> None:
        self._work = job.begin(threads)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        outcomes = [pickle.dumps(list(self._work([pickle.loads(chunk)]))) for chunk in batch["chunk"]]
        return {"outcomes": outcomes}


def start_ray(address: str, cpus: int) -> None:
    """Connect to a cluster, or start one of this machine's CPUs.

    Args:
        address: as `ray.init` takes it; `local` starts one.
        cpus: of the one that is started.

    Raises:
        ConnectionError: there is none at the address.
    """
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        ray.init(
            address="local",
            _node_ip_address="127.0.0.1",  # whoever reaches Ray may run what they want
            num_cpus=cpus,
            object_store_memory=OBJECT_STORE,
            include_dashboard=False,
            **quiet,
        )
        return
    try:
        ray.init(address=address, **quiet)
    except Exception as error:
        raise ConnectionError(f"--ray {address}: there is no cluster of Ray that answers: {error}") from error
