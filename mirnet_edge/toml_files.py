"""Reading TOML files that people write: one line says what is wrong with one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from mirnet_edge.errors import OptionError

if TYPE_CHECKING:
    from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_Kind = TypeVar("_Kind", bound=BaseModel)


def read_toml(path: Path, kind: type[_Kind], *, absent: str | None = None) -> _Kind:
    """Return a file as a document of that kind.

    Args:
        path: The file.
        kind: Says which keys there may be and what they hold.
        absent: What to say where the file cannot be read; its name and the reason if left out.

    Raises:
        OptionError: It cannot be read, is not TOML, or holds something else.
    """
    try:
        return kind.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise OptionError(absent or f"{path} cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} is not TOML: {error}. Mend that line") from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise OptionError(
            f"{path}: {where}: {first['msg']}; expected the keys {', '.join(kind.model_fields)}"
        ) from error
