# SPDX-License-Identifier: Apache-2.0
"""`python -m umbp._stub` prints the stub of Config out of the option table (_config.pyi)."""
from ._config import _SECTIONS, options

_HEAD = '''# SPDX-License-Identifier: Apache-2.0
# Generated: `python -m umbp._stub > python/umbp/_config.pyi`. A test fails when it is stale.
from os import PathLike
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple, Union

_Path = Union[str, bytes, PathLike[str], PathLike[bytes]]
_Value = Union[str, bytes, int, float, bool, PathLike[str], PathLike[bytes], None]
_Values = Union["Config", Mapping[str, Any], Iterable[Tuple[str, Any]], None]

class Option:
    name: str
    type: str
    default: str
    range: str
    environment: str
    help: str
    def __init__(self, *row: str) -> None: ...

def options() -> List[Option]: ...
'''

_CONFIG = '''
class Config:
{members}
    def __init__(self, values: _Values = None, /, **options: Any) -> None: ...
    @classmethod
    def from_env(cls, values: _Values = None, /, **options: Any) -> Config: ...
    @classmethod
    def from_file(cls, path: _Path, values: _Values = None, /, **options: Any) -> Config: ...
    def load_env(self) -> None: ...
    def load_file(self, path: _Path) -> None: ...
    def set(self, name: str, value: _Value) -> None: ...
    def get(self, name: str) -> Union[int, float, bool, str]: ...
    def update(self, values: Union[Mapping[str, Any], Iterable[Tuple[str, Any]]] = ..., /,
               **options: Any) -> None: ...
    def validate(self) -> None: ...
    def changed(self) -> Dict[str, Union[int, float, bool, str]]: ...
    def to_dict(self) -> Dict[str, Union[int, float, bool, str]]: ...
    def __copy__(self) -> Config: ...
    def __deepcopy__(self, memo: Optional[Dict[int, Any]]) -> Config: ...
    def __getitem__(self, name: str) -> Union[int, float, bool, str]: ...
    def __setitem__(self, name: str, value: _Value) -> None: ...'''


def _read_type(kind):
    kinds = kind.split("|")
    if kinds[-1] in ("count", "milliseconds") and len(kinds) > 1:
        return "Union[int, str]"
    return {"size": "int", "count": "int", "milliseconds": "int", "fraction": "float",
            "bool": "bool"}.get(kind, "str")


def _property(option, indent="    "):
    name = option.name.rpartition(".")[2]
    return (f"{indent}@property\n{indent}def {name}(self) -> {_read_type(option.type)}: ...\n"
            f"{indent}@{name}.setter\n{indent}def {name}(self, value: _Value) -> None: ...")


def text():
    """The stub."""
    parts = [_HEAD]
    members = []
    for section in sorted(_SECTIONS):
        kind = f"_{section.capitalize()}Options"
        below = [o for o in options() if o.name.rpartition(".")[0] == section]
        parts.append(f"class {kind}:\n" + "\n".join(_property(o) for o in below) + "\n")
        members.append(f"    @property\n    def {section}(self) -> {kind}: ...\n"
                       f"    @{section}.setter\n"
                       f"    def {section}(self, value: Mapping[str, Any]) -> None: ...")
    members += [_property(o) for o in options() if "." not in o.name]
    parts.append(_CONFIG.replace("{members}", "\n".join(members)).lstrip("\n"))
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(text(), end="")
