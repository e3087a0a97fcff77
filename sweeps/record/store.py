"""What the recorder needs of a tracking store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One value, a finite one, of one metric; `at` is seconds since 1970."""

    name: str
    value: float
    at: float
    step: int


Texts = Mapping[str, str]
NONE: Texts = MappingProxyType({})


class GoneError(Exception):
    """The run is not in the store any more."""


class Store(Protocol):
    """Any call may raise anything; it is then tried again."""

    def open(self, identity: str | None = None) -> str:
        """Connect, and return an identity: another one means another, or a fresh, store.

        identity: of the experiment that was recorded to before, which may have another name by now.
        """

    def keys(self) -> dict[str, str]:
        """Id -> key of the runs that are there and not deleted, the latest first."""

    def steps(self, run_id: str, names: Iterable[str]) -> Mapping[str, set[int]]:
        """Steps at which those metrics are there; a metric that is not there is left out."""

    def create(self, key: str, name: str, started: float, tags: Mapping[str, str]) -> str: ...

    def log(self, run_id: str, points: Sequence[Point], params: Texts = NONE, tags: Texts = NONE) -> None:
        """Add to a run. GoneError if it was deleted. What is there already is kept once."""

    def set_status(self, run_id: str, status: str, ended: float | None) -> None: ...

    def tags(self) -> dict[str, str]:
        """Of the sweep's experiment."""

    def set_tag(self, name: str, value: str) -> None: ...

    def delete_tag(self, name: str) -> None:
        """One that is not there is as good as deleted."""


def milliseconds(seconds: float) -> int:
    """A time as MLflow keeps it."""
    return round(seconds * 1000)
