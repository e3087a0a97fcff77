"""Starts Ray on this machine or joins a cluster: token, folders, the code that is sent to the nodes."""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.errors import UserError, unknown
from scaling.files import private_folder, scratch_folder
from sweeps.attempt.worker import CODE_VERSION, code_version
from sweeps.pools.base import WORKER_ENVIRONMENT

OBJECT_STORE_BYTES = 80 * 2**20
"""Jobs and outcomes are a few kilobytes; Ray would take 30 % of the memory."""
CONNECT_S = 5.0
SOCKET_PATH_LIMIT = 107
SESSION_PATH = len("/01234567/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store")
PACKAGES = ("scaling", "sweeps", "analysis")
ENVIRONMENT_FILE = "SCALING_RUNTIME_ENV"
ENVIRONMENT_KEYS = ("pip", "uv", "conda", "image_uri", "env_vars", "config")

logger = logging.getLogger(__name__)


def start_here(cpus: int | None, gpus: int | None, folder: str) -> None:
    """Start a Ray of this process's own in `folder`, after `prepare_local_environment`."""
    _forget_token()
    _init(
        address="local",
        num_cpus=cpus,
        num_gpus=gpus,
        object_store_memory=OBJECT_STORE_BYTES,
        job_config=_import_paths(Path(__file__).parents[2]),
        include_dashboard=False,
        _temp_dir=folder,
    )


def join(address: str) -> None:
    """Connect to the cluster at `address`, and have its nodes fetch this code, once per version.

    UserError if the cluster refuses the token, has another version of Python or Ray, or does not have this
    machine as a node, and if Ray does not accept the runtime environment.
    """
    requested = read_environment()
    _forget_token()
    _check_cluster(address)
    # A driver that is itself a Ray job brings its own code, and adds to what the job was given.
    os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
    with _staged_code() as code:
        environment = _runtime_environment(requested, code)
        try:
            _init(address=address, runtime_env=environment, job_config=_import_paths())
        except (RuntimeError, ConnectionError) as error:
            raise UserError(_why_not_joined(address, str(error))) from error


def _forget_token() -> None:
    """Ray keeps the token it first read; by now another one may be the right one."""
    from ray import _raylet

    internals: Any = _raylet
    internals.AuthenticationTokenLoader.instance().reset_cache()


def _import_paths(*folders: Path) -> Any:
    """Folders that workers import from first, and no others.

    Ray would add the folder in which the driver was started, and a file scaling.py there would take the place
    of our package. It leaves that folder out for a job that brings a working folder, as this one claims to.
    """
    from ray.job_config import JobConfig

    class OwnFolders(JobConfig):
        def _runtime_env_has_working_dir(self) -> bool:
            return True

    return OwnFolders(_py_driver_sys_path=[str(folder) for folder in folders])


def _init(**options: Any) -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)
    import ray

    ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    internals: Any = ray._private.worker
    internals._worker_logs_enabled = False  # Ray's messages on lost workers; the outcomes have the same


def leave() -> None:
    """End what was started here, or the connection to what was joined."""
    import ray

    ray.shutdown()


HEAD, NODE = "the head", "the node beside this driver"


@dataclass(frozen=True, slots=True)
class Ends:
    """Addresses of Ray's processes that this one talks to."""

    head: tuple[str, int]
    node: str
    """A socket's path."""

    @classmethod
    def here(cls) -> Ends:
        """Of the Ray that was started or joined."""
        import ray

        internals: Any = ray._private.worker
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        return cls((host.strip("[]"), int(port)), internals._global_node.raylet_socket_name)

    def silent(self) -> str | None:
        """Which of them does not answer; None if both do."""
        try:
            socket.create_connection(self.head, timeout=CONNECT_S).close()
        except OSError:
            return HEAD
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(CONNECT_S)
            try:
                line.connect(self.node)
            except OSError:
                return NODE
        return None


def _why_not_joined(address: str, message: str) -> str:
    """Ray's paragraphs as one sentence."""
    versions = re.findall(r"Ray: (\S+)\s+Python: (\S+)", message)
    if "ersion mismatch" in message and len(versions) == 2:
        there, here = (f"Ray {ray} on Python {python}" for ray, python in versions)
        return (
            f"the Ray cluster at {address!r} has {there} and this machine {here}; they have to be the same, "
            "best those of constraints.txt"
        )
    return f"cannot join the Ray cluster at {address!r}: {' '.join(message.split())}"


# -- the address --------------------------------------------------------------------------------


def check_answers(address: str, setting: str) -> None:
    """UserError unless something listens at host:port; Ray itself would try for a minute and then abort.

    setting: the option or variable that holds the address.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UserError(f"{setting} is {address!r}, it must be HOST:PORT, 'auto' or 'local'")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise UserError(
            f"no Ray cluster answers at {address!r} ({setting}): {error}; check the address, "
            "or leave it out to run on this machine"
        ) from error
    if address.startswith("ray://"):
        raise UserError(
            f"{setting} is {address!r}, but a sweep cannot run through Ray's client: start it on a node "
            "of the cluster with that cluster's HOST:PORT, or submit it as a Ray job"
        )


# -- the token ----------------------------------------------------------------------------------


def prepare_local_environment() -> None:
    """Set the variables that Ray and its workers inherit from this process, unless the user has set them."""
    for name, value in {
        **WORKER_ENVIRONMENT,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }.items():
        os.environ.setdefault(name, value)
    has_token = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    if os.environ["RAY_AUTH_MODE"] == "token" and not has_token:
        # a secret of this sweep alone: the home folder, to which Ray would write one, may be read-only
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def prepare_token(address: str) -> None:
    """Switch the token on, which `ray.init` at an address does not do, and make its file private.

    UserError if there is no token. RAY_AUTH_MODE=disabled is for a cluster without.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if os.environ["RAY_AUTH_MODE"] != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not path.is_file():
        raise UserError(
            f"no token for the Ray cluster at {address!r}: {path} is not there; copy the head node's "
            "~/.ray/auth_token to it, or set RAY_AUTH_TOKEN (for a cluster without: RAY_AUTH_MODE=disabled)"
        )
    try:  # the token lets its reader run code on the whole cluster
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
            logger.warning("%s could be read by others; it is private now (0600)", path)
    except OSError as error:
        logger.warning("%s can be read by others and cannot be made private: %s", path, error)


def _check_cluster(address: str) -> None:
    """UserError if the cluster refuses our token, or this machine is none of its nodes.

    `ray.init` comes later: it would try a wrong token for twenty seconds, and end the process if there is no
    node here.
    """
    import ray
    from ray import _raylet
    from ray._private.services import canonicalize_bootstrap_address_or_die

    internals: Any = _raylet
    head = canonicalize_bootstrap_address_or_die(address)
    any_id = "0" * 56  # of a cluster: with an id of our own choice no request goes before the check
    try:
        internals.GcsClient(address=head, cluster_id=any_id).check_alive([], timeout=CONNECT_S)
    except ray.exceptions.AuthenticationError as error:
        if "InvalidAuthToken" in str(error):
            raise UserError(
                f"the Ray cluster at {address!r} refuses the token of this machine; take the head node's "
                "(ray get-auth-token, run there): in RAY_AUTH_TOKEN, or in ~/.ray/auth_token, with "
                "RAY_AUTH_MODE=token"
            ) from error
    except ray.exceptions.RpcError as error:
        raise UserError(
            f"no Ray cluster of version {ray.__version__} answers at {address!r}: {error}"
        ) from error
    nodes = internals.GcsClient(address=head).get_all_node_info(timeout=CONNECT_S)
    if not any(Path(node.raylet_socket_name).exists() for node in nodes.values()):
        raise UserError(
            f"this machine is no node of the Ray cluster at {address!r}, and a sweep has to start on one: "
            f"start it on a node, or add this machine (ray start --address={address})"
        )


# -- code and packages for the nodes ------------------------------------------------------------


@contextmanager
def _staged_code() -> Iterator[Path]:
    """A folder with the three packages and nothing else: no runs, no environment, no history.

    One folder reaches the nodes faster than three modules do (measured: 2.9 s against 3.9 s until the first
    task was done), and workers import from it before the folder in which the driver was started.
    """
    root = Path(__file__).parents[3]
    with tempfile.TemporaryDirectory(prefix="scaling-code-") as folder:
        for name in PACKAGES:
            shutil.copytree(
                root / name, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__", ".*")
            )
        yield Path(folder)


def _runtime_environment(requested: Mapping[str, Any], code: Path) -> dict[str, Any]:
    import ray.runtime_env

    environment, variables = dict(requested), dict(WORKER_ENVIRONMENT)
    if "image_uri" not in requested:  # Ray sends no code into an image, which has its own
        environment["working_dir"] = str(code)
        variables[CODE_VERSION] = code_version()
    environment["env_vars"] = {**variables, **requested.get("env_vars", {})}
    try:
        ray.runtime_env.RuntimeEnv(**environment)
    except (ValueError, TypeError, OSError) as error:
        source = os.environ.get(ENVIRONMENT_FILE)
        raise UserError(f"{ENVIRONMENT_FILE} is {source!r}, and Ray does not accept it: {error}") from error
    return environment


def read_environment() -> dict[str, Any]:
    """The runtime environment in SCALING_RUNTIME_ENV=FILE.yaml; it names files relative to its own folder.

    UserError if the file cannot be read, is no YAML, has an unknown key or a variable that is no text.
    """
    source = os.environ.get(ENVIRONMENT_FILE)
    if not source:
        return {}
    from sweeps.config.load import parse_yaml

    try:
        environment = parse_yaml(Path(source).read_text(encoding="utf-8"), source)
    except (OSError, UnicodeDecodeError, UserError) as error:
        words = " ".join(str(error).split())
        raise UserError(
            f"{ENVIRONMENT_FILE} is {source!r}, it must be a YAML file that can be read: {words}"
        ) from error
    if not isinstance(environment, dict):
        raise UserError(f"{source}: there must be keys such as pip, uv, conda, image_uri, env_vars")
    for key, value in environment.items():
        if key not in ENVIRONMENT_KEYS:
            raise UserError(f"{source}: {unknown('key', key, ENVIRONMENT_KEYS)}")
        if isinstance(value, str) and value.endswith((".txt", ".yaml", ".yml", ".toml")):
            environment[key] = str(Path(source).absolute().parent / value)
    variables = environment.get("env_vars", {})
    if not isinstance(variables, dict):
        raise UserError(f"{source}: env_vars is {variables!r}, it must hold NAME: 'value' lines")
    for name, value in variables.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise UserError(f"{source}: env_vars.{name} is {value!r}, it must be text: '{value}' in quotes")
    return environment


# -- folders ------------------------------------------------------------------------------------


@contextmanager
def session_folder() -> Iterator[str]:
    """A folder for one Ray that no other user can enter, whatever modes Ray sets in it.

    It is removed afterwards; the next driver removes those of killed drivers. Ray's sockets lie in it, and
    their paths may not exceed 107 bytes. UserError if there is no such folder, or it belongs to another user.
    """
    for base in (os.environ.get("RAY_TMPDIR"), tempfile.gettempdir(), "/tmp"):
        folder = Path(base or "/tmp") / f"ray-{os.getuid()}"
        if base is None or len(str(folder)) + SESSION_PATH > SOCKET_PATH_LIMIT:
            continue
        try:
            private_folder(folder)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            with scratch_folder(folder) as scratch:
                yield str(scratch)
            return
    raise UserError("Ray needs a folder with a short name that can be written; set RAY_TMPDIR to one")
