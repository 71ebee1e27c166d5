# SPDX-License-Identifier: Apache-2.0
"""Config: the library's option table as nested, typed attributes. No option is named here."""
import collections.abc
import os

from . import _umbp

_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "B": 1}


class Option:
    """One row of the option table."""

    __slots__ = ("name", "type", "default", "range", "environment", "help")

    def __init__(self, *row):
        for slot, value in zip(self.__slots__, row):
            setattr(self, slot, value)

    def __repr__(self):
        return f"<Option {self.name} ({self.type}, default {self.default or 'none'})>"


_OPTIONS = {row[0]: Option(*row) for row in _umbp.options()}
_SECTIONS = {name.rpartition(".")[0] for name in _OPTIONS if "." in name}


def options():
    """Every option, in the order of docs/options.md."""
    return list(_OPTIONS.values())


def _to_text(name, value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, bytes, os.PathLike)):
        return os.fspath(value)
    if isinstance(value, float):
        return repr(value)
    try:
        return str(value.__index__())
    except AttributeError:
        raise TypeError(f"{name}: a str, a number, a bool or a path, "
                        f"not {type(value).__name__}") from None


def _size_of_text(text):
    for unit, factor in _UNITS.items():
        if text.endswith(unit) and text[:-len(unit)].isdigit():
            return int(text[:-len(unit)]) * factor
    return int(text)


def _from_text(option, text):
    kinds = option.type.split("|")
    if kinds == ["size"]:
        return _size_of_text(text)
    if kinds == ["fraction"]:
        return float(text)
    if kinds == ["bool"]:
        return text == "true"
    if kinds[-1] in ("count", "milliseconds") and text.isdigit():
        return int(text)
    return text


class _Section:
    """The options below one name. Reading gives numbers, bools and text; anything that
    `Config.set` takes can be assigned."""

    __slots__ = ("_native", "_prefix")

    def __init__(self, native, prefix):
        object.__setattr__(self, "_native", native)
        object.__setattr__(self, "_prefix", prefix)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        full = self._prefix + name
        if full in _SECTIONS:
            return _Section(self._native, full + ".")
        return _get(self._native, full)

    def __setattr__(self, name, value):
        full = self._prefix + name
        if full in _SECTIONS:
            _set_many(self._native, value, full + ".")
        else:
            _set(self._native, full, value)

    def __delattr__(self, name):
        _set(self._native, self._prefix + name, None)

    def __dir__(self):
        below = [name[len(self._prefix):] for name in _OPTIONS if name.startswith(self._prefix)]
        names = sorted({name.partition(".")[0] for name in below})
        return names if self._prefix else names + list(super().__dir__())

    def __repr__(self):
        below = ((name[len(self._prefix):], _get(self._native, name)) for name in _OPTIONS
                 if name.startswith(self._prefix))
        return f"<{self._prefix[:-1]}: " + ", ".join(f"{n}={v!r}" for n, v in below) + ">"


def _get(native, name):
    option = _OPTIONS.get(name)
    text = native.get(name)  # raises for a name that is none, and says what is near
    return _from_text(option, text) if option else text


def _set(native, name, value):
    if name in _SECTIONS:
        _set_many(native, value, name + ".")
        return
    if value is None and name in _OPTIONS:
        value = _OPTIONS[name].default
    text = "" if value is None else _to_text(name, value)
    if (b"\0" if isinstance(text, bytes) else "\0") in text:
        raise ValueError(f"{name}: a NUL in the value")
    native.set(name, text)


def _set_many(native, values, prefix=""):
    if not isinstance(values, collections.abc.Mapping):
        raise TypeError(f"{prefix[:-1]} is a section: a mapping of its options, "
                        f"not {type(values).__name__}")
    for name, value in values.items():
        if not isinstance(name, str):
            raise TypeError(f"{prefix[:-1] or 'config'}: an option's name is a str, not {name!r}")
        _set(native, prefix + name, value)


def _mapping(values):
    """A mapping, or pairs of name and value."""
    if isinstance(values, collections.abc.Mapping):
        return values
    try:
        if isinstance(values, (str, bytes)):
            raise TypeError
        return dict(values)
    except (TypeError, ValueError):
        raise TypeError("config: a mapping of options, or pairs of a name and a value, "
                        f"not {values!r:.60}") from None


class Config(_Section):
    """A configuration: every option of docs/options.md, as `config.dram.bytes` or
    `config["dram.bytes"]`.

    Values may be given as text ("4GiB", "on_commit"), numbers, bools or paths; None is the
    default. What does not fit raises at once, and names the option and the nearest known name.

        Config({"dram.bytes": "64GiB"}, ssd={"dir": "/var/lib/umbp", "bytes": "1TiB"})
    """

    __slots__ = ()

    def __init__(self, values=None, /, **options):
        super().__init__(_umbp.Config(), "")
        self._take(values, options)

    def _take(self, values, options):
        """Also a value that is the default: it counts against the environment and a file. (Of a
        Config, what is at its default was not chosen.)"""
        if isinstance(values, Config):
            values = values.changed()
        if values is not None:
            self.update(values)
        self.update(options)

    @classmethod
    def from_env(cls, values=None, /, **options):
        """Defaults, then what the environment says (UMBP_DRAM_CAPACITY and its kin; a bad value
        warns once and counts for nothing), then what is given here."""
        config = cls()
        config.load_env()
        config._take(values, options)
        return config

    @classmethod
    def from_file(cls, path, values=None, /, **options):
        """Defaults, then what the file says (INI), then what is given here."""
        config = cls()
        config.load_file(path)
        config._take(values, options)
        return config

    def load_env(self):
        """Take what the environment says."""
        self._native.load_env()

    def load_file(self, path):
        """Read a file: INI sections and `name = value`. All of it, or nothing and an error."""
        self._native.load_file(path)

    def set(self, name, value):
        """Set one option by its whole name."""
        _set(self._native, name, value)

    def get(self, name):
        """One option's value by its whole name."""
        return _get(self._native, name)

    def update(self, values=(), /, **options):
        """Set many, by whole names or nested by section."""
        _set_many(self._native, _mapping(values))
        _set_many(self._native, options, "")

    def validate(self):
        """Check what only shows across options; raises what `Client` would."""
        self._native.validate()

    def changed(self):
        """Whole names and values of what is not at its default."""
        fresh = _umbp.Config()
        return {name: _get(self._native, name) for name in _OPTIONS
                if self._native.get(name) != fresh.get(name)}

    def to_dict(self):
        """Whole names and values of all options."""
        return {name: _get(self._native, name) for name in _OPTIONS}

    def __copy__(self):
        return Config(self)

    def __deepcopy__(self, memo):
        return Config(self)

    def __reduce__(self):
        return Config, (self.changed(),)

    def __getitem__(self, name):
        return _get(self._native, name)

    def __setitem__(self, name, value):
        _set(self._native, name, value)

    def __eq__(self, other):
        return self.to_dict() == other.to_dict() if isinstance(other, Config) else NotImplemented

    __hash__ = None
    __iter__ = None  # not by way of __getitem__

    def __repr__(self):
        return f"Config({self.changed()!r})"


for _class in (Config, Option, options):
    _class.__module__ = "umbp"
