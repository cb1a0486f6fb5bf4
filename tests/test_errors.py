"""One tree of errors: a user catches all of rt1's by one name, or each by the built-in that fits."""

from __future__ import annotations

import pytest

from rt1 import errors
from rt1.errors import RT1Error

TREE = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind is not RT1Error]


@pytest.mark.parametrize("kind", TREE)
def test_every_error_derives_from_the_root_and_from_a_builtin(kind: type[Exception]) -> None:
    assert issubclass(kind, RT1Error)
    assert issubclass(kind, ValueError | RuntimeError | OSError)


def test_the_documented_tree_names_every_class() -> None:
    assert errors.__doc__ is not None
    assert [kind.__name__ for kind in TREE if kind.__name__ not in errors.__doc__] == []
