"""Reading a sweep's YAML file. Every mistake in it ends in one sentence.

The sentence names the file, the key as it is written, and what would be right: the nearest key, the allowed
range, the names that exist.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

import yaml
from pydantic import BaseModel, ValidationError

from scaling.errors import UserError, unknown
from scaling.families import family_name
from sweeps.config.model import MAX_NAME, FamilyOverride, SweepConfig
from sweeps.config.own_text import corpus_of, text_name

SHIPPED = Path(__file__).parents[1] / "configs"


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but 1e11 is a number, a date is text, a key given twice is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(
                    problem="a key must be a word or a number", problem_mark=key_node.start_mark
                )
            key = key_node.value if key_node.tag.endswith(":merge") else self.construct_object(key_node)
            if key in keys:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark
                )
            keys.add(key)
        return dict(super().construct_mapping(node, deep=True))


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def shipped_names() -> tuple[str, ...]:
    """The names for `--sweep`."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.yaml")))


def swept_names(out: Path) -> tuple[str, ...]:
    """The sweeps that have a ledger under `out`."""
    return tuple(sorted(path.parts[-3] for path in out.glob("*/ledger/ledger.db")))


def find_config(
    sweep: str | None, config: Path | None, data: str | None = None, *, swept: Sequence[str] = ()
) -> SweepConfig:
    """The config of `--sweep NAME` (shipped with the package) or `--config FILE`, with the text of `--data`.

    Other text makes another sweep, so its name is that of the sweep and of the text. swept: names that
    other commands know, for the message. UserError for an unknown name, for both at once, for data that is
    not there, or for anything wrong in the file.
    """
    if config is not None and sweep is not None:
        raise UserError(f"--sweep {sweep} and --config {config} are both given; give one of them")
    name = sweep or "desk"
    if config is None and name not in shipped_names():
        if name in swept:
            raise UserError(
                f"sweep {name!r} has runs, and its config is not known; give it, --config FILE.yaml"
            )
        others = dict.fromkeys((*shipped_names(), *swept))
        raise UserError(f"{unknown('sweep', name, others)}; for a file of your own, --config FILE.yaml")
    loaded = load_config(config or SHIPPED / f"{name}.yaml")
    if data is None:
        return loaded
    corpus = corpus_of(data)
    return loaded.model_copy(
        update={
            "name": f"{loaded.name}-{text_name(data)}"[:MAX_NAME],
            "data": loaded.data.model_copy(update={"corpus": corpus}),
        }
    )


def find_name(sweep: str | None, config: Path | None, data: str | None, out: Path, *, store: object) -> str:
    """The name of the sweep alone. It needs no config if its ledger is under `out` or a store is asked."""
    swept = swept_names(out)
    if sweep is not None and config is None and data is None and (store is not None or sweep in swept):
        return sweep
    return find_config(sweep, config, data, swept=swept).name


def load_config(path: Path) -> SweepConfig:
    """Read and validate one YAML file; UserError in one sentence that starts with the file's name."""
    return parse_config(_read(path), source=path.name, folder=path.parent)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; give the path of a YAML file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text at byte {error.start}; give a YAML file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def parse_yaml(text: str, source: str) -> Any:
    """The plain values, lists and mappings of a YAML text. UserError if it is not valid YAML."""
    try:
        # a subclass of SafeLoader: no Python object is built from the file
        value = yaml.load(text, Loader=_Loader)
        repr(value)  # fails here for values that no message could show
        return value
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{source}: not valid YAML{where}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{source}: not valid YAML: nested too deeply") from None
    except (ValueError, LookupError, AttributeError) as error:
        # PyYAML passes on Python's errors, such as for 5000 digits or for text after !!int or !!bool
        raise UserError(f"{source}: not valid YAML: a value cannot be read ({error})") from None


def _included(raw: dict[Any, Any], source: str, folder: Path) -> dict[Any, Any]:
    """The file with the overrides of the files under `include`, whose paths start at `folder`.

    UserError for a file with other keys, and for a value that stands twice.
    """
    names = [raw["include"]] if isinstance(raw["include"], str) else raw["include"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{source}: include is {names!r}: it must be the name of a file, or a list of them")
    merged = _overrides(raw, source)
    for name in names:
        part = parse_yaml(_read(folder / name), name)
        if not isinstance(part, dict) or set(part) != {"overrides"}:
            raise UserError(f"{source}: include {name!r}: that file must have the key 'overrides' alone")
        for family, own in _overrides(part, name).items():
            if twice := sorted(merged.get(family, {}).keys() & own.keys(), key=str):
                raise UserError(
                    f"{source}: overrides.{family}.{twice[0]} stands in {name} and in the config or another "
                    "include; leave it out of one of them"
                )
            merged[family] = {**merged.get(family, {}), **own}
    return {**raw, "overrides": merged}


def _overrides(raw: Mapping[Any, Any], source: str) -> dict[str, dict[Any, Any]]:
    """Under the names of families that the program uses."""
    overrides = raw.get("overrides") or {}
    parts = overrides.values() if isinstance(overrides, Mapping) else [overrides]
    if not all(isinstance(own, Mapping | None) for own in parts):
        raise UserError(f"{source}: overrides must be a mapping of families, each with a mapping of keys")
    return {family_name(str(name)): dict(own or {}) for name, own in overrides.items()}


def parse_config(text: str, *, source: str, folder: Path = Path()) -> SweepConfig:
    """A config from YAML text; `source` is its name in messages, `folder` where its includes are."""
    raw = parse_yaml(text, source)
    if not isinstance(raw, dict):
        kind = "nothing" if raw is None else f"a {type(raw).__name__}"
        raise UserError(f"{source}: must be a mapping of keys such as name, families, grid; it holds {kind}")
    if "source" in raw:
        raise UserError(f"{source}: unknown key 'source' under the top level")
    if "include" in raw:
        raw = _included(raw, source, folder)
    try:
        return SweepConfig.model_validate({**raw, "source": source})
    except ValidationError as error:
        raise UserError(f"{source}: {_sentence(error, raw)}") from None


def _keys(section: type | None) -> tuple[str, ...]:
    """The keys that a section of the file may have."""
    if section is None:
        return ()
    if issubclass(section, BaseModel):
        return tuple(name for name in section.model_fields if name != "source")
    return tuple(field.name for field in fields(cast(Any, section)))


def _section_of(section: type | None, key: str) -> type | None:
    """The section that stands under `key`, by the type of that field; None for a plain value."""
    if section is FamilyOverride and key not in _keys(section):
        return section  # a family's name, under overrides
    kinds = [get_type_hints(section).get(key)] if section is not None else []
    while kinds:
        kind = kinds.pop()
        if isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, BaseModel)):
            return kind
        kinds += get_args(kind)
    return None


def _place(loc: tuple[int | str, ...], raw: Any) -> tuple[str, tuple[str, ...]]:
    """The dotted path as it is written in the file, and the possible keys there.

    Follows pydantic's location down the file, and skips the names that pydantic adds for alternatives.
    """
    section: type | None = SweepConfig
    value, path = raw, ""
    for step in loc:
        if isinstance(value, Mapping) and (step in value or step in _keys(section)):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        elif step not in _keys(section):
            continue
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
        section = _section_of(section, step) if isinstance(step, str) else section
    return path.lstrip("."), _keys(section)


def _sentence(error: ValidationError, raw: dict[Any, Any]) -> str:
    """The likeliest cause first: an unknown key explains a missing one."""
    ranks = {"extra_forbidden": 0, "unexpected_keyword_argument": 0, "missing": 2}
    first = min(error.errors(), key=lambda problem: ranks.get(problem["type"], 1))
    loc, kind = first["loc"], first["type"]
    if ranks.get(kind) is not None:
        path, keys = _place(loc[:-1], raw)
        under = repr(path) if path else "the top level"
        if kind == "missing":
            return f"key {str(loc[-1])!r} is missing under {under}"
        return str(unknown("key", str(loc[-1]), keys, f" under {under}"))
    path, keys = _place(loc, raw)
    message = first["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return f"{path}: {message}" if path else message
    if kind in ("dataclass_type", "model_type"):
        message = f"it must be a mapping with keys such as {', '.join(keys[:3])}"
    value = repr(first["input"])
    value = value if len(value) <= 80 else f"{value[:76]} ..."
    return f"{path or 'a key'} is {value}: {message[0].lower()}{message[1:]}"
