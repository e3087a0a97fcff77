"""What the label of a text is, for runs whose network reads one: `labels` of a spec.

With a share `drop` of the training texts the network reads the null label instead, whose number is `classes`.
A network without a label given reads the null label: so it also models text alone, and both can be mixed
(`scaling.sampling.Guidance`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from scaling.errors import UserError, unknown

KINDS = ("source", "test", "documentation")
"""Labels of `kind`, read off the path of a document."""

SOURCES = {
    "kind": "source, test or documentation, by the path of the document",
    "package": "the folder below the root of the corpus; the smaller ones share the last label",
    "topic": "the component of a synthetic mixture that a window was drawn from",
    "clusters": "none are given: clusters of the network's own features (see `scaling.training.clusters`)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The label that the network reads beside each text; a value out of range is a UserError."""

    of: str
    """What the label of a training window says: `kind`, `package`, `topic` or `clusters`."""
    classes: int = len(KINDS)
    """How many labels there are; the null label comes on top."""
    drop: float = 0.1
    """Share of the training texts that are read with the null label."""
    warm_share: float = 0.5
    """clusters: share of the steps in which clusters form and no label is read."""
    feature_noise: float = 0.15
    """clusters: share of noise in the text whose features are clustered."""

    def __post_init__(self) -> None:
        if self.of not in SOURCES:
            raise unknown("labels", self.of, SOURCES)
        whole = isinstance(self.classes, int) and not isinstance(self.classes, bool)
        if not whole or self.classes < 2:
            raise UserError(f"labels: classes is {self.classes!r}, it must be a whole number of at least 2")
        if self.of == "kind" and self.classes != len(KINDS):
            raise UserError(f"labels: classes is {self.classes}, the kinds are {', '.join(KINDS)}")
        for name in ("drop", "warm_share", "feature_noise"):
            value = float(getattr(self, name))
            object.__setattr__(self, name, value)
            if not 0 < value < 1 or not math.isfinite(value):
                raise UserError(f"labels: {name} is {value:g}, it must lie strictly between 0 and 1")
        usual = {field.name: field.default for field in fields(Labels)}
        for name in ("warm_share", "feature_noise"):
            if self.of != "clusters" and getattr(self, name) != usual[name]:
                raise UserError(f"labels: {name} goes with 'of: clusters', not with {self.of!r}")

    @property
    def clustered(self) -> bool:
        return self.of == "clusters"


def label_number(label: int | str, classes: int, names: Sequence[str] = ()) -> int:
    """The number of a label given by number or name, of a network with `classes` labels.

    UserError for a network without labels, and for one that it does not have.
    """
    if not classes:
        raise UserError(f"label {label!r}: the network was trained without labels, so it takes none")
    if isinstance(label, str) and not label.isdecimal():
        if not names:
            raise UserError(f"label {label!r}: these labels have no names; give a number below {classes}")
        if label not in names:
            raise unknown("label", label, names)
        return list(names).index(label)
    number = int(label)
    if not 0 <= number < classes:
        raise UserError(f"label {number} is unknown: the network has labels 0 to {classes - 1}")
    return number
