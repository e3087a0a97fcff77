"""Clusters as the command line writes them."""

from __future__ import annotations

import pytest

from scaling.errors import UserError
from sweeps.simulate.cluster import describe, parse_cluster


def test_nodes_of_eight_gpus():
    nodes = parse_cluster("8xH100:4", cpus_per_gpu=6)
    assert [node.name for node in nodes] == ["H100-1", "H100-2", "H100-3", "H100-4"]
    assert {(node.gpus, node.cpus, node.gpu_kind, node.gpu_memory_bytes) for node in nodes} == {
        (8, 48, "H100", 80e9)
    }
    assert describe(nodes) == "4 nodes of 8 H100"
    names = [node.name for node in parse_cluster("1xT4:12,2xCPU")]
    assert names == [*sorted(names[:12]), "CPU-1"]
    assert names[0] == "T4-01"


def test_several_kinds_with_cpus_and_memory():
    nodes = parse_cluster("8xa100-40g+96xCPU+900GB:2, 16xCPU+64gb, 1xH200")
    assert [(node.name, node.cpus, node.gpus) for node in nodes] == [
        ("A100-40G-1", 96, 8),
        ("A100-40G-2", 96, 8),
        ("CPU-1", 16, 0),
        ("H200-1", 1, 1),
    ]
    assert [node.memory_bytes for node in nodes] == [900e9, 900e9, 64e9, float("inf")]
    assert nodes[3].gpu_speed > nodes[0].gpu_speed > 0
    assert describe(nodes) == "2 nodes of 8 A100-40G + 1 node of 16 CPU + 1 node of 1 H200"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "'' cannot be read; write COUNTxKIND:NODES, such as 8xH100:4"),
        ("H100", "'H100' cannot be read"),
        ("8xH100:", "'8xH100:' cannot be read"),
        ("8xH100:0", "'8xH100:0' cannot be read"),
        ("0xH100", "'0xH100' cannot be read"),
        ("8xH100,", "'' cannot be read"),
        ("64GB:2", "'64GB' cannot be read"),
        ("8xH10O", "unknown kind of GPU 'H10O'; did you mean 'H100'?"),
        ("4xH100+4xA100", "a node has one kind of GPU, and '4xH100+4xA100' names two"),
        ("8xH100:1000000", "more than 10000 nodes"),
    ],
)
def test_what_cannot_be_read_is_named(text, says):
    with pytest.raises(UserError) as caught:
        parse_cluster(text)
    assert says in str(caught.value)
