"""The pool of Ray. Only this folder imports Ray; all else works without it.

Jobs are plain tasks with `max_retries=0`, because the scheduler retries. A worker process serves many jobs
and is replaced only after a failure. Jobs with GPUs run in processes of their own, `sweeps.pools.processes`.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scaling.errors import UserError
from sweeps.attempt.job import RESULT, Job, Outcome, Trouble, failure, in_fresh_process_next, killed, lost
from sweeps.ledger.types import Needs
from sweeps.pools.base import PoolOptions
from sweeps.pools.entry import load_packages, run
from sweeps.pools.processes import Server
from sweeps.pools.rack import Handle, Rack
from sweeps.pools.ray import session as ray_session
from sweeps.pools.ray.nodes import Newcomers, check_nodes, living_nodes
from sweeps.pools.ray.waiting import Waiting

NODES_EVERY_S = 5.0
SILENCE_S = 30.0
"""How long a cluster may be silent before its jobs count as lost; Ray itself ends this process after 60 s."""
GIVE_UP_S = 600.0

logger = logging.getLogger(__name__)


class RayPool:
    """See `sweeps.pools.base.Pool`. Ray starts in a thread, while the caller does other things.

    That thread lives as long as the pool, because the kernel ends Ray's processes with the thread that has
    started them.
    """

    def __init__(self, options: PoolOptions) -> None:
        """UserError if nothing listens at the address, or there is no token for it."""
        address = options.address
        self._address = address or os.environ.get("RAY_ADDRESS") or "local"
        if self._is_here:
            ray_session.prepare_local_environment()
        else:
            ray_session.check_answers(self._address, "--address" if address else "RAY_ADDRESS")
            ray_session.prepare_token(self._address)
        self._options, self._waiting = options, Waiting(options.sweep)
        self._rack = Rack()
        self._newcomers: Newcomers | None = None
        self._looked = 0.0
        self._silent_since: float | None = None
        """Wall time at which a cluster that was joined stopped to answer."""
        self._tasks: dict[Handle, tuple[Any, Job]] = {}
        self._killed: set[Handle] = set()
        self._count = 0
        self._lost: list[tuple[Handle, Outcome]] = []
        self._up = threading.Event()
        self._commands: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._error: Exception | None = None
        self._closing = threading.Event()
        self._warming: threading.Thread | None = None
        self._thread = threading.Thread(target=self._live, name="ray", daemon=True)
        self._thread.start()

    def _live(self) -> None:
        with ExitStack() as stack:
            folder, command = "", "start"
            while command != "stop":
                try:
                    if self._is_here and not folder:
                        folder = stack.enter_context(ray_session.session_folder())
                    if command == "start":
                        self._start(folder)
                    self._error = None
                except Exception as error:  # handed to the thread that calls `ready`
                    self._error = error
                    ray_session.leave()
                self._up.set()
                command = self._commands.get()
                ray_session.leave()

    @property
    def _is_here(self) -> bool:
        return self._address == "local"

    def _start(self, folder: str) -> None:
        if self._is_here:
            ray_session.start_here(self._options.cpus, self._options.gpus, folder)
        else:
            ray_session.join(self._address)
        import ray

        self._ends = ray_session.Ends.here()
        self._run = ray.remote(max_retries=0)(_run)
        self._run_on_gpu = ray.remote(max_retries=0, num_gpus=1, max_calls=0)(_run_in_fork)
        if not self._is_here:
            nodes = [node for node in living_nodes() if node.cpus]
            check_nodes(nodes, self._options.shared)
            self._newcomers = Newcomers(self._options.shared, nodes)

    def ready(self) -> None:
        self._up.wait()
        if isinstance(self._error, UserError):
            raise self._error
        if self._error is not None:
            where = "on this machine" if self._is_here else f"at {self._address!r}"
            raise UserError(f"cannot start Ray {where}: {self._error}") from self._error
        self._look()

    def _look(self) -> None:
        """Update the rack every few seconds, because clusters grow and shrink."""
        if time.monotonic() - self._looked < NODES_EVERY_S and self._looked:
            return
        self._looked = time.monotonic()
        import ray

        silent, nodes = self._ends.silent(), []
        try:
            nodes = [] if silent else living_nodes()
        except ray.exceptions.RpcError:  # it died just now
            silent = ray_session.HEAD
        if silent:
            self._handle_silence(silent)
            return
        if self._silent_since is not None:
            logger.warning("the Ray cluster at %s answers again", self._address)
            self._silent_since = None
        self._rack.update(nodes if self._newcomers is None else self._newcomers.fit(nodes))

    def _handle_silence(self, silent: str) -> None:
        """Start Ray on this machine again; wait for a cluster, a part of which (`silent`) does not answer.

        If its head is silent for SILENCE_S, its jobs are lost. If the node beside the driver is gone, the
        cluster is joined anew. UserError after GIVE_UP_S.
        """
        if self._is_here:
            self._lose("Ray on this machine died", then="start")
            self._looked = 0.0
            self.ready()
            return
        if self._silent_since is None:
            self._silent_since = time.time()
            logger.warning(
                "%s of the Ray cluster at %s has not answered since %s; its runs go on if it answers within "
                "%.0f s, and start again if it does later; the sweep ends after %.0f min without an answer",
                silent, self._address, _clock(self._silent_since), SILENCE_S, GIVE_UP_S / 60,
            )  # fmt: skip
        self._rack.update([])  # nothing is started meanwhile
        silent_s = time.time() - self._silent_since
        if silent == ray_session.NODE:
            self._lose(f"the Ray cluster at {self._address} went away", then="start")
            silent += f" ({self._error})"
            if self._error is None:
                self._looked = 0.0
                return
        elif silent_s > SILENCE_S and self._error is None:
            self._lose(f"the Ray cluster at {self._address} went away", then="leave")
            self._error = UserError("it was left")
        if silent_s > GIVE_UP_S:
            raise UserError(
                f"{silent} of the Ray cluster at {self._address!r} has not answered since "
                f"{_clock(self._silent_since)}; run the same command again once it does, the sweep goes on"
            )

    def _lose(self, how: str, *, then: str) -> None:
        """Count all jobs as lost, and `then` start Ray again or leave the cluster."""
        for handle, (_, job) in self._tasks.items():
            self._rack.remove(handle)
            self._lost.append((handle, lost(job, how)))
        self._tasks.clear()
        self._stop_warming()
        self._up.clear()
        self._commands.put(then)
        self._up.wait()

    def warm(self, count: int) -> None:
        def load() -> None:
            import ray

            self._up.wait()
            if self._error is not None:
                return
            with suppress(ray.exceptions.RayError):  # a job loads what is not loaded yet
                task = ray.remote(max_retries=0)(load_packages)
                slots = int(ray.cluster_resources().get("CPU", 0))
                left = [task.remote() for _ in range(min(count, slots))]
                while left and not self._closing.is_set():
                    _, left = ray.wait(left, timeout=0.1)

        self._warming = threading.Thread(target=load, name="warm", daemon=True)
        self._warming.start()

    @property
    def rack(self) -> Rack:
        self._look()
        return self._rack

    def submit(self, job: Job, needs: Needs, *, avoid_host: str | None = None) -> Handle:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._count += 1
        options: dict[str, Any] = {
            "num_cpus": needs.cpus,
            "memory": int(needs.memory_bytes) or None,
            "resources": dict(needs.resources),
            "name": job.key,
        }
        node = self._rack.place(self._count, needs, avoid_host=avoid_host)
        if node is not None:  # on another if it is gone, or taken by another sweep meanwhile
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(
                node.name, soft=True, _spill_on_unavailable=True
            )
        if needs.gpus:
            task = self._run_on_gpu.options(num_gpus=needs.gpus, **options)
        else:
            task = self._run.options(**options)
        self._tasks[self._count] = (task.remote(asdict(job)), job)
        return self._count

    def wait(self, timeout_s: float) -> list[tuple[Handle, Outcome]]:
        import ray

        self._look()  # tasks of a Ray that died never end
        if self._lost:
            ended, self._lost = self._lost, []
            return ended
        if not self._tasks:
            time.sleep(timeout_s)
            return []
        handles = {task: handle for handle, (task, _) in self._tasks.items()}
        done, rest = ray.wait(list(handles), num_returns=1, timeout=timeout_s)
        if done and rest:
            done += ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        return [(handles[task], self._settle(handles[task])) for task in done]

    def _settle(self, handle: Handle) -> Outcome:
        import ray

        task, job = self._tasks.pop(handle)
        self._rack.remove(handle)
        try:
            return Outcome.from_dict(ray.get(task))
        except ray.exceptions.RayTaskError as error:  # raised before or after the run itself, not by it
            return failure(error)
        except ray.exceptions.OutOfMemoryError as error:
            text = f"the node was low on memory and Ray ended the worker: {error}".splitlines()[0]
            return Outcome(
                status="failed", sentence=text, trouble=Trouble.NODE_MEMORY, signature="node low on memory"
            )
        except ray.exceptions.RayError as error:
            if handle in self._killed:
                self._killed.discard(handle)
                return killed()
            return lost(job, f"the worker or its node was lost ({type(error).__name__})")

    def yields_to(self, priority: int, waiting: int) -> str | None:
        if self._is_here or self._silent_since is not None:
            return None
        return self._waiting.announce(priority, waiting)

    def kill(self, handle: Handle) -> None:
        import ray

        if handle in self._tasks:
            self._killed.add(handle)
            ray.cancel(self._tasks[handle][0], force=True)

    def _stop_warming(self) -> None:
        self._closing.set()
        if self._warming is not None:
            self._warming.join()  # Ray ends a process that calls it while it shuts down

    def close(self) -> None:
        self._stop_warming()
        self._commands.put("stop")
        self._thread.join()


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def _run(job: dict[str, Any]) -> dict[str, Any]:
    """The task. After a failure it ends its process, so that the next job gets a fresh one."""
    outcome = run(Job.from_dict(job))
    if in_fresh_process_next(outcome) and (Path(job["folder"]) / RESULT).exists():
        raise SystemExit(0)  # the driver finds the outcome where the worker wrote it
    return asdict(outcome)


_servers: list[Server] = []
"""This worker process's server, once it has one."""


def _run_in_fork(job: dict[str, Any]) -> dict[str, Any]:
    """The task of a job with GPUs."""
    if not _servers or not _servers[0].alive:
        _servers[:] = [Server()]
    _servers[0].send(Job.from_dict(job), os.environ)
    return asdict(_servers[0].receive(Job.from_dict(job)))
