"""Room: where a run goes, what never fits, how many go at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sweeps.ledger.types import Needs
from sweeps.pools.rack import Node, Rack

GB = 1e9


def test_a_run_goes_where_it_leaves_the_least_room():
    rack = Rack([Node(name="big", cpus=16, gpus=4), Node(name="small", cpus=4)])
    rack.place(1, Needs(cpus=2))
    rack.place(2, Needs(cpus=2, gpus=1))
    rack.place(3, Needs(cpus=3))
    assert rack.find(Needs(cpus=2)).name == "small"
    assert rack.find(Needs(cpus=3)).name == "big"
    assert rack.find(Needs(cpus=1, gpus=4)) is None
    rack.remove(2)
    assert rack.find(Needs(cpus=1, gpus=4)).name == "big"


@given(
    nodes=st.lists(st.tuples(st.integers(1, 8), st.integers(0, 4)), min_size=1, max_size=4),
    requests=st.lists(st.tuples(st.integers(1, 8), st.sampled_from([0, 0.25, 0.5, 1, 2])), max_size=30),
)
def test_no_node_ever_holds_more_than_it_has(nodes, requests):
    rack = Rack([Node(name=str(i), cpus=c, gpus=g, memory_bytes=64 * GB) for i, (c, g) in enumerate(nodes)])
    placed = {}
    for handle, (cpus, gpus) in enumerate(requests):
        needs = Needs(cpus=cpus, gpus=gpus, memory_bytes=GB)
        if (node := rack.find(needs)) is not None:
            assert rack.place(handle, needs) == node
            placed[handle] = (node.name, needs)
    for i, (cpus, gpus) in enumerate(nodes):
        here = [needs for name, needs in placed.values() if name == str(i)]
        assert sum(n.cpus for n in here) <= cpus
        assert sum(n.gpus for n in here) <= gpus
    for handle in placed:
        rack.remove(handle)
    largest = max(cpus for cpus, _ in nodes)
    assert rack.find(Needs(cpus=largest)) is not None


def test_a_refusal_names_the_smallest_node_that_would_do():
    rack = Rack([Node(name="a", cpus=8, memory_bytes=16 * GB), Node(name="b", cpus=2, gpus=1)])
    assert rack.refusal(Needs(cpus=8, memory_bytes=16 * GB)) is None
    sentence = rack.refusal(Needs(cpus=8, gpus=1, memory_bytes=3 * GB))
    assert "smallest that could has 8 CPU + 1 GPU + 3.0 GB of memory" in sentence
    assert "2 CPU + 1 GPU; 8 CPU + 16.0 GB of memory" in sentence
    assert Rack().refusal(Needs()) is None, "a pool without nodes may get one"


def test_slots_count_what_runs_at_once():
    rack = Rack([Node(name="a", cpus=8, gpus=2, memory_bytes=10 * GB), Node(name="b", cpus=3)])
    assert rack.slots(Needs()) == 11
    assert rack.slots(Needs(cpus=2)) == 5
    assert rack.slots(Needs(gpus=0.5)) == 4
    assert rack.slots(Needs(memory_bytes=4 * GB)) == 2 + 3
    assert rack.slots(Needs(cpus=0, gpus=2)) == 1
    rack.update([Node(name="b", cpus=3)])
    assert rack.slots(Needs()) == 3


def gpu(name: str, kind: str, gigabytes: float, speed: float, **rest) -> Node:
    return Node(
        name=name,
        host=name,
        cpus=8,
        gpus=2,
        gpu_kind=kind,
        gpu_memory_bytes=gigabytes * GB,
        gpu_speed=speed,
        **rest,
    )


def test_big_runs_take_the_big_gpus_and_a_run_too_big_for_any_is_named():
    rack = Rack([gpu("old", "A10", 24, 125e12), gpu("new", "H100", 80, 990e12)])
    assert [rack.place(i, Needs(gpus=1)).name for i in range(4)] == ["new", "new", "old", "old"]
    assert rack.find(Needs(gpus=1)) is None
    rack.remove(2)
    assert rack.find(Needs(gpus=1, gpu_memory_bytes=30 * GB)) is None, "it would not fit into an A10"
    rack.remove(0)
    assert rack.find(Needs(gpus=1, gpu_memory_bytes=30 * GB)).name == "new"
    assert rack.slots(Needs(gpus=1)) == 4
    assert rack.slots(Needs(gpus=1, gpu_memory_bytes=30 * GB)) == 2
    assert "1 GPU of 90.0 GB" in rack.refusal(Needs(gpus=1, gpu_memory_bytes=90 * GB))


def test_a_host_where_something_failed_is_taken_last():
    rack = Rack([gpu("a", "H100", 80, 990e12), gpu("b", "A100", 80, 312e12)])
    assert rack.find(Needs(gpus=1), avoid_host="a").name == "b"
    rack.place(1, Needs(gpus=2), avoid_host="a")
    assert rack.find(Needs(gpus=1), avoid_host="a").name == "a"


def test_quotas_are_further_resources():
    quota = Needs(cpus=1, resources=(("ada", 1.0),))
    rack = Rack([Node(name="a", cpus=8, resources={"ada": 2.0}), Node(name="b", cpus=8)])
    assert rack.slots(quota) == 2
    rack.place(1, quota)
    rack.place(2, quota)
    assert rack.find(quota) is None
    assert rack.find(Needs(cpus=1)) is not None
    assert "1 of 'bea'" in rack.refusal(Needs(resources=(("bea", 1.0),)))
