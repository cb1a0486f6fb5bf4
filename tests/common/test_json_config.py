"""Settings as JSON: they come back equal, and a wrong one is refused by its full name."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt1.common.json_config import check_at_least, from_json, to_json


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = 1
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size is {self.size}, must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Outer:
    rate: float
    flag: bool = False
    kind: Literal["a", "b"] = "a"
    pair: tuple[int, float] = (0, 0.0)
    limit: int | None = None
    inner: Inner = field(default_factory=Inner)
    many: tuple[Inner, ...] = ()


INNERS = st.builds(Inner, size=st.integers(1, 10**6), names=st.lists(st.text(), max_size=3).map(tuple))
OUTERS = st.builds(
    Outer,
    rate=st.floats(allow_nan=False, allow_infinity=False),
    flag=st.booleans(),
    kind=st.sampled_from(["a", "b"]),
    pair=st.tuples(st.integers(), st.floats(allow_nan=False, allow_infinity=False)),
    limit=st.none() | st.integers(),
    inner=INNERS,
    many=st.lists(INNERS, max_size=3).map(tuple),
)


@given(OUTERS)
def test_settings_come_back_from_json_equal(settings: Outer) -> None:
    assert from_json(Outer, json.loads(json.dumps(to_json(settings)))) == settings


def test_what_is_left_out_takes_its_default() -> None:
    assert from_json(Outer, {"rate": 2}) == Outer(rate=2.0)
    assert type(from_json(Outer, {"rate": 2}).rate) is float


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flga": True}, "unknown setting of Outer 'flga', did you mean 'flag'?"),
        ({"inner": {"sizes": 2}}, "unknown setting of Outer.inner 'sizes', did you mean 'size'?"),
        ({"rate": "fast"}, "Outer.rate is 'fast', must be of type float"),
        ({"rate": True}, "Outer.rate is True, must be of type float"),
        ({"flag": 1}, "Outer.flag is 1, must be of type bool"),
        ({"inner": {"size": 1.5}}, "Outer.inner.size is 1.5, must be of type int"),
        ({"inner": {"size": 0}}, "size is 0, must be at least 1"),
        ({"inner": 3}, "Outer.inner is 3, must be an object of settings"),
        ({"limit": "x"}, "Outer.limit is 'x', must be of type int"),
        ({"kind": "c"}, "unknown value of Outer.kind 'c'. Known: a, b"),
        ({"pair": [1]}, "Outer.pair has 1 entries, must have 2"),
        ({"pair": 1}, "Outer.pair is 1, must be a list"),
        ({"many": [{"names": [1]}]}, "Outer.many.names is 1, must be of type str"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_full_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the whole message is compared)
        from_json(Outer, {"rate": 1.0, **change})
    assert str(caught.value).startswith(message)


def test_a_missing_required_setting_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Outer lacks .*'rate'.*. Give every required setting"):
        from_json(Outer, {})


def test_the_name_in_errors_may_be_given() -> None:
    with pytest.raises(ValueError, match=r"^model\.size is None, must be of type int$"):
        from_json(Inner, {"size": None}, where="model")


def test_a_number_or_a_tuple_below_its_least_value_is_named() -> None:
    @dataclass(frozen=True)
    class Sizes:
        layers: int = 1
        image_size: tuple[int, int] = (4, 4)

    check_at_least(Sizes(), 1, "layers", "image_size")
    with pytest.raises(ValueError, match=r"^layers is 0, must be at least 1$"):
        check_at_least(Sizes(layers=0), 1, "image_size", "layers")
    with pytest.raises(ValueError, match=r"^image_size is \(4, -1\), must be at least 1$"):
        check_at_least(Sizes(image_size=(4, -1)), 1, "image_size", "layers")
