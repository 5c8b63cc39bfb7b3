"""The layers of knobs: defaults < etc/*.yaml < condor_config < environment < command line."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from condor_starter.knobs.condor import pool_configuration
from condor_starter.knobs.table import find, table
from condor_starter.knobs.values import convert

ETC = Path("/etc/condor_starter/condor_starter.yaml")


class KnobError(ValueError):
    """A knob that is unknown or mistyped; the text says which, where it stands and what was expected."""


@dataclass(frozen=True, slots=True)
class _Value:
    value: Any
    origin: str


class Knobs:
    """The knobs of one process. Look-ups never fail for a knob of the table; names are in any case."""

    def __init__(self, values: Mapping[str, _Value]) -> None:
        self._values = dict(values)

    def text(self, name: str) -> str:
        """A text or expression knob."""
        return str(self._get(name))

    def integer(self, name: str) -> int:
        """A whole-number or size knob."""
        return int(self._get(name))

    def number(self, name: str) -> float:
        """A number knob."""
        return float(self._get(name))

    def flag(self, name: str) -> bool:
        """A true/false knob."""
        return bool(self._get(name))

    def words(self, name: str) -> tuple[str, ...]:
        """A list knob."""
        return tuple(self._get(name))

    def origin(self, name: str) -> str:
        """Where the value comes from: "default", a file and line, "condor_config", "environment", ..."""
        found = self._values.get(name.upper())
        return found.origin if found else "default"

    def changed(self) -> dict[str, tuple[Any, str]]:
        """Every knob that is not at its default, with its value and origin."""
        return {n: (v.value, v.origin) for n, v in sorted(self._values.items())}

    def with_(self, overrides: Mapping[str, str], origin: str = "command line") -> Knobs:
        """These knobs with a layer on top; raises :class:`KnobError` for an unknown or mistyped one."""
        values = dict(self._values)
        for name, raw in overrides.items():
            values[name.upper()] = _typed(name, raw, origin)
        return Knobs(values)

    def with_environ(self, environ: Mapping[str, str]) -> Knobs:
        """These knobs with the ``_CONDOR_NAME`` variables of a client's environment on top; KnobError."""
        return Knobs(self._values | _foreign_layer(_from_environ(environ), "environment"))

    def _get(self, name: str) -> Any:
        if found := self._values.get(name.upper()):
            return found.value
        knob = find(name)
        if knob is None:
            raise KeyError(f"{name} is not in knobs.yaml")
        return knob.default


def load(
    etc: Iterable[Path] = (),
    *,
    condor: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, str] | None = None,
) -> Knobs:
    """Read the layers, lowest first. ``etc``: YAML files; ``condor``: the pool's configuration as names and
    values (knobs that are not ours are ignored there); ``environ``: its ``_CONDOR_NAME`` variables count;
    ``overrides``: from the command line. Raises :class:`KnobError`.
    """
    values: dict[str, _Value] = {}
    for path in etc:
        values |= _yaml_layer(path)
    values |= _foreign_layer(condor or {}, "condor_config")
    values |= _foreign_layer(_from_environ(os.environ if environ is None else environ), "environment")
    return Knobs(values).with_(overrides or {})


def gather(
    etc: Iterable[Path] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, str] | None = None,
    local_name: str = "",
) -> Knobs:
    """All layers of this machine. ``etc``: None is /etc/condor_starter/condor_starter.yaml, if it exists.

    Raises :class:`KnobError`.
    """
    environ = os.environ if environ is None else environ
    files = etc if etc is not None else [f for f in (ETC,) if f.exists()]
    try:
        condor = pool_configuration(environ, local_name)
    except (OSError, subprocess.SubprocessError) as e:
        raise KnobError(f"condor_config_val cannot read the pool's configuration: {e}") from None
    return load(files, condor=condor, environ=environ, overrides=overrides)


def _yaml_layer(path: Path) -> dict[str, _Value]:
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as e:
        raise KnobError(f"{path}: cannot be read: {e}") from None
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise KnobError(f"{path}{line}: not YAML: {getattr(e, 'problem', None) or e}") from None
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise KnobError(f"{path}, line 1: expected lines of NAME: value")
    layer = {}
    for key, value in node.value:
        where = f"{path}, line {key.start_mark.line + 1}"
        layer[str(key.value).upper()] = _typed(str(key.value), _python(value, where), where)
    return layer


def _python(node: yaml.Node, where: str) -> Any:
    try:
        return yaml.SafeLoader("").construct_object(node, deep=True)
    except yaml.YAMLError as e:
        raise KnobError(f"{where}: {e}") from None


def _typed(name: str, raw: Any, origin: str) -> _Value:
    knob = find(name)
    if knob is None:
        raise KnobError(f"{origin}: {name} is not a knob of this starter{_near(name)}")
    try:
        return _Value(convert(knob.type, raw), origin)
    except ValueError as e:
        raise KnobError(f"{origin}: {name}: {e}") from None


def _near(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name.upper(), table(), 1)
    return f"; did you mean {near[0]}?" if near else ""


def _from_environ(environ: Mapping[str, str]) -> dict[str, str]:
    return {n[8:]: v for n, v in environ.items() if n[:8].upper() == "_CONDOR_"}


def _foreign_layer(values: Mapping[str, str], origin: str) -> dict[str, _Value]:
    """A layer that holds many knobs that are not ours: those are passed over, ours must be well typed."""
    return {n.upper(): _typed(n, v, origin) for n, v in values.items() if find(n) is not None and v != ""}
