"""Golden cases of the network, whose published weights are brought into our layout."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from scaling.ladder import Size
from scaling.models.transformer import Transformer, interleave_heads
from tests.golden_runners.common import Case, Got, Runners, inputs, tensor


def published_network(case: Case, *, causal: bool) -> Transformer:
    """The network of a case, with its weights."""
    params = case["params"]
    size = Size(
        name="golden",
        hidden=params["hidden"],
        num_layers=params["n_blocks"],
        num_heads=params["n_heads"],
        cond_dim=params["cond_dim"],
        time_features=params["freq_dim"],
    )
    weights = {name: tensor(value) for name, value in case["inputs"]["state_dict"].items()}
    model = Transformer(size, params["V"], causal=causal).double()
    model.load_state_dict(from_published(weights, size))
    return model.requires_grad_(requires_grad=False)


def network_logits(case: Case) -> Got:
    tensors = inputs(case)
    model = published_network(case, causal=case["params"]["causal"])
    with torch.no_grad():
        return {"logits": model(tensors["x"], tensors["sigma"])}


def from_published(weights: Mapping[str, Tensor], size: Size) -> dict[str, Tensor]:
    """Weights of the published network under our names."""
    layers = [f"blocks.{i}" for i in range(size.num_layers)]
    out = {
        "embedding": weights["vocab_embed.embedding"],
        "norm_final": weights["output_layer.norm_final.weight"],
    }
    for kind in ("weight", "bias"):
        out[f"time_in.{kind}"] = weights[f"sigma_map.mlp.0.{kind}"]
        out[f"time_out.{kind}"] = weights[f"sigma_map.mlp.2.{kind}"]
        out[f"head.{kind}"] = weights[f"output_layer.linear.{kind}"]
        parts = [weights[f"{name}.adaLN_modulation.{kind}"] for name in (*layers, "output_layer")]
        out[f"modulation.{kind}"] = torch.cat(parts)
        for name in layers:
            out[f"{name}.up.{kind}"] = weights[f"{name}.mlp.0.{kind}"]
            out[f"{name}.down.{kind}"] = weights[f"{name}.mlp.2.{kind}"]
    for name in layers:
        query, key, value = weights[f"{name}.attn_qkv.weight"].chunk(3)
        pairs = [interleave_heads(rows, size.num_heads) for rows in (query, key)]
        out[f"{name}.qkv.weight"] = torch.cat([*pairs, value])
        out[f"{name}.out.weight"] = weights[f"{name}.attn_out.weight"]
        out[f"{name}.norm_attention"] = weights[f"{name}.norm1.weight"]
        out[f"{name}.norm_mlp"] = weights[f"{name}.norm2.weight"]
    return out


RUNNERS: Runners = {"dit_forward_*": network_logits}
