"""A child process of the server: started when there is a job, ended when there was none for a while."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any

LONGEST_LINE = 1 << 24
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class ChildError(Exception):
    """The child process died in the middle of a job, or the job failed; says why in one sentence."""


class Child:
    """One worker process; its jobs run one after the other."""

    def __init__(self, base: Mapping[str, Any], idle_s: float) -> None:
        """base: what every job carries. idle_s: how long the process waits for the next job."""
        self.base, self.idle_s = dict(base), idle_s
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()
        self._ending: asyncio.TimerHandle | None = None

    async def ask(self, **job: Any) -> AsyncIterator[dict[str, Any]]:
        """Its answers to one job, the last one with "end". ChildError where it fails."""
        async with self._lock:
            if self._ending is not None:
                self._ending.cancel()
            process = await self._running()
            assert process.stdin is not None, "opened as a pipe"
            assert process.stdout is not None, "opened as a pipe"
            try:
                process.stdin.write(json.dumps({**self.base, **job}).encode() + b"\n")
                await process.stdin.drain()
                answer: dict[str, Any] = {}
                while not answer.get("end"):
                    line = await process.stdout.readline()
                    if not line:
                        raise ConnectionResetError
                    answer = json.loads(line)
                    if "error" in answer:
                        raise ChildError(answer["error"])
                    yield answer
            except (ConnectionResetError, BrokenPipeError, ValueError):
                await self._kill()
                raise ChildError("the process that reads and fits has died; it is started again") from None
            except (asyncio.CancelledError, GeneratorExit):
                await self._kill()  # a half-read answer must not be taken for that of the next job
                raise
            finally:
                loop = asyncio.get_running_loop()
                self._ending = loop.call_later(self.idle_s, self._let_go)

    async def last(self, **job: Any) -> dict[str, Any]:
        """Its last answer to one job."""
        answer: dict[str, Any] = {}
        async for one in self.ask(**job):
            answer = one
        return answer

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            one_thread = {name: os.environ.get(name, "1") for name in THREADS}
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "analysis.dashboard.worker",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                limit=LONGEST_LINE, env={**os.environ, **one_thread},
                start_new_session=True,  # Ctrl-C is for the server, which then lets go of its children
            )  # fmt: skip
        return self._process

    def _let_go(self) -> None:
        """End of input is the end of the process."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process = None

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    async def close(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
        await self._kill()
