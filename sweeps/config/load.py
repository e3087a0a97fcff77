"""Reading a sweep's YAML file. Whatever a person may have mistyped ends in one sentence.

The sentence names the file, the key as it is written, and what would be right: the nearest known key, the
allowed range, the names that exist.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from scaling.errors import UserError
from sweeps.config.model import (
    BatchRule,
    DataConfig,
    EvaluationConfig,
    FamilyChoice,
    FamilyOverride,
    Grid,
    LearningRateRule,
    OptimizerConfig,
    Resources,
    SizeConfig,
    SizeRule,
    SweepConfig,
    TrainingConfig,
    Window,
)

SHIPPED = Path(__file__).parents[1] / "configs"


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, except that 1e11 is a number and a key given twice is refused."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, list | dict):
            raise yaml.constructor.ConstructorError(
                None, None, "a key must be a word or a number", key_node.start_mark
            )
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} is given twice", key_node.start_mark
            )
        seen.add(key)
    loader.flatten_mapping(node)
    return dict(loader.construct_mapping(node, deep=True))


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def shipped_names() -> tuple[str, ...]:
    """Names that `--sweep` knows."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.yaml")))


def find_config(sweep: str | None, config: Path | None) -> SweepConfig:
    """The config that `--sweep NAME` (shipped with the package) or `--config FILE` means.

    Raises UserError for an unknown name, both given at once, or anything wrong in the file.
    """
    if config is not None and sweep is not None:
        raise UserError(f"--sweep {sweep} and --config {config} are both given; give one of them")
    if config is not None:
        return load_config(config)
    name = sweep or "desk"
    path = SHIPPED / f"{name}.yaml"
    if name not in shipped_names():
        hint = _hint(name, shipped_names())
        raise UserError(
            f"unknown sweep {name!r}{hint} (shipped: {', '.join(shipped_names())}; "
            "for a file of your own give --config FILE.yaml)"
        )
    return load_config(path)


def load_config(path: Path) -> SweepConfig:
    """Read and validate one YAML file; UserError in one sentence that starts with the file's name."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error})") from None
    return parse_config(text, source=path.name)


def parse_config(text: str, *, source: str) -> SweepConfig:
    """A config from YAML text; `source` is how messages call it."""
    try:
        # A subclass of SafeLoader, so no object of ours or anyone's is built from the file.
        raw = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{source}: not valid YAML{where}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise UserError(
            f"{source}: must be a mapping of keys such as name, families, grid; it holds {_kind(raw)}"
        )
    if "source" in raw:
        raise UserError(f"{source}: unknown key 'source' under the top level")
    try:
        return SweepConfig.model_validate({**raw, "source": source})
    except ValidationError as error:
        raise UserError(f"{source}: {_sentence(error, raw)}") from None


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _hint(name: str, known: tuple[str, ...] | list[str]) -> str:
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where in the file an error is: the dotted path as written, and the section's known keys."""

    dotted: str
    known: tuple[str, ...]


def _place(loc: tuple[int | str, ...], raw: Any) -> _Place:
    """Follow pydantic's location down the raw file, skipping the names it adds for alternatives."""
    known: tuple[str, ...] = tuple(name for name in SweepConfig.model_fields if name != "source")
    model: type[BaseModel] | None = SweepConfig
    value, parts = raw, []
    for step in loc:
        if isinstance(value, Mapping) and (
            step in value or (model is not None and step in model.model_fields)
        ):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        elif model is None or step not in model.model_fields:
            continue
        parts.append(f"[{step}]" if isinstance(step, int) else f".{step}")
        model = _section_of(model, step) if isinstance(step, str) else model
        known = tuple(model.model_fields) if model is not None else ()
    return _Place(dotted="".join(parts).lstrip("."), known=known)


_SECTIONS: dict[tuple[type[BaseModel], str], type[BaseModel]] = {
    (SweepConfig, "grid"): Grid,
    (SweepConfig, "families"): FamilyChoice,
    (SweepConfig, "sizes"): SizeConfig,
    (SweepConfig, "size_rule"): SizeRule,
    (SweepConfig, "data"): DataConfig,
    (SweepConfig, "optimizer"): OptimizerConfig,
    (SweepConfig, "learning_rate"): LearningRateRule,
    (SweepConfig, "batch"): BatchRule,
    (SweepConfig, "overrides"): FamilyOverride,
    (SweepConfig, "evaluation"): EvaluationConfig,
    (SweepConfig, "training"): TrainingConfig,
    (SweepConfig, "resources"): Resources,
    (Grid, "window"): Window,
    (FamilyOverride, "window"): Window,
    (FamilyOverride, "learning_rate"): LearningRateRule,
    (FamilyOverride, "batch"): BatchRule,
}


def _section_of(model: type[BaseModel] | None, step: str) -> type[BaseModel] | None:
    if model is FamilyOverride and step not in FamilyOverride.model_fields:
        return FamilyOverride  # a family's name, under overrides
    return None if model is None else _SECTIONS.get((model, step))


def _sentence(error: ValidationError, raw: dict[Any, Any]) -> str:
    """The likeliest cause first: an unknown key explains a missing one."""
    ranks = {"extra_forbidden": 0, "missing": 2}
    problems = sorted(error.errors(), key=lambda problem: ranks.get(problem["type"], 1))
    first, loc = problems[0], problems[0]["loc"]
    if first["type"] == "extra_forbidden":
        place = _place(loc[:-1], raw)
        under = repr(place.dotted) if place.dotted else "the top level"
        hint = _hint(str(loc[-1]), place.known) or f" (known: {', '.join(place.known)})"
        return f"unknown key {str(loc[-1])!r} under {under}{hint}"
    place = _place(loc, raw)
    if first["type"] == "missing":
        under = _place(loc[:-1], raw).dotted
        return f"key {str(loc[-1])!r} is missing under {repr(under) if under else 'the top level'}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{place.dotted}: {message}" if place.dotted else message
    wanted = message[0].lower() + message[1:]
    return f"{place.dotted} is {first['input']!r}: {wanted}"
