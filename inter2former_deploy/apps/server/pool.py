"""What was predicted last, kept by the prompts it was predicted from, so that one more prompt is one decode."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Condition
from typing import TypeAlias

import numpy as np

from inter2former_deploy.apps.server.paint import Paint, painted
from inter2former_deploy.core.prompts import Box, Click, Mask, Prompt, StartMask, Stroke, in_common
from inter2former_deploy.core.runs import Runs
from inter2former_deploy.runtime.region import Region
from inter2former_deploy.runtime.session import Session

PATIENCE = 10  # seconds that a prompt waits for the one before it

WirePrompt: TypeAlias = Click | Box | Stroke | Runs | Paint  # in pixels of the picture, as clients send them


@dataclass(frozen=True)
class _Step:
    prompt: WirePrompt
    session: Session
    told: int  # prompts of the session after this step


class Work:
    """A region of a picture, and the prompts that were made on it.

    Prompts of the model go into a session of the runtime, in pixels of the region. What is painted changes the mask
    alone; the next prompt of the model goes on from the painted mask. For one thread at a time.

    Args:
        image: what tells the region of the picture apart from others.
        region: of the picture.
        session: without prompts, in pixels of the region.
    """

    def __init__(self, image: str, region: Region, session: Session) -> None:
        self.image, self._region = image, region
        self.client = ""  # who used it last
        self._start = session
        self._steps: list[_Step] = []
        self._mask: Mask | None = None  # after all steps

    def common(self, prompts: Sequence[WirePrompt]) -> int:
        """How many of the first prompts are those of this work."""
        return in_common([step.prompt for step in self._steps], prompts)

    def __len__(self) -> int:
        return len(self._steps)

    def copy(self) -> Work:
        """Another work of the same prompts, which goes on by itself."""
        copies: dict[int, Session] = {}

        def copied(session: Session) -> Session:
            if id(session) not in copies:
                copies[id(session)] = session.copy()
            return copies[id(session)]

        other = Work(self.image, self._region, copied(self._start))
        other._steps = [replace(step, session=copied(step.session)) for step in self._steps]
        other._mask = self._mask
        return other

    def predict(self, prompts: Sequence[WirePrompt]) -> Mask:
        """The mask of the region after these prompts; those that are new are decoded. Do not change it.

        Raises:
            TypeError, ValueError: a prompt is not possible; those before it stay.
        """
        common = self.common(prompts)
        if common < len(self._steps):
            del self._steps[common:]
            self._session.keep(self._told)
            self._mask = None
        for prompt in prompts[common:]:
            self._add(prompt)
        return self._current()

    @property
    def _session(self) -> Session:
        return self._steps[-1].session if self._steps else self._start

    @property
    def _told(self) -> int:
        return self._steps[-1].told if self._steps else 0

    def _current(self) -> Mask:
        if self._mask is None:
            mask = self._session.mask
            brushed = len(self._steps)
            while brushed and isinstance(self._steps[brushed - 1].prompt, Paint):
                brushed -= 1
            for step in self._steps[brushed:]:
                mask = painted(mask, step.prompt, self._region)  # type: ignore[arg-type]
            self._mask = mask
        return self._mask

    def _add(self, prompt: WirePrompt) -> None:
        session, told = self._session, self._told
        if isinstance(prompt, Paint):
            mask = painted(self._current(), prompt, self._region)
        else:
            added = _in_region(prompt, self._region)
            try:
                if self._steps and isinstance(self._steps[-1].prompt, Paint):
                    if self._current().any():
                        session.start(self._current())
                        told += 1
                    else:  # all was rubbed out: begin anew, and let the steps before have their session
                        session = session.copy()
                        session.reset()
                        told = 0
                mask = session.add(added)
                told += 1
            except BaseException:
                self._session.keep(self._told)
                raise
        self._steps.append(_Step(prompt, session, told))
        self._mask = mask

    @property
    def nbytes(self) -> int:
        """Memory that it takes, bytes."""
        sessions = {id(session): session for session in (self._start, *(step.session for step in self._steps))}
        masks = 0 if self._mask is None else self._mask.nbytes
        return sum(session.nbytes for session in sessions.values()) + masks


def _in_region(prompt: Click | Box | Stroke | Runs, region: Region) -> Prompt:
    """A prompt in pixels of a region; ValueError where it reaches outside."""
    if not isinstance(prompt, Runs):
        return region.to_window(prompt)
    mask = prompt.mask(region.sides)
    if outside := prompt.area - int(np.count_nonzero(mask)):
        raise ValueError(f"the start mask has {outside} pixels outside the region {list(region.sides)}")
    return StartMask(mask)


class Pool:
    """The works that were used last, as many as fit into a number of bytes. For several threads.

    A preview works on a copy, so that the click that follows finds the work as the click before left it; of each client
    the last preview is kept, as it often becomes a click.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._idle: OrderedDict[Work, int] = OrderedDict()  # with its bytes; the last used at the end
        self._busy: dict[Work, Sequence[WirePrompt]] = {}  # with the prompts that it is going to have
        self._previews: dict[str, Work] = {}  # by client, of the idle works
        self._changed = Condition()

    @contextmanager
    def work(
        self, image: str, prompts: Sequence[WirePrompt], client: str, preview: bool, make: Callable[[], Work]
    ) -> Iterator[Work]:
        """Within, the work that these prompts go on from best, for this thread alone; a new one if there is none.

        One of another client is taken only if next to nothing of it is lost, so that clients who annotate the same
        picture leave each other's work alone.

        Args:
            image: what tells the region of the picture apart from others.
            prompts: all of them.
            client: who asks.
            preview: whether the last prompt may be taken back soon.
            make: a new work.
        """
        with self._changed:
            best = self._best(image, prompts, client)
            while self._comes(image, prompts, client, best):
                if not self._changed.wait(PATIENCE):
                    break
                best = self._best(image, prompts, client)
            if best is not None and (not preview or best is self._previews.get(client)):
                self._remove(best)
            elif best is not None:
                best = best.copy()
            best = best or make()
            best.client = client
            self._busy[best] = prompts
        try:
            yield best
        finally:
            with self._changed:
                del self._busy[best]
                self._keep(best, preview)
                self._changed.notify_all()

    def _best(self, image: str, prompts: Sequence[WirePrompt], client: str) -> Work | None:
        """The idle work that has most of the prompts already."""
        best, most = None, 0
        for work in reversed(self._idle):
            common = work.common(prompts) if work.image == image else 0
            if common > most and (work.client == client or len(work) - common <= 1):
                best, most = work, common
        return best

    def _comes(self, image: str, prompts: Sequence[WirePrompt], client: str, best: Work | None) -> bool:
        """Whether a work of this client that is busy will have more of the prompts."""
        most = 0 if best is None else best.common(prompts)
        return any(
            work.image == image
            and work.client == client
            and len(given) <= len(prompts)
            and in_common(given, prompts) > most
            for work, given in self._busy.items()
        )

    def _keep(self, work: Work, preview: bool) -> None:
        if preview:
            former = self._previews.get(work.client)
            if former is not None:
                self._remove(former)
            self._previews[work.client] = work
        self._idle[work] = work.nbytes
        while sum(self._idle.values()) > self._limit:
            self._remove(next(iter(self._idle)))

    def _remove(self, work: Work) -> None:
        del self._idle[work]
        if self._previews.get(work.client) is work:
            del self._previews[work.client]

    @property
    def nbytes(self) -> int:
        """Memory of all that is kept, bytes."""
        with self._changed:
            return sum(self._idle.values())
