"""The command `scaling sample`: a sweep or a run, and its options; those of the other one are refused.

Imports of anything heavy stand where they are used, so that `scaling --help` answers at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from scaling.errors import UserError
from sweeps.options import STORAGE, Chosen, Text, option


def sample(
    chosen: Chosen,
    target: Annotated[
        str, typer.Argument(help="A sweep, or a run: its key, the key's first characters, or its folder.")
    ],
    prompt: Annotated[Text, option("The beginning of the texts of a run.", metavar="TEXT")] = None,
    steps: Annotated[
        list[int] | None,
        option(
            "Steps of the sampler; of a sweep again for more.",
            metavar="N",
            show_default="a run: 64, or one a token; a sweep: 1, 2, 4, ... up to one a token",
        ),
    ] = None,
    sampler: Annotated[
        list[str] | None,
        option(
            "A sampler of the family; of a sweep again for more, or all.",
            metavar="NAME",
            show_default="the usual one",
        ),
    ] = None,
    count: Annotated[int, option("How many texts of a run.", min=1)] = 1,
    seed: Annotated[int, option("Another one gives other texts.", min=0)] = 0,
    length: Annotated[
        int | None, option("Tokens of a text.", min=1, show_default="as many as in training")
    ] = None,
    temperature: Annotated[
        float, option("Of a run: below 1 likelier tokens, above 1 more varied ones.")
    ] = 1.0,
    top_k: Annotated[int | None, option("Of a run: only so many likeliest tokens.")] = None,
    top_p: Annotated[float, option("Of a run: only the likeliest tokens that reach this probability.")] = 1.0,
    min_p: Annotated[float, option("Of a run: only tokens this likely, as a share of the likeliest.")] = 0.0,
    label: Annotated[
        Text, option("Of a run with labels: texts of this one, by name or number.", metavar="NAME")
    ] = None,
    scale: Annotated[
        float | None, option("How strongly the label guides; above 1 more than it does.", show_default="1")
    ] = None,
    replica: Annotated[int, option("Of a run of several networks: which one, from 0.", min=0)] = 0,
    wish: Annotated[
        list[str] | None,
        option("Of a run of gaussian: a word that its texts should have; again for more.", metavar="WORD"),
    ] = None,
    avoid: Annotated[
        list[str] | None,
        option("Of a run of gaussian: a word that they should not have; again for more.", metavar="WORD"),
    ] = None,
    wish_weight: Annotated[
        float | None, option("How strong each wish is; 1 is Bayes' rule.", show_default="2")
    ] = None,
    batch: Annotated[int | None, option("Of a sweep: texts made at once.", min=1, show_default="64")] = None,
    repeats: Annotated[
        int | None, option("Of a sweep: timed batches, all judged.", min=1, show_default="5")
    ] = None,
    judge: Annotated[
        Text,
        option(
            "Of a sweep: a key of a run of ar, or a Hugging Face model.",
            metavar="NAME",
            show_default="the largest ar run on its corpus",
        ),
    ] = None,
    rule: Annotated[
        Text,
        option(
            "Of a sweep: tokens that count, attention_mask or first_eos.",
            metavar="NAME",
            show_default="attention_mask",
        ),
    ] = None,
    pool: Annotated[
        Text, option("Of a sweep: as in `scaling sweep`.", metavar="NAME", show_default="ray")
    ] = None,
    address: Annotated[
        Text, option("A Ray cluster.", metavar="RAY", show_default="RAY_ADDRESS, else this machine")
    ] = None,
    storage: Annotated[
        Text, option(STORAGE, metavar="URI", envvar="SCALING_STORAGE", show_default="the sweep's")
    ] = None,
) -> None:
    """Print texts of a run as they come about, or measure speed against quality over a whole sweep.

    A sweep: its best run of each family and budget, over samplers and steps; a second call goes on.
    """
    for_run = {"sweep": chosen.sweep, "config": chosen.config, "data": chosen.data, "prompt": prompt,
               "count": None if count == 1 else count, "top_k": top_k, "min_p": min_p or None,
               "label": label, "scale": scale, "replica": replica or None,
               "wish": wish, "avoid": avoid, "wish_weight": wish_weight,
               "temperature": None if temperature == 1 else temperature,
               "top_p": None if top_p == 1 else top_p}  # fmt: skip
    for_sweep: dict[str, Any] = {"batch": batch, "repeats": repeats, "judge": judge, "rule": rule,
                                 "pool": pool, "address": address}  # fmt: skip
    name = sweep_called(target, chosen.out)
    if name is not None:
        from sweeps.sample.sweep import Sampling, sample_sweep

        refuse_others(for_run, f"texts of one run, and {name} is a sweep")
        values = {name: value for name, value in for_sweep.items() if value is not None}
        how = Sampling(families=chosen.family, samplers=sampler or (), steps=steps or (), length=length,
                       seed=seed, storage=storage, **values)  # fmt: skip
        raise typer.Exit(sample_sweep(name, chosen.out, how))
    from scaling.sampling import Filters
    from sweeps.sample.run import TextOptions, one_of, sample_run

    refuse_others({"family": chosen.family or None, **for_sweep},
                  f"a sweep, and {target} is none below {chosen.out}")  # fmt: skip
    options = TextOptions(
        prompt=prompt, steps=one_of(steps, "--steps"), sampler=one_of(sampler, "--sampler"), count=count,
        seed=seed, length=length, label=label, scale=scale, storage=storage, replica=replica,
        wishes=wish or (), avoided=avoid or (), wish_weight=wish_weight,
        filters=Filters(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p),
    )  # fmt: skip
    sample_run(target, chosen.out, chosen.named, options)


def sweep_called(target: str, out: Path) -> str | None:
    """The sweep of that name: one with runs below `out`, or one of the package; None if there is none."""
    from sweeps.config.load import shipped_names, swept_names

    return target if target in {*swept_names(out), *shipped_names()} else None


def refuse_others(options: Mapping[str, object], purpose: str) -> None:
    """UserError for an option that is given, for it is for `purpose`."""
    for name, value in options.items():
        if value is not None:
            raise UserError(f"--{name.replace('_', '-')} is for {purpose}; leave it out")
