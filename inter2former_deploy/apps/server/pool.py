"""What was predicted last, kept by the prompts it was predicted from, so that one more prompt is one decode."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TypeAlias

from inter2former_deploy.apps.server.paint import Paint, painted
from inter2former_deploy.apps.server.runs import Runs, mask_of
from inter2former_deploy.core.prompts import Box, Click, Mask, StartMask, Stroke
from inter2former_deploy.runtime.region import Region
from inter2former_deploy.runtime.session import KEPT_PREDICTIONS, Session

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
        count = 0
        for step, prompt in zip(self._steps, prompts, strict=False):
            if type(step.prompt) is not type(prompt) or step.prompt != prompt:
                break
            count += 1
        return count

    def __len__(self) -> int:
        return len(self._steps)

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
            added = (
                StartMask(mask_of(prompt, self._region)) if isinstance(prompt, Runs) else self._region.to_window(prompt)
            )
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

    def nbytes(self, size: int) -> int:
        """Memory that it takes at most, bytes, where the model's square has this side."""
        kept = len(self._steps) + 1 + 4 * min(len(self._steps), KEPT_PREDICTIONS)
        return kept * size * size + (0 if self._mask is None else self._mask.nbytes)


class Pool:
    """The works that were used last, as many as fit into a number of bytes. For several threads.

    Args:
        limit: bytes.
        size: S, the side of the model's square.
    """

    def __init__(self, limit: int, size: int) -> None:
        self._limit, self._size = limit, size
        self._idle: OrderedDict[Work, int] = OrderedDict()  # with its bytes; the last used at the end
        self._lock = Lock()

    def take(self, image: str, prompts: Sequence[WirePrompt], client: str, make: Callable[[], Work]) -> Work:
        """The work that these prompts go on from best; a new one if there is none.

        One of another client is taken only if all its prompts are among these, so that clients who annotate the same
        picture leave each other's work alone.
        """
        with self._lock:
            best, most = None, 0
            for work in reversed(self._idle):
                if work.image != image:
                    continue
                common = work.common(prompts)
                if common > most and (work.client == client or common == len(work)):
                    best, most = work, common
            if best is not None:
                del self._idle[best]
        best = best or make()
        best.client = client
        return best

    def give(self, work: Work) -> None:
        """Keep a work for the next prompt."""
        nbytes = work.nbytes(self._size)
        with self._lock:
            self._idle[work] = nbytes
            total = sum(self._idle.values())
            while total > self._limit:
                total -= self._idle.popitem(last=False)[1]

    def forget(self, image: str) -> None:
        """Drop what was predicted on an image."""
        with self._lock:
            for work in [work for work in self._idle if work.image == image]:
                del self._idle[work]

    @property
    def nbytes(self) -> int:
        """Memory of all that is kept, at most, bytes."""
        with self._lock:
            return sum(self._idle.values())
