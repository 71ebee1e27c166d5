# SPDX-License-Identifier: Apache-2.0
"""Plain structures with typed fields, which behave as the public binding's do.

A structure takes no arguments; a field that does not exist can't be set; a value of a wrong type or
range is a TypeError and changes nothing; a structure that is assigned into another is copied, one
that is read is the one inside (``config.dram.capacity_bytes = 1`` changes config); a list that is
read is a copy.
"""

import copy
import operator

__all__ = [
    "Bool",
    "Count",
    "Enumerated",
    "Float",
    "Mapping",
    "Nested",
    "Optional",
    "Struct",
    "Text",
    "Texts",
]


class Field:
    """A descriptor; the values are in the structure's ``_values``, by name."""

    def __init__(self, default=None):
        self.default = default
        self.name = None

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, struct, owner=None):
        return self if struct is None else struct._values[self.name]

    def __set__(self, struct, value):
        struct._values[self.name] = self.convert(value)
        struct._touched.add(self.name)

    def initial(self):
        return self.default

    def convert(self, value):
        raise NotImplementedError

    def refuse(self, value, wanted):
        raise TypeError("%s takes %s, not %r" % (self.name, wanted, value))


class Bool(Field):
    def convert(self, value):
        if value is None or hasattr(type(value), "__bool__"):
            return bool(value)
        return self.refuse(value, "a bool")


class Count(Field):
    """A whole number of a C type's range."""

    def __init__(self, default, bits=64, signed=False):
        super().__init__(default)
        self.least = -(1 << (bits - 1)) if signed else 0
        self.most = (1 << (bits - signed)) - 1

    def convert(self, value):
        try:
            number = operator.index(value)
        except TypeError:
            return self.refuse(value, "a whole number")
        if not self.least <= number <= self.most:
            return self.refuse(value, "a whole number from %d to %d" % (self.least, self.most))
        return number


class Float(Field):
    def convert(self, value):
        if isinstance(value, (str, bytes, bytearray)):
            return self.refuse(value, "a number")
        try:
            return float(value)
        except (TypeError, ValueError):
            return self.refuse(value, "a number")


def _text(field, value):
    if isinstance(value, (bytes, bytearray)):
        value = bytes(value).decode("utf-8", "surrogateescape")
    if not isinstance(value, str):
        field.refuse(value, "a str")
    return value


class Text(Field):
    def convert(self, value):
        return _text(self, value)


class Texts(Field):
    """A list of str."""

    def initial(self):
        return []

    def __get__(self, struct, owner=None):
        return self if struct is None else list(struct._values[self.name])

    def convert(self, value):
        if isinstance(value, (str, bytes, bytearray)):
            return self.refuse(value, "a list of str")
        try:
            items = list(value)
        except TypeError:
            return self.refuse(value, "a list of str")
        return [_text(self, item) for item in items]


class Mapping(Field):
    """A dict; read, it is a copy."""

    def initial(self):
        return {}

    def __get__(self, struct, owner=None):
        return self if struct is None else {k: list(v) for k, v in struct._values[self.name].items()}

    def convert(self, value):
        try:
            return {key: [_text(self, item) for item in items] for key, items in value.items()}
        except (AttributeError, TypeError):
            return self.refuse(value, "a dict of lists of str")


class Enumerated(Field):
    def __init__(self, default):
        super().__init__(default)
        self.type = type(default)

    def convert(self, value):
        if not isinstance(value, self.type):
            return self.refuse(value, "a " + self.type.__name__)
        return value


class Nested(Field):
    def __init__(self, struct_type):
        super().__init__()
        self.type = struct_type

    def initial(self):
        return self.type()

    def convert(self, value):
        if not isinstance(value, self.type):
            return self.refuse(value, "a " + self.type.__name__)
        return copy.deepcopy(value)


class Optional(Nested):
    """None, or a structure."""

    def initial(self):
        return None

    def convert(self, value):
        return None if value is None else super().convert(value)


class Struct:
    __slots__ = ("_values", "_touched")

    def __init__(self):
        self._values = {name: field.initial() for name, field in self._fields()}
        self._touched = set()

    @classmethod
    def _fields(cls):
        return [
            (name, field)
            for owner in reversed(cls.__mro__)
            for name, field in vars(owner).items()
            if isinstance(field, Field)
        ]

    def _is_touched(self, *names):
        return any(name in self._touched for name in names)

    def __deepcopy__(self, memo):
        other = type(self)()
        other._values = copy.deepcopy(self._values, memo)
        other._touched = set(self._touched)
        return other

    def __copy__(self):
        return copy.deepcopy(self)

    def __repr__(self):
        fields = ", ".join("%s=%r" % (name, self._values[name]) for name, _ in self._fields())
        return "%s(%s)" % (type(self).__name__, fields)
