"""Ray, all of it: any other module of the program works without.

Plain tasks with `max_retries=0`; retries are the scheduler's. A worker process serves many jobs and is
replaced only after a failure (or after a job with GPUs, which stay with the process that first used them).
"""

from __future__ import annotations

import logging
import os
import queue
import secrets
import shutil
import socket
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from scaling.errors import UserError
from sweeps.ledger_types import Needs
from sweeps.pool import WORKER_ENVIRONMENT, in_fresh_process_next, killed, lost
from sweeps.rack import Handle, Node, Rack
from sweeps.worker import RESULT, Job, Outcome, Trouble, failure, run_job

OBJECT_STORE_BYTES = 80 * 2**20
"""Jobs and outcomes are a few kilobytes; Ray would take 30 % of the memory."""
CONNECT_S = 5.0
NODES_EVERY_S = 5.0
SOCKET_PATH_LIMIT = 107
SESSION_PATH = len("/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store")


class RayPool:
    """See `sweeps.pool.Pool`. Ray starts in a thread of its own, while the caller does other things.

    That thread lives as long as the pool: Ray's processes ask the kernel to die with the thread that
    started them.
    """

    def __init__(
        self, *, address: str | None = None, cpus: int | None = None, gpus: int | None = None
    ) -> None:
        """UserError where nothing listens at `address` (default: RAY_ADDRESS, else a cluster is started)."""
        self._address = address or os.environ.get("RAY_ADDRESS") or "local"
        if self._address == "local":
            _prepare_local_environment()
        else:
            _check_answers(self._address)
            _prepare_token()
        self._cpus, self._gpus = cpus, gpus
        self._rack = Rack()
        self._looked = 0.0
        self._tasks: dict[Handle, tuple[Any, Job]] = {}
        self._killed: set[Handle] = set()
        self._count = 0
        self._lost: list[tuple[Handle, Outcome]] = []
        self._up = threading.Event()
        self._commands: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._error: Exception | None = None
        self._to_warm = 0
        self._thread = threading.Thread(target=self._live, name="ray", daemon=True)
        self._thread.start()

    def _live(self) -> None:
        command = "start"
        while command == "start":
            try:
                self._start()
            except Exception as error:  # handed to the thread that calls `ready`
                self._error = error
                self._up.set()
                return
            self._up.set()
            command = self._commands.get()
            self._shut_down()

    def _start(self) -> None:
        logging.getLogger("ray").setLevel(logging.ERROR)
        import ray

        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._address == "local":
            options |= {
                "num_cpus": self._cpus,
                "num_gpus": self._gpus,
                "object_store_memory": OBJECT_STORE_BYTES,
                "include_dashboard": False,
                "_temp_dir": _short_folder(),
            }
        else:
            options["runtime_env"] = {"env_vars": dict(WORKER_ENVIRONMENT)}
        ray.init(address=self._address, **options)
        internals: Any = ray._private.worker
        internals._worker_logs_enabled = False  # what Ray has to say of lost workers, the outcomes tell
        node = internals._global_node
        self._session = Path(node.get_session_dir_path())
        self._run = ray.remote(max_retries=0)(_run)
        self._run_on_gpu = ray.remote(max_retries=0, num_gpus=1, max_calls=1)(_run)

    def _shut_down(self) -> None:
        import ray

        ray.shutdown()
        if self._address == "local":
            shutil.rmtree(self._session, ignore_errors=True)

    def ready(self) -> None:
        self._up.wait()
        if self._error is not None:
            where = "on this machine" if self._address == "local" else f"at {self._address!r}"
            raise UserError(f"cannot start Ray {where}: {self._error}") from self._error
        self._look()

    def _look(self) -> None:
        """The nodes there are; asked for every few seconds, for clusters grow and shrink."""
        import ray

        if time.monotonic() - self._looked < NODES_EVERY_S and self._looked:
            return
        self._looked = time.monotonic()
        nodes = [node for node in ray.nodes() if node["Alive"]]
        if not nodes and self._address == "local":
            self._start_again()
            return
        self._rack.update(
            Node(
                name=node["NodeID"],
                host=node["NodeManagerHostname"],
                cpus=node["Resources"].get("CPU", 0.0),
                gpus=node["Resources"].get("GPU", 0.0),
                memory_bytes=node["Resources"].get("memory", float("inf")),
            )
            for node in nodes
        )

    def _start_again(self) -> None:
        """A new Ray on this machine, whose own has died; what ran on it is lost."""
        for handle, (_, job) in self._tasks.items():
            self._rack.remove(handle)
            self._lost.append((handle, lost(job, "Ray on this machine died")))
        self._tasks.clear()
        self._looked = 0.0
        self._up.clear()
        self._commands.put("start")
        self.ready()

    def warm(self, count: int) -> None:
        def load() -> None:
            import ray

            self._up.wait()
            if self._error is not None:
                return
            with suppress(ray.exceptions.RayError):  # a pool that closes meanwhile; jobs load it themselves
                task = ray.remote(max_retries=0)(_warm)
                slots = int(ray.cluster_resources().get("CPU", 0))
                ray.get([task.remote() for _ in range(min(count, slots))])

        threading.Thread(target=load, name="warm", daemon=True).start()

    def refusal(self, needs: Needs) -> str | None:
        self._look()
        return self._rack.refusal(needs)

    def slots(self, needs: Needs) -> int:
        self._look()
        return self._rack.slots(needs)

    def hosts(self) -> int:
        self._look()
        return len({node.host for node in self._rack.nodes})

    def has_room(self, needs: Needs) -> bool:
        return self.where(needs) is not None

    def where(self, needs: Needs) -> Node | None:
        self._look()
        return self._rack.find(needs)

    def submit(self, job: Job, needs: Needs, *, avoid_host: str | None = None) -> Handle:
        self._count += 1
        options: dict[str, Any] = {
            "num_cpus": needs.cpus,
            "memory": int(needs.memory_bytes) or None,
            "resources": dict(needs.resources),
            "name": job.key,
        }
        node = self._rack.place(self._count, needs, avoid_host=avoid_host)
        if node is not None:
            options["scheduling_strategy"] = self._on(node.name)
        if needs.gpus:
            task = self._run_on_gpu.options(num_gpus=needs.gpus, **options)
        else:
            task = self._run.options(**options)
        self._tasks[self._count] = (task.remote(job.to_dict()), job)
        return self._count

    def _on(self, node: str) -> Any:
        """On that node, or on another should it be gone or taken by somebody else meanwhile."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node, soft=True, _spill_on_unavailable=True)

    def wait(self, timeout_s: float) -> list[tuple[Handle, Outcome]]:
        import ray

        self._look()  # tasks of a Ray that died say nothing
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
            text = f"Ray ended the worker to save the node's memory: {error}".splitlines()[0]
            return Outcome(status="failed", sentence=text, trouble=Trouble.MEMORY, signature="out of memory")
        except ray.exceptions.RayError as error:
            if handle in self._killed:
                self._killed.discard(handle)
                return killed()
            return lost(job, f"the worker or its node was lost ({type(error).__name__})")

    def yields_to(self, priority: int, waiting: int) -> str | None:
        return None

    def kill(self, handle: Handle) -> None:
        import ray

        if handle in self._tasks:
            self._killed.add(handle)
            ray.cancel(self._tasks[handle][0], force=True)

    def close(self) -> None:
        self._commands.put("stop")
        self._thread.join()


def _run(job: dict[str, Any]) -> dict[str, Any]:
    """The task. After a failure it ends its process, so that the next job gets a fresh one."""
    outcome = run_job(Job.from_dict(job))
    if in_fresh_process_next(outcome) and (Path(job["folder"]) / RESULT).exists():
        raise SystemExit(0)  # the driver finds the outcome where the worker wrote it
    return outcome.to_dict()


def _warm() -> None:
    from sweeps.pool_local import load_what_runs_need

    load_what_runs_need()


def _prepare_local_environment() -> None:
    """What Ray and its workers inherit from this process. Each variable may be set by the user instead."""
    for name, value in {
        **WORKER_ENVIRONMENT,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }.items():
        os.environ.setdefault(name, value)
    given = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    if os.environ["RAY_AUTH_MODE"] == "token" and not given:
        # a secret of this sweep alone, so that nothing is written to the home folder, which may be read-only
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _prepare_token() -> None:
    """`ray.init` on an address does not switch the token on by itself, although it may have one."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    has_token = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    if has_token or (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _check_answers(address: str) -> None:
    """UserError unless something listens at host:port; Ray itself would try for a minute and then abort."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"Ray address is {address!r}, it must be HOST:PORT, 'auto' or 'local'")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise UserError(
            f"no Ray cluster answers at {address!r} ({error}); check the address, "
            "or leave it out to run on this machine"
        ) from error


def _short_folder() -> str:
    """A folder for Ray's sockets, whose paths may not exceed 107 bytes; one per user."""
    for base in (os.environ.get("RAY_TMPDIR"), tempfile.gettempdir(), "/tmp"):
        if base is None:
            continue
        folder = Path(base) / f"ray-{os.getuid()}"
        if len(str(folder)) + SESSION_PATH > SOCKET_PATH_LIMIT:
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return str(folder)
    raise UserError("Ray needs a folder with a short name that can be written; set RAY_TMPDIR to one")
