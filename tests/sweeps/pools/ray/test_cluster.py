"""A sweep on a Ray cluster of two nodes, and what is said where one cannot be joined."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.errors import UserError
from sweeps.attempt.job import Trouble
from sweeps.ledger.types import Needs
from sweeps.pools.rack import Node, Rack
from sweeps.pools.ray import nodes as ray_nodes
from sweeps.pools.ray import pool as ray_pool
from sweeps.pools.ray import session as ray_session
from sweeps.pools.ray.nodes import Answer, as_node
from sweeps.pools.ray.pool import RayPool
from sweeps.pools.ray.waiting import FORGET_S, WaitingList
from tests.sweeps.tiny import tiny_data, tiny_job
from tests.sweeps.two_ray_nodes import TwoRayNodes

HERE = Path(__file__).parents[2]

# -- what the nodes are given -------------------------------------------------------------------


@pytest.fixture
def environment_file(tmp_path, monkeypatch):
    def write(text: str | None) -> Path:
        file = tmp_path / "environment.yaml"
        if text is not None:
            file.write_text(text)
        monkeypatch.setenv("SCALING_RUNTIME_ENV", str(file))
        return file

    return write


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (None, "must be a YAML file that can be read: .*No such file"),
        ("pip: [a\n", "must be a YAML file that can be read"),
        ("- pip\n", "there must be keys such as pip"),
        ("pips: [a]\n", "unknown key 'pips'; did you mean 'pip'"),
        ("working_dir: .\n", "unknown key 'working_dir'"),
        ("env_vars: [A]\n", "it must hold NAME: 'value' lines"),
        ("env_vars: {A: 1}\n", "env_vars.A is 1, it must be text: '1' in quotes"),
    ],
)
def test_a_bad_environment_file_is_refused_in_a_sentence(environment_file, text, messages):
    environment_file(text)
    with pytest.raises(UserError, match=messages):
        ray_session.read_environment()


def test_what_ray_does_not_accept_is_told_with_the_file(environment_file, tmp_path):
    environment_file("pip: 3\n")
    with pytest.raises(UserError, match="Ray does not accept it"):
        ray_session._runtime_environment(ray_session.read_environment(), tmp_path)


def test_the_nodes_get_code_packages_and_variables(environment_file, tmp_path):
    file = environment_file("pip: needs.txt\nenv_vars: {A: '1', MALLOC_TRIM_THRESHOLD_: '5'}\n")
    (tmp_path / "needs.txt").write_text("numpy\n")
    requested = ray_session.read_environment()
    assert requested["pip"] == str(file.parent / "needs.txt")
    environment = ray_session._runtime_environment(requested, tmp_path)
    assert environment["working_dir"] == str(tmp_path)
    variables = environment["env_vars"]
    assert (variables["A"], variables["MALLOC_TRIM_THRESHOLD_"]) == ("1", "5")
    assert variables["SCALING_CODE_VERSION"]


def test_an_image_brings_its_own_code(environment_file, tmp_path):
    environment_file("image_uri: registry.example/scaling:1\n")
    environment = ray_session._runtime_environment(ray_session.read_environment(), tmp_path)
    assert "working_dir" not in environment
    assert "SCALING_CODE_VERSION" not in environment["env_vars"]


def test_no_file_asks_for_nothing(monkeypatch):
    monkeypatch.delenv("SCALING_RUNTIME_ENV", raising=False)
    assert ray_session.read_environment() == {}


def test_the_code_that_is_sent_is_the_three_packages_and_small():
    with ray_session._staged_code() as folder:
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert {path.relative_to(folder).parts[0] for path in files} == {"scaling", "sweeps", "analysis"}
        assert (folder / "sweeps" / "attempt" / "worker.py").exists()
        assert not [path for path in files if "__pycache__" in path.parts or path.suffix == ".pyc"]
        assert sum(path.stat().st_size for path in files) < 10e6
    assert not folder.exists()


# -- the token and the address ------------------------------------------------------------------


@pytest.fixture
def no_token(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.setenv(name, "")  # so that what the code sets is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".ray" / "auth_token"


def test_a_missing_token_is_told_before_anything_is_tried(no_token, monkeypatch):
    with pytest.raises(
        UserError, match=r"no token for the Ray cluster at 'head:1': .*auth_token is not there"
    ):
        ray_session.prepare_token("head:1")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray_session.prepare_token("head:1")


def test_a_token_that_others_can_read_is_made_private_and_that_is_said_once(no_token, caplog):
    no_token.parent.mkdir()
    no_token.write_text("secret")
    no_token.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        ray_session.prepare_token("head:1")
        ray_session.prepare_token("head:1")
    assert no_token.stat().st_mode & 0o777 == 0o600
    assert [record.message for record in caplog.records] == [
        f"{no_token} could be read by others; it is private now (0600)"
    ]
    assert "secret" not in caplog.text


def test_rays_client_is_refused_with_the_way_that_works():
    with socket.create_server(("127.0.0.1", 0)) as listens:
        address = f"ray://127.0.0.1:{listens.getsockname()[1]}"
        with pytest.raises(UserError, match="start it on a node"):
            ray_session.check_answers(address, "--address")


def test_versions_that_differ_are_both_named():
    messages = (
        "Version mismatch: The cluster was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
        "This process on node 10.0.0.2 was started with:\n    Ray: 2.59.0\n    Python: 3.12.1\n"
    )
    sentence = ray_session._why_not_joined("head:1", messages)
    assert "has Ray 2.60.0 on Python 3.11.7 and this machine Ray 2.59.0 on Python 3.12.1;" in sentence


# -- nodes --------------------------------------------------------------------------------------


def told(labels: dict[str, str] | None = None, **values: object) -> SimpleNamespace:
    return SimpleNamespace(
        node_id=b"n1",
        node_manager_hostname="gpu-1",
        resources_total={"CPU": 8.0, **values},
        labels=labels or {},
    )


def test_nodes_know_their_gpus_and_further_resources():
    node = as_node(
        told(
            GPU=4.0,
            memory=1e9,
            object_store_memory=1e8,
            quota_anna=2.0,
            **{"accelerator_type:A100": 1.0, "node:10.0.0.2": 1.0, "node:__internal_head__": 1.0},
        )
    )
    assert (node.gpu_kind, node.gpus, node.gpu_memory_bytes) == ("A100", 4.0, 80e9)
    assert node.gpu_speed == pytest.approx(312e12)
    assert node.resources == {"quota_anna": 2.0}
    assert node.fits(Needs(gpus=1, gpu_memory_bytes=79e9, resources=(("quota_anna", 1.0),)))
    assert not node.fits(Needs(gpus=1, gpu_memory_bytes=81e9))


def test_a_gpu_that_nobody_knows_has_no_speed_and_any_memory():
    node = as_node(told({"ray.io/accelerator-type": "Abacus-3"}, GPU=1.0))
    assert (node.gpu_kind, node.gpu_speed, node.gpu_memory_bytes) == ("Abacus-3", 0.0, float("inf"))
    assert as_node(told()).gpu_kind == ""


# -- a cluster that goes away -------------------------------------------------------------------


class Joined(RayPool):
    """A pool on a cluster of the imagination: `answers` are what joining it anew comes to."""

    def __init__(self, *answers: Exception | None) -> None:
        self.answers, self.asked = list(answers), []
        self._address, self._rack, self._silent_since, self._error = "head:6379", Rack(), None, None
        self._tasks, self._lost, self._warming = {}, [], None
        self._closing, self._up, self._commands = threading.Event(), threading.Event(), self

    def submit_one(self, folder: Path) -> None:
        self._rack.update([as_node(told())])
        self._rack.place(1, Needs())
        self._tasks[1] = (None, tiny_job(tiny_data(folder / "data"), folder))

    def put(self, command: str) -> None:
        self.asked.append(command)
        self._error = self.answers.pop(0) if command == "start" else None
        self._up.set()


def test_a_head_that_is_silent_for_a_moment_costs_nothing(tmp_path, caplog):
    pool = Joined()
    pool.submit_one(tmp_path)
    for _ in range(3):
        pool._handle_silence(ray_session.HEAD)
    assert (len(pool._tasks), pool._lost, pool.asked) == (1, [], [])
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("the head of the Ray cluster at head:6379 has not answered since ")
    assert "the sweep ends after 10 min without an answer" in line


def test_a_cluster_that_stays_away_ends_the_sweep_with_a_sentence(tmp_path, monkeypatch):
    pool = Joined()
    pool.submit_one(tmp_path)
    monkeypatch.setattr(ray_pool, "SILENCE_S", 0.0)
    pool._handle_silence(ray_session.HEAD)
    pool._handle_silence(ray_session.HEAD)
    assert pool.asked == ["leave"], "Ray would end this process, did it stay"
    [(handle, outcome)] = pool._lost
    assert (handle, outcome.trouble) == (1, Trouble.LOST)
    assert outcome.sentence == "the Ray cluster at head:6379 went away"
    monkeypatch.setattr(ray_pool, "GIVE_UP_S", 0.0)
    with pytest.raises(UserError, match=r"'head:6379' has not answered since .* run the same command again"):
        pool._handle_silence(ray_session.HEAD)


def test_a_cluster_is_joined_anew_when_the_node_beside_the_driver_is_gone(tmp_path):
    pool = Joined(UserError("this machine is no node"), None)
    pool.submit_one(tmp_path)
    pool._handle_silence(ray_session.NODE)
    assert len(pool._lost) == 1
    assert pool._error is not None
    pool._handle_silence(ray_session.NODE)
    assert pool.asked == ["start", "start"]
    assert pool._error is None


def test_what_does_not_answer_is_named(tmp_path):
    path = str(tmp_path / "raylet")
    with socket.create_server(("127.0.0.1", 0)) as head, socket.socket(socket.AF_UNIX) as node:
        ends = ray_session.Ends(head.getsockname(), path)
        assert ends.silent() == ray_session.NODE
        node.bind(path)
        assert ends.silent() == ray_session.NODE, "a socket of a process that died"
        node.listen()
        assert ends.silent() is None
    assert ends.silent() == ray_session.HEAD


def test_a_node_that_does_not_see_the_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_nodes, "SEEN_WITHIN_S", 0.1)
    monkeypatch.setattr("ray.get", lambda answer, timeout: answer)
    probe = ray_nodes._write_probe(tmp_path / "out")
    answer = ray_nodes._answer(str(probe))
    ray_nodes._judge("n1", tmp_path, answer, 0.0)
    assert answer.missing == []
    assert list(probe.parent.iterdir()) == [probe]
    with pytest.raises(UserError, match=r"node 'n1' does not see the folder .* or give --storage"):
        ray_nodes._judge("n1", tmp_path, ray_nodes._answer(str(tmp_path / "elsewhere")), 0.0)


def test_a_node_without_packages_or_leave_to_write_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("ray.get", lambda answer, timeout: answer)
    lacking = Answer(missing=["torch"], sees=True, problem="")
    with pytest.raises(UserError, match="node 'n1' lacks the packages torch"):
        ray_nodes._judge("n1", None, lacking, 0.0)
    refused = Answer(missing=[], sees=True, problem="[Errno 13] Permission denied")
    with pytest.raises(UserError, match=r"node 'n1' cannot write to the folder .*Permission denied"):
        ray_nodes._judge("n1", tmp_path, refused, 0.0)


def test_what_fits_a_node_that_is_gone_waits_for_it():
    """Preempted nodes come back; only what no node ever could hold is refused."""
    from sweeps.pools.ray.pool import RayPool

    pool = RayPool.__new__(RayPool)
    pool._rack, pool._looked = Rack(), time.monotonic()
    head, big = Node(name="a", cpus=1), Node(name="b", cpus=8, gpus=8)
    for nodes in ([head, big], [head]):
        pool._rack.update(nodes)
    assert pool.rack.refusal(Needs(gpus=8)) is None
    assert "16 GPU" in pool.rack.refusal(Needs(gpus=16))
    assert pool.rack.find(Needs(gpus=8)) is None


def test_a_node_that_joins_is_used_once_it_has_passed_its_check(tmp_path, monkeypatch, caplog):
    good = Answer(missing=[], sees=True, problem="")
    blind = Answer(missing=[], sees=False, problem="")
    answered: dict[str, Answer] = {}
    monkeypatch.setattr(ray_nodes, "_ask", lambda node, probe: node.name)
    monkeypatch.setattr("ray.wait", lambda names, timeout: ([n for n in names if n in answered], []))
    monkeypatch.setattr("ray.get", lambda name, timeout: answered[name])
    nodes = [Node(name=name, host=name, cpus=1) for name in "abc"]
    newcomers = ray_nodes.Newcomers(tmp_path, nodes[:1])
    assert newcomers.fit(nodes) == nodes[:1], "nothing is waited for"
    answered |= {"b": good, "c": blind}
    for _ in range(3):
        assert newcomers.fit(nodes) == nodes[:2]
    assert [record.message.partition(": ")[0] for record in caplog.records] == [
        "a node that has joined is left out"
    ]
    assert "node 'c' does not see the folder" in caplog.text
    newcomers.fit([*nodes, Node(name="d", host="d", cpus=1)])
    assert newcomers.fit(nodes) == nodes[:2], "d left before it answered"
    assert not list(tmp_path.iterdir())


# -- who goes first -----------------------------------------------------------------------------


def test_the_more_important_sweep_goes_first_until_nothing_of_it_waits():
    now = [0.0]
    board = WaitingList(lambda: now[0])
    assert board.announce("d1", "nightly", 0, 9) is None
    assert board.announce("d2", "urgent", 2, 4) is None
    assert board.announce("d3", "sooner", 1, 1) == "urgent"
    assert board.announce("d1", "nightly", 0, 9) == "urgent"
    assert board.announce("d2", "urgent", 2, 0) is None
    assert board.announce("d1", "nightly", 0, 9) == "sooner"
    now[0] = FORGET_S + 1  # its driver died
    assert board.announce("d1", "nightly", 0, 9) is None


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(-2, 2), st.integers(0, 2), st.floats(0, 20)), max_size=30
    )
)
def test_nobody_waits_for_an_equal_or_for_each_other(messages):
    now = [0.0]
    board = WaitingList(lambda: now[0])
    last: dict[str, tuple[float, int, int]] = {}
    for who, priority, waiting, later in messages:
        now[0] += later
        name = f"sweep {who}"
        last[name] = (now[0], priority, waiting)
        goes_first = board.announce(f"driver {who}", name, priority, waiting)
        ahead = [
            other
            for at, other, runs in last.values()
            if now[0] - at <= FORGET_S and runs and other > priority
        ]
        assert (goes_first is not None) == bool(ahead)
        if goes_first is not None:
            assert last[goes_first][1] == max(ahead)


# -- two nodes, started by hand -----------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    nodes = TwoRayNodes()
    yield nodes
    nodes.close()


def ask(cluster: TwoRayNodes, what: str, folder: Path, **more: str) -> dict:
    done = cluster.run(str(HERE / "cluster_jobs.py"), what, str(folder / "data"), str(folder / "out"), **more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_sweep_runs_on_both_nodes(cluster, tmp_path):
    tiny_data(tmp_path / "data")
    done = cluster.run(
        str(HERE / "toy_sweep.py"), str(tmp_path / "data"), str(tmp_path / "out"), "ray", "4", "300"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 runs: 4 finished" in done.stdout
    assert not list((tmp_path / "out").glob(".probe-*"))


@pytest.mark.slow
def test_a_run_goes_to_the_node_that_has_what_it_needs(cluster, tmp_path, environment_file):
    file = environment_file("env_vars: {MINE: yes-it-is}\n")
    answer = ask(cluster, "quota", tmp_path, SCALING_RUNTIME_ENV=str(file))
    where = answer["where"]
    assert where["quota"]
    assert "working_dir" in where["cwd"]  # the code that was sent, not what lies here
    assert where["environment"] == "yes-it-is"
    assert where["code_version"] == answer["driver"]
    assert (answer["ends"], answer["slots"], answer["slots_in_all"]) == (["finished"], 1, 2)
    assert "quota_bert" in answer["refusal"]


@pytest.mark.slow
def test_jobs_spread_and_pass_by_a_node_that_is_taken(cluster, tmp_path):
    answer = ask(cluster, "spread", tmp_path)
    assert len(set(answer["nodes"])) == 2
    assert answer["ends"] == ["finished"] * 3


@pytest.mark.slow
def test_sweeps_on_one_cluster_hear_of_each_other(cluster, tmp_path):
    answer = ask(cluster, "waiting", tmp_path)
    assert answer["first"] == [None, None, "urgent", None, None]
    assert answer["then"] == "mine"


@pytest.mark.slow
def test_a_wrong_token_is_told_within_seconds(cluster, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 64)
    start = time.monotonic()
    answer = ask(cluster, "quota", tmp_path, RAY_AUTH_TOKEN_PATH=str(wrong))
    assert "refuses the token of this machine" in answer["error"]
    assert wrong.stat().st_mode & 0o777 == 0o600
    assert time.monotonic() - start < 30
