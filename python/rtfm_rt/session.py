# SPDX-License-Identifier: Apache-2.0
"""The session as Python callers see it: bundled names, tickets, `with`. The work is in `_core`."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rtfm_rt import _core
from rtfm_rt.cublas import find as find_cublas

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    from rtfm_rt.world import Saved

BUNDLED = ("rooms",)


def bundled_file(name: str) -> str:
    """The path of a file that ships with the package, such as "rooms.png"."""
    return os.path.join(os.path.dirname(__file__), "models", name)


def model_path(model: str | os.PathLike[str]) -> str:
    """The file of a bundled model ("rooms"), or the given path; "./rooms" is always a path."""
    try:
        return bundled_file(f"{model}.safetensors") if model in BUNDLED else os.fsdecode(model)
    except TypeError:
        raise _core.ModelError(
            f"model: expected a bundled name, a path or a Model, got {type(model).__name__}"
        ) from None


class Model(_core.Model):
    """Immutable weights and their manifest, shared by any number of sessions and threads.

    path: a bundled name ("rooms") or a model file; device and precision as for `Session`.
    cublas: the path of a libcublasLt.so.13 that multiplies on a GPU, "" for none, None for the one
    that the extra `cuda` finds. `Model.cublas` says what became of it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = "rooms",
        device: str = "auto",
        precision: str = "auto",
        cublas: str | None = None,
    ) -> None:
        found = find_cublas(device) if cublas is None else cublas
        file = model_path(path)
        if not os.path.isabs(file):  # it is found wherever the process goes from here
            file = os.path.join(os.getcwd(), file)
        stamp = _stamp(file)  # before it is read: what changes meanwhile is another file
        super().__init__(file, device, precision, found)
        self._stamp = stamp

    @functools.cached_property
    def sha256(self) -> str:
        """Of its file, hexadecimal, by which world files know it; read when it is first wanted.

        Raises WorldError if the file is no longer the one that was loaded.
        """
        from rtfm_rt import world

        with contextlib.suppress(OSError):
            digest = world.model_hash(self.path)
            if _stamp(self.path) == self._stamp:
                return digest
        raise _core.WorldError(
            f"{self.path}: expected the file that the model was loaded from, whose SHA-256 a world "
            "file holds, got it changed or gone; keep it until `Model.sha256` or `save` has read it"
        )


def _stamp(file: str) -> tuple[int, int, int] | None:
    """What is never the same when a file was changed or replaced; None where there is none."""
    try:
        about = os.stat(file)
    except (OSError, ValueError):
        return None
    return about.st_ino, about.st_size, about.st_mtime_ns


def _left(deadline: float | None, waited: float) -> float | None:
    """What is left of a deadline: next to nothing of one that has passed."""
    try:
        if deadline is None or not (math.isfinite(deadline) and deadline > 0):
            return deadline
    except (TypeError, OverflowError):
        return deadline  # none either: step says so
    return max(float(deadline) - waited, 1e-9)


class Ticket:
    """A frame in the making, from `Session.submit`, for the process that submitted it."""

    def __init__(self, future: Future[_core.Frame]) -> None:
        self._future = future
        self._process = os.getpid()

    def done(self) -> bool:
        """Whether `result` would return or raise at once."""
        return self._forked() or self._future.done()

    def cancel(self) -> bool:
        """Whether the frame could still be taken out of the line: then it is never made.

        False when its turn has come. `result` of a cancelled ticket raises WorldError.
        """
        return not self._forked() and self._future.cancel()

    def result(self, timeout: float | None = None) -> _core.Frame:
        """Waits for the frame, raises what the step raised, or TimeoutError after `timeout` s."""
        from concurrent.futures import CancelledError
        from concurrent.futures import TimeoutError as Expired

        if self._forked():
            raise _core.WorldError(
                "ticket: expected the process that submitted it, got a fork of that, in which "
                "nobody makes the frame; submit again"
            )
        try:
            return self._future.result(timeout)
        except CancelledError:
            raise _core.WorldError(
                "ticket: expected one whose frame is made, got one that was cancelled; submit again"
            ) from None
        except Expired:  # its own class before Python 3.11
            raise TimeoutError(f"the frame was not ready within {timeout} s") from None

    def _forked(self) -> bool:
        return self._process != os.getpid()


class Session(_core.Session):
    """All state of one walk through one world. One thread at a time.

    model: a bundled name ("rooms"), the path of a model file, or a `Model` to share.
    device: "auto", "cpu", "cuda", "cuda:1"; one that is missing is a `DeviceError`.
    precision: "auto", "float32", "bfloat16", or of weights and what meets them "float8" (on a GPU
    that has it) or "int8" (on a CPU with AMX, VNNI or SDOT). "auto" is bfloat16 on a GPU, with AMX
    and on AMD's CPUs since Zen 4, else float32; `session.precision` says which.
    threads: CPU threads, None for one per CPU.
    (A shared `Model` brings its own device and precision.)
    seed: of all noise; equal seeds, pictures and poses give equal frames.
    context, sinks, recent: frames a new one attends to, and how many of these are the world's
    first and latest; steps: denoising steps; all None for the model's own defaults.
    memory_budget: bytes for remembered frames. deadline: seconds per step.
    commit_below: a new frame is remembered when its support is below this share.
    stream: an object with `__cuda_stream__` (PyTorch, cuda.core): frames stay on the GPU, for
    DLPack and `__cuda_array_interface__`, and are finished when `step` returns. None: on the host.
    """

    _worker: ThreadPoolExecutor | None = None
    _process = 0  # that it is a thread of
    _closed = False
    _saved: Saved | None = None
    _stream: Any = None
    _budget: int | None = None  # this and the next: as they were given
    _deadline: float | None = None

    def __init__(
        self,
        model: Model | str | os.PathLike[str] = "rooms",
        *,
        device: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        seed: int = 0,
        context: int | None = None,
        steps: int | None = None,
        memory_budget: int | None = None,
        deadline: float | None = None,
        commit_below: float | None = None,
        sinks: int | None = None,
        recent: int | None = None,
        stream: Any = None,
    ) -> None:
        if not isinstance(model, Model):
            model = Model(model, device, precision)
        elif (device, precision) != ("auto", "auto"):
            raise _core.ArgumentError(
                "device, precision: expected none beside a Model, which has its own, got "
                f"{device!r}, {precision!r}"
            )
        super().__init__(
            model,
            threads=threads,
            seed=seed,
            context=context,
            steps=steps,
            memory_budget=memory_budget,
            deadline=deadline,
            commit_below=commit_below,
            sinks=sinks,
            recent=recent,
            stream=stream,
        )
        self._model = model
        self._stream = stream  # must live as long as the session
        self._deadline = deadline
        if memory_budget is not None:
            self._budget = self.memory.budget

    @property
    def model(self) -> Model:
        """Its weights, to share with other sessions."""
        return self._model

    def submit(
        self,
        pose: Any = None,
        *,
        action: Any = None,
        intrinsics: Any = None,
        deadline: float | None = None,
    ) -> Ticket:
        """`step` on a thread of its own, in order of submission; the caller goes on meanwhile.

        Pose and action are copied, but for a `PoseSlot`, which is read when the frame's turn has
        come. A deadline, the session's own too, counts from here: the step gets what the line left
        of it; `frame.latency` is the step alone. Until its tickets are done a session belongs to
        them: `step` from another thread is refused. A process that is forked meanwhile gets a
        session in the middle of a step, of no use; between tickets it gets one that works, with a
        thread of its own.
        """
        start = time.monotonic()
        if self._closed:
            raise _core.WorldError("submit: expected an open session, got a closed one")
        if self._worker is None or self._process != os.getpid():  # a fork brings no threads along
            from concurrent.futures import ThreadPoolExecutor

            self._worker = ThreadPoolExecutor(1, thread_name_prefix="rtfm-submit")
            self._process = os.getpid()
        try:
            own = pose is None or isinstance(pose, _core.PoseSlot)
            frozen = pose if own else np.asarray(pose).copy()  # np.array warns of PyTorch's
        except Exception as error:  # whatever a tensor of another library raises
            raise _core.PoseError(f"pose: expected a (4, 4) matrix, got {error}") from None
        action = dict(action) if isinstance(action, Mapping) else copy.copy(action)
        deadline = self._deadline if deadline is None else deadline

        def step() -> _core.Frame:
            left = _left(deadline, time.monotonic() - start)
            return self.step(frozen, action=action, intrinsics=intrinsics, deadline=left)

        return Ticket(self._worker.submit(step))

    def fork(self) -> Session:
        """A branch of the world, at once: from here on the two go their own ways.

        The same calls give both the same frames. They share memory until one of them changes it, so
        a branch costs what it adds; each may fill the whole memory_budget. A branch is saved to a
        file of its own. To roll back, drop the branch. Raises WorldError while a step runs.
        """
        branch = Session.__new__(Session)
        _core.Session.__init__(branch, self)
        branch._model, branch._stream = self._model, self._stream
        branch._budget, branch._deadline = self._budget, self._deadline
        return branch

    def _options(self) -> dict[str, float]:
        """Those that `save` writes down; a budget of nobody's choice is up to who loads it."""
        given = {} if self._budget is None else {"memory_budget": self._budget}
        return super()._options() | given

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the world to a file, so that `load` goes on from here to the bit.

        path: a new file, or one that this world was saved to or loaded from: then only new frames
        are written in full. When it returns everything is on the disk; whatever happens
        before, the file holds the last world that was saved. Of a model that goes by actions the
        pages that its next frame attends to are written too. Raises WorldError.
        """
        from rtfm_rt import world

        world.save(self, path)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        model: Model | str | os.PathLike[str] = "rooms",
        **options: Any,
    ) -> Session:
        """A session that goes on where the one that saved `path` was.

        model: the one that the world was made with; another is refused. options: as for the
        constructor; seed, context, sinks, recent, steps, commit_below and, where the saved session
        was given one, memory_budget come from the file unless given. A model that goes by actions
        must run in the precision that the world's pages are kept in. Raises WorldError, naming the
        file and what is whole in it.
        """
        from rtfm_rt import world

        saved_world, images, saved, made_with = world.load(path)
        if not isinstance(model, Model):
            model = Model(model, options.pop("device", "auto"), options.pop("precision", "auto"))
        if model.sha256 != saved.model:
            raise _core.WorldError(
                f"{os.fsdecode(path)}: expected the model that the world was made with, "
                f"{saved.model[:16]}…, got {model.path}, {model.sha256[:16]}…"
            )
        session = cls(model, **{**made_with, **options})
        session._restore(saved_world, images)
        session._saved = saved
        return session

    def close(self) -> None:
        """Waits for submitted frames and ends their thread. Memory goes with the last reference."""
        self._closed = True
        if self._worker is not None and self._process == os.getpid():
            self._worker.shutdown(wait=True)
        self._worker = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
