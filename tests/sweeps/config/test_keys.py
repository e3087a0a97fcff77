"""Run keys of every shipped config and of one that leaves all to the defaults.

A changed key trains a whole sweep again.
"""

from __future__ import annotations

import hashlib

import pytest

from scaling.families import FAMILIES
from sweeps.config.load import SHIPPED, load_config, parse_config
from sweeps.config.model import SweepConfig
from sweeps.plan.plan import DataFacts, plan_specs

# Everything with a default left out, and architectures written out in place of a ladder's.
BARE = """
name: bare
families: [ar]
sizes:
  - {name: a, hidden: 8, num_layers: 1, num_heads: 2}
  - {name: b, hidden: 16, num_layers: 1, num_heads: 2, cond_dim: 16, time_features: 32}
grid: {budgets: [1e9, 1e10], sizes: [a, b]}
context_length: 32
learning_rate: {base: 3e-3}
batch: {base_tokens: 256}
"""

# Number of runs and SHA-256 of their keys, all families, in the order of the plan.
EXPECTED: dict[str, tuple[int, str]] = {
    "bare": (28, "c3ad59ffc63b07bd"),
    "cluster": (168, "6c4e93073f1480a5"),
    "desk": (168, "34df9f5c260c224f"),
    "evening": (168, "31e3b9a6bd8bdfc5"),
    "gpu": (168, "c395a67f2cf809f3"),
    "sahoo2026": (236, "abd22c0e22f210fb"),
    "smoke": (105, "92d0c2c6ab4cf6bd"),
}


def read(name: str) -> SweepConfig:
    return parse_config(BARE, source="bare") if name == "bare" else load_config(SHIPPED / f"{name}.yaml")


def test_every_shipped_config_has_its_keys_here() -> None:
    assert set(EXPECTED) == {"bare", *(path.stem for path in SHIPPED.glob("*.yaml"))}


@pytest.mark.parametrize("name", EXPECTED)
def test_configs_plan_the_runs_they_always_did(name: str) -> None:
    config = read(name)
    facts = DataFacts(
        corpus=config.data.corpus,
        tokenizer=config.data.tokenizer,
        fingerprint="0123456789abcdef",
        num_token_ids=config.data.num_token_ids or 256,
    )
    specs, _ = plan_specs(config, facts, tuple(FAMILIES))
    digest = hashlib.sha256("\n".join(spec.key for spec in specs).encode()).hexdigest()
    assert (len(specs), digest[:16]) == EXPECTED[name]
