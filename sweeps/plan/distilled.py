"""Distilled runs of a sweep: one for each run that the config chooses, beside the runs of the grid."""

from __future__ import annotations

from collections.abc import Sequence

from scaling.errors import UserError
from scaling.families import family_class
from scaling.spec import RunSpec
from sweeps.config.model import SweepConfig


def distilled_specs(config: SweepConfig, specs: Sequence[RunSpec]) -> list[RunSpec]:
    """The runs that distil some of `specs`, in their order.

    UserError if the config's choice leaves none, though its own runs are among `specs`.
    """
    assert config.distillation is not None, "a config with a distillation"
    try:
        made = config.distillation.specs(specs)
    except UserError as error:
        raise UserError(f"{config.source}: distillation: {error}") from None
    possible = any(family_class(choice.name).distillable for choice in config.families)
    if not made and (not possible or any(family_class(spec.family).distillable for spec in specs)):
        raise UserError(
            f"{config.source}: distillation has no run to distil: it needs runs of family 'uniform', of the "
            "sizes and budgets that it names"
        )
    return made
