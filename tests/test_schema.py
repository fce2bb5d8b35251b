import dataclasses
import json
from typing import Any, Literal

import pytest

from rembert_jax import schema


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float
    kind: Literal["linear", "cosine"] = "linear"

    def __post_init__(self):
        if self.rate < 0:
            raise ValueError(f"rate={self.rate}: expected at least 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    steps: int
    inner: Inner
    name: str = ""
    shuffle: bool = False
    other: Inner | None = None
    languages: tuple[str, ...] = ()
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


FULL = {
    "steps": 3,
    "inner": {"rate": 0.5, "kind": "cosine"},
    "name": "run",
    "shuffle": True,
    "other": {"rate": 1.0, "kind": "linear"},
    "languages": ["en", "sw"],
    "weights": {"en": 0.25},
    "extra": {"anything": [1, None]},
}


def test_mapping_becomes_nested_dataclasses_and_back():
    value = schema.from_mapping(Outer, FULL, "config")
    assert value == Outer(
        steps=3,
        inner=Inner(rate=0.5, kind="cosine"),
        name="run",
        shuffle=True,
        other=Inner(rate=1.0),
        languages=("en", "sw"),
        weights={"en": 0.25},
        extra={"anything": [1, None]},
    )
    assert schema.to_mapping(value) == FULL
    assert schema.to_json(value).endswith("}\n")
    assert json.loads(schema.to_json(value)) == FULL


def test_defaults_are_filled_in():
    assert schema.from_mapping(Outer, {"steps": 1, "inner": {"rate": 0.0}}, "config").other is None


def test_json_keeps_letters_outside_ascii_readable():
    assert "Ελλάδα" in schema.to_json({"name": "Ελλάδα"})


def test_whole_numbers_pass_between_int_and_float():
    value = schema.from_mapping(Outer, {"steps": 3.0, "inner": {"rate": 2}}, "config")
    assert (value.steps, type(value.steps)) == (3, int)
    assert (value.inner.rate, type(value.inner.rate)) == (2.0, float)


def test_finished_dataclass_is_accepted_as_a_section():
    inner = Inner(rate=0.1)
    assert schema.from_mapping(Outer, {"steps": 1, "inner": inner}, "config").inner is inner


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": 1}, r"config: unknown key 'step' \(did you mean 'steps'\?\). Known keys: extra, inner, .*, weights$"),
        ({"qqqqqq": 1}, r"config: unknown key 'qqqqqq'\. Known keys: "),
        ({"inner": {"rate": 1.0, "knd": "linear"}}, r"config\.inner: unknown key 'knd' \(did you mean 'kind'\?\)"),
        ({"inner": {}}, r"config\.inner: missing rate; add it"),
        ({"inner": 3}, r"config\.inner: found 3, expected a section with keys of Inner"),
        ({"inner": {"rate": -1.0}}, r"config\.inner: rate=-1\.0: expected at least 0"),
        ({"inner": {"rate": "0.5"}}, r"config\.inner\.rate: found '0\.5' \(str\), expected float"),
        (
            {"inner": {"rate": 1.0, "kind": "step"}},
            r"config\.inner\.kind: found 'step', expected one of 'linear', 'cosine'",
        ),
        ({"other": {"rate": None}}, r"config\.other\.rate: found None \(NoneType\), expected float"),
        ({"steps": 1.5}, r"config\.steps: found 1\.5 \(float\), expected int"),
        ({"steps": True}, r"config\.steps: found True \(bool\), expected int"),
        ({"shuffle": 1}, r"config\.shuffle: found 1 \(int\), expected bool"),
        ({"languages": "en"}, r"config\.languages: found 'en', expected a list"),
        ({"languages": ["en", 3]}, r"config\.languages\[1\]: found 3 \(int\), expected str"),
        ({"weights": {"en": "much"}}, r"config\.weights\.en: found 'much' \(str\), expected float"),
        ({"weights": [0.5]}, r"config\.weights: found \[0\.5\], expected a section of keys and values"),
    ],
)
def test_misfits_are_refused_by_path_value_and_expectation(changes, message):
    with pytest.raises(schema.SchemaError, match=message):
        schema.from_mapping(Outer, {**FULL, **changes}, "config")


def test_several_missing_keys_are_named_at_once():
    with pytest.raises(schema.SchemaError, match="config: missing steps, inner"):
        schema.from_mapping(Outer, {"name": "run"}, "config")


def test_differences_name_each_changed_leaf():
    old = {"a": 1, "b": {"c": [1, 2], "d": "x"}, "gone": 0, "same": {"e": None}}
    new = {"a": 2, "b": {"c": [1, 3], "d": "x"}, "come": 5, "same": {"e": None}}
    assert schema.differences(old, new) == [
        "a: 1 -> 2",
        "b.c: [1, 2] -> [1, 3]",
        "come: (absent) -> 5",
        "gone: 0 -> (absent)",
    ]
    assert schema.differences(old, old) == []
    assert schema.differences({"x": 1}, {"x": 2}, "model") == ["model.x: 1 -> 2"]
