"""The string under each field of a dataclass, which is its help text."""

import ast
import functools
import itertools
import re
import sys
from pathlib import Path


@functools.cache
def field_texts(cls: type) -> dict[str, str]:
    """{field: string under it} for the fields that a top-level dataclass of a module declares itself.

    Empty strings if the source is not available, as in a zip file.
    """
    try:
        source = Path(str(sys.modules[cls.__module__].__file__)).read_text(encoding="utf-8")
    except OSError:
        return dict.fromkeys(cls.__annotations__, "")
    text = re.search(rf"^class {cls.__name__}\b.*?(?=^\S|\Z)", source, re.MULTILINE | re.DOTALL)
    assert text is not None  # inspect.getsource would parse the whole file, and delay --help
    body = ast.parse(text.group()).body[0].body  # type: ignore[attr-defined]
    return {
        statement.target.id: str(after.value.value)
        for statement, after in itertools.pairwise(body)
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }
