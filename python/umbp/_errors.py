# SPDX-License-Identifier: Apache-2.0
"""Status and the exceptions that carry one, made from the library's own list."""
import builtins
import enum

from . import _umbp

_TEXTS = {number: text for number, _, text in _umbp.statuses()}

Status = enum.IntEnum("Status", {name: number for number, name, _ in _umbp.statuses()},
                      module=__name__)
Status.__doc__ = "The outcome of one item of a batch, and of a call that failed."
Status.text = property(lambda self: _TEXTS[int(self)], doc="The status as a sentence.")
Status.is_success = property(lambda self: self <= Status.ALREADY_EXISTS,
                             doc="OK or ALREADY_EXISTS: what was asked for is so.")


class Error(Exception):
    """What the library refused or could not do. `status` says which."""

    status = None


# Where Python has an exception for the same thing, ours is one of that kind too.
_ALSO = {
    "NOT_FOUND": (LookupError,),
    "SIZE_MISMATCH": (ValueError,),
    "INVALID_KEY": (ValueError,),
    "INVALID_VALUE": (ValueError,),
    "INVALID_RANGE": (ValueError,),
    "LIMIT": (ValueError,),
    "NO_MEMORY": (MemoryError,),
    "TIMEOUT": (builtins.TimeoutError,),
    "UNKNOWN_OPTION": (AttributeError, LookupError),
}


def _class_name(status_name):
    words = "".join(word.capitalize() for word in status_name.split("_"))
    return words if words.endswith("Error") else words + "Error"


def _make():
    made = {}
    for status in Status:
        if status == Status.OK:
            _umbp.use(int(status), status, None)
            continue
        name = _class_name(status.name)
        bases = (Error,) + _ALSO.get(status.name, ())
        made[name] = type(name, bases, {
            "__doc__": status.text[:1].upper() + status.text[1:] + ".",
            "__module__": "umbp",
            "status": status,
        })
        _umbp.use(int(status), status, made[name])
    return made


Error.__module__ = "umbp"
Status.__module__ = "umbp"
CLASSES = _make()
