"""What the config files share: strict arguments and the default optimizer section."""

from types import SimpleNamespace
from typing import Any


def parse_arg(arg: str | None, **defaults: Any) -> SimpleNamespace:
    """Parses "name=value,flag" against defaults: booleans may be given alone, types follow the defaults.

    Raises:
      ValueError: for an unknown name or a value of another type; the known names are listed.
    """
    values = dict(defaults)
    for item in filter(None, (arg or "").split(",")):
        name, given, text = item.partition("=")
        if name not in defaults:
            raise ValueError(f"config argument {name!r} is unknown; known: {', '.join(defaults)}")
        default = defaults[name]
        if isinstance(default, bool):
            if text not in ("", "true", "false"):
                raise ValueError(f"config argument {item!r}: expected {name}, {name}=true or {name}=false")
            values[name] = text != "false"
        elif not given:
            raise ValueError(f"config argument {name!r} needs a value, as {name}={default}")
        else:
            try:
                values[name] = type(default)(text)
            except ValueError as error:
                kind = type(default).__name__
                raise ValueError(f"config argument {item!r}: expected {kind} as in {name}={default}") from error
    return SimpleNamespace(**values)
