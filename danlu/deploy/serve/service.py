"""What the routes do: admit, decode, compute, tell; the same for everybody who calls."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from danlu.core.environment import usable_cores
from danlu.core.errors import DanluError, InputError
from danlu.core.log import logger
from danlu.deploy.activation import MAPS
from danlu.deploy.serve.batching import Answered, Batcher, Ticket
from danlu.deploy.serve.bodies import Files, count_announced, read_body
from danlu.deploy.serve.engine import PROBABILITIES, Decoded, Engine
from danlu.deploy.serve.metrics import Metrics, resident_bytes
from danlu.deploy.serve.problems import Problem, problem_of
from danlu.deploy.serve.settings import ServeSettings

__all__ = ["DEADLINE_HEADER", "Service"]

DEADLINE_HEADER = "danlu-deadline"
_DECODERS = 4
_HIDDEN_AT_ONCE = 16
_SMALL_BYTES, _SMALL_PIXELS = 2**14, 2**16

T = TypeVar("T")
Pictures = NDArray[np.uint8]


class Service:
    """One artifact behind a queue.

    Attributes:
        engine: the artifact that answers; replaced whole by :meth:`reload`.
        batcher: the queue.
        metrics: what is counted.
        settings: hosts, token and limits.
    """

    def __init__(self, engine: Engine, settings: ServeSettings) -> None:
        self.engine, self.settings, self.metrics = engine, settings, Metrics()
        self.batcher = Batcher(self._answer, engine.pace, settings.limits, self.metrics)
        self._decoders = ThreadPoolExecutor(min(_DECODERS, usable_cores()), "danlu-decode")
        self._explaining, self._reloading = asyncio.Lock(), asyncio.Lock()
        self._began = time.perf_counter()
        self._describe()

    def _answer(self, pictures: Pictures, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        return self.engine.answer(pictures, outputs)

    def _describe(self) -> None:
        gauge = self.metrics.gauge
        gauge("danlu_artifact_info", "The artifact served.", lambda: 1.0, self._artifact)
        gauge("danlu_ready", "Whether requests are taken.", lambda: float(not self.batcher.draining))
        gauge("danlu_queue_pictures", "Pictures admitted, not yet answered.", lambda: float(self.batcher.pictures))
        gauge("danlu_up_seconds", "Seconds since the start.", lambda: time.perf_counter() - self._began)
        gauge("process_resident_memory_bytes", "Resident memory.", resident_bytes)

    def _artifact(self) -> dict[str, str]:
        info = self.engine.info
        return {"model": info.model, "precision": info.precision, "version": info.version}

    async def close(self) -> None:
        """Drop what still waits and end the threads."""
        await self.batcher.stop()
        self._decoders.shutdown(wait=True, cancel_futures=True)

    async def reload(self, path: Path, threads: int | None) -> bool:
        """Load the artifact's file again; the old one goes on answering where the new one cannot."""
        # One after the other: of two, the one that was asked for last must be the one that stays.
        async with self._reloading:
            done = await self._reload(path, threads)
        self.metrics.reloads.add("done" if done else "refused")
        return done

    async def _reload(self, path: Path, threads: int | None) -> bool:
        try:
            found = await asyncio.get_running_loop().run_in_executor(None, Engine.open, path, threads)
        except DanluError as error:
            logger.error("serve: %s\n  the artifact that was loaded before goes on answering", error)
            return False
        except Exception:
            # A signal asked for it, so nobody else would hear of it.
            logger.exception("serve: loading %s again failed; the artifact that was loaded before goes on", path)
            return False
        old, new = self.engine.info, found.info
        if (old.picture_size, old.channels, old.classes) != (new.picture_size, new.channels, new.classes):
            logger.error("serve: %s has other classes or another picture size; start the server again for it", path)
            return False
        self.engine, self.batcher.pace = found, found.pace
        logger.info("serve: %s is loaded again", path)
        return True

    async def predict(self, request: Request, top: int) -> dict[str, Any]:
        """Answer a request of one picture or more; see :class:`~danlu.deploy.serve.schemas.Answer`.

        Raises:
            Problem: whatever is wrong with it.
        """
        begin = time.perf_counter()
        deadline = begin + self._allowed(request.headers)
        self.batcher.check(count_announced(request.headers))
        body = await self._read(request, deadline)
        # Only what has come whole takes a place: a client that sends slowly must not keep the others out.
        ticket = self.batcher.admit(len(body.data) if isinstance(body, Files) else len(body))
        try:
            work = self._predict(body, ticket, top, begin, deadline)
            found = await self._unless_left(request, work)
        finally:
            self.batcher.release(ticket)
        self.metrics.seconds.observe(time.perf_counter() - begin)
        self.metrics.pictures.add(by=len(found["predictions"]))
        return found

    async def _predict(
        self, body: Files | Pictures, ticket: Ticket, top: int, begin: float, deadline: float
    ) -> dict[str, Any]:
        read = time.perf_counter()
        if isinstance(body, Files):
            decoded = await self._decode(body, deadline)
            sizes = {picture.pixels.shape for picture in decoded}
            assert len(sizes) == 1, "all pictures were fitted to one size"
            pictures, names = np.stack([picture.pixels for picture in decoded]), body.names
        else:
            pictures, names = body, [None] * len(body)
        decoded_at = time.perf_counter()
        engine = self.engine
        answered = await self.batcher.submit(ticket, pictures, [PROBABILITIES], deadline)
        predictions = []
        for probabilities, name in zip(answered.outputs[PROBABILITIES], names, strict=True):
            ranked = engine.ranked(probabilities, top)
            predictions.append({"file": name, **ranked[0], "top": ranked})
        return {
            "model": engine.info.model,
            "precision": engine.info.precision,
            "predictions": predictions,
            "batch": answered.batch,
            "milliseconds": _times(begin, decoded_at - read, [answered]),
        }

    async def explain(self, request: Request, method: str, index: int | None) -> dict[str, Any]:
        """Answer which places of one picture speak for a class; see :class:`~danlu.deploy.serve.schemas.Explanation`.

        Raises:
            Problem: whatever is wrong with it.
        """
        begin = time.perf_counter()
        deadline = begin + self._allowed(request.headers)
        if index is not None and not 0 <= index < len(self.engine.info.classes):
            raise Problem(400, f"class {index}", where="index", allowed=[f"0 to {len(self.engine.info.classes) - 1}"])
        if method == "activation" and not self.engine.has_maps:
            what = "the artifact gives no activation maps: its head is more than pooling and a linear layer"
            raise Problem(400, what, where="method", allowed=["occlusion"])
        self.batcher.check(count_announced(request.headers))
        self._check_explaining()
        body = await self._read(request, deadline)
        if not isinstance(body, Files) or len(body.data) != 1:
            raise Problem(400, "one encoded picture is explained at a time", allowed=["one picture"])
        self._check_explaining()
        async with self._explaining:
            return await self._unless_left(request, self._explain(body, method, index, begin, deadline))

    def _check_explaining(self) -> None:
        if self._explaining.locked():
            raise Problem(503, "another picture is being explained", retry_after=1)

    async def _explain(
        self, body: Files, method: str, index: int | None, begin: float, deadline: float
    ) -> dict[str, Any]:
        read = time.perf_counter()
        (picture,) = await self._decode(body, deadline)
        decoded_at = time.perf_counter()
        engine, info = self.engine, self.engine.info
        wanted = engine.has_maps and method != "occlusion"
        outputs = [PROBABILITIES, MAPS] if wanted else [PROBABILITIES]
        answers = [await self._submit(picture.pixels[None], outputs, deadline)]
        probabilities = answers[0].outputs[PROBABILITIES][0]
        ranked = engine.ranked(probabilities, min(5, len(info.classes)))
        chosen = ranked[0]["index"] if index is None else index
        places = [entry["index"] for entry in ranked]
        if wanted and chosen in places[: answers[0].outputs[MAPS].shape[1]]:
            method, values = "activation", answers[0].outputs[MAPS][0, places.index(chosen)]
        elif method == "activation":
            raise Problem(400, f"class {chosen} is not among the five most probable", where="index")
        else:
            hidden = engine.occluded(picture.pixels)
            for start in range(0, len(hidden), _HIDDEN_AT_ONCE):
                answers.append(await self._submit(hidden[start : start + _HIDDEN_AT_ONCE], [PROBABILITIES], deadline))
            found = np.concatenate([answer.outputs[PROBABILITIES][:, chosen] for answer in answers[1:]])
            method, values = "occlusion", (probabilities[chosen] - found).reshape(engine.occlusion_shape())
        if not np.isfinite(values).all():
            raise Problem(500, "the artifact gives maps that are not finite")
        explained = {"class": info.classes[chosen], "index": chosen, "probability": float(probabilities[chosen])}
        return {
            "method": method,
            "explained": explained,
            "top": ranked,
            "values": [[float(f"{value:.6g}") for value in row] for row in values.tolist()],
            "crop": dict(zip(("left", "top", "width", "height"), picture.crop, strict=True)),
            "picture": {"height": picture.height, "width": picture.width},
            "milliseconds": _times(begin, decoded_at - read, answers),
        }

    async def _submit(self, pictures: Pictures, outputs: Sequence[str], deadline: float) -> Answered:
        ticket = self.batcher.admit(len(pictures))
        try:
            return await self.batcher.submit(ticket, pictures, outputs, deadline)
        finally:
            self.batcher.release(ticket)

    async def _read(self, request: Request, deadline: float) -> Files | Pictures:
        body = read_body(request, self.settings.limits, self.engine.info.channels)
        try:
            return await self._in_time(body, deadline, "the body has not come")
        except ClientDisconnect:
            self.metrics.dropped.add("left")
            raise

    async def _decode(self, body: Files, deadline: float) -> list[Decoded]:
        return await self._in_time(self._decode_all(body, deadline), deadline, "the pictures are not decoded")

    async def _in_time(self, work: Coroutine[Any, Any, T], deadline: float, what: str) -> T:
        try:
            return await asyncio.wait_for(work, max(0.0, deadline - time.perf_counter()))
        except TimeoutError:
            self.metrics.dropped.add("deadline")
            raise Problem(504, f"{what} within the deadline", mend="send less, or allow more time") from None

    async def _decode_all(self, body: Files, deadline: float) -> list[Decoded]:
        """Decode, large pictures in threads; the first one that cannot be read is named by its place."""
        loop, info, pixels = asyncio.get_running_loop(), self.engine.info, self.settings.limits.pixels

        def decoded(place: int, most: int) -> Decoded:
            # Nobody waits for these any more; a thread that has begun with one cannot be stopped otherwise.
            if time.perf_counter() >= deadline:
                raise TimeoutError
            name = f"pictures[{place}] ({(body.names[place] or place)!s:.80})"
            return Decoded(body.data[place], info, name, most)

        if len(body.data) == 1 and len(body.data[0]) <= _SMALL_BYTES:
            # A thumbnail is decoded before another thread would have woken up.
            with contextlib.suppress(InputError):
                return [decoded(0, _SMALL_PIXELS)]
        tasks = [loop.run_in_executor(self._decoders, decoded, place, pixels) for place in range(len(body.data))]
        try:
            return await asyncio.gather(*tasks)
        except InputError as error:
            raise problem_of(error, 413 if "pixels" in error.what and "allowed" in error.what else 400) from None
        finally:
            for task in tasks:
                task.cancel()

    def _allowed(self, headers: Headers) -> float:
        most = self.settings.limits.deadline_seconds
        text = headers.get(DEADLINE_HEADER)
        if text is None:
            return most
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds <= most:
            raise Problem(
                400, f"{text[:40]!r}", where=DEADLINE_HEADER, allowed=[f"seconds, more than 0, up to {most:g}"]
            )
        return seconds

    async def _unless_left(self, request: Request, work: Coroutine[Any, Any, T]) -> T:
        """Return what ``work`` returns, or cancel it as soon as the client is gone."""

        async def left() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        task, gone = asyncio.ensure_future(work), asyncio.ensure_future(left())
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            self.metrics.dropped.add("left")
            raise ClientDisconnect
        finally:
            for each in (task, gone):
                each.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)


def _times(begin: float, decode: float, answers: Sequence[Answered]) -> dict[str, float]:
    told = {
        "decode": decode,
        "wait": sum(answer.waited for answer in answers),
        "inference": sum(answer.seconds for answer in answers),
        "total": time.perf_counter() - begin,
    }
    return {key: round(1000 * max(0.0, seconds), 3) for key, seconds in told.items()}
