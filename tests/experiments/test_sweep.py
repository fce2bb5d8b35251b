"""Sweeps: what their combinators make, what a member sets, and what is refused."""

import pytest
from helpers import ROOT

from rembert_jax.experiments import sweep as sweeps
from rembert_jax.experiments.sweep import SweepError

CONFIG = """
import ml_collections
from rembert_jax.experiments import sweep as sweeps

def get_config(arg=""):
    values = dict(item.split("=") for item in arg.split(",") if item)
    if set(values) - {"seed", "steps"}:
        raise ValueError(f"config argument {sorted(values)[0]!r} is unknown; known: seed, steps")
    return ml_collections.ConfigDict({
        "optimizer": {"learning_rate": 1e-3, "freeze": ("a",), "factors": {}, "name": "adamw"},
        "training": {"steps": int(values.get("steps", 5)), "seed": int(values.get("seed", 0))},
    })

def sweep():
    return SWEEP
"""


@pytest.fixture
def config_file(tmp_path):
    def write(sweep):
        path = tmp_path / "swept.py"
        path.write_text(CONFIG.replace("SWEEP", sweep))
        return str(path)

    return write


def test_combinators_worked_by_hand():
    a, b = sweeps.values("a", (1, 2)), sweeps.values("b", "xy")
    assert sweeps.product(a, b) == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]
    assert sweeps.zipped(a, b) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    assert sweeps.chain(a, b) == [{"a": 1}, {"a": 2}, {"b": "x"}, {"b": "y"}]
    assert sweeps.seeds(2, first=5) == [{"seed": 5}, {"seed": 6}]
    assert sweeps.product(sweeps.zipped(a, b), sweeps.seeds(2)) == [
        {"a": 1, "b": "x", "seed": 0}, {"a": 1, "b": "x", "seed": 1},
        {"a": 2, "b": "y", "seed": 0}, {"a": 2, "b": "y", "seed": 1},
    ]  # fmt: skip
    assert sweeps.product() == [{}]


@pytest.mark.parametrize("combine", [sweeps.product, sweeps.zipped])
def test_sweeps_that_set_the_same_are_not_combined(combine):
    with pytest.raises(SweepError, match="two sweeps that are combined both set a"):
        combine(sweeps.values("a", (1, 2)), sweeps.values("a", (3, 4)))


def test_zipped_sweeps_have_one_length():
    with pytest.raises(SweepError, match="zipped sweeps have 1, 2 members"):
        sweeps.zipped(sweeps.values("a", (1,)), sweeps.values("b", (1, 2)))


def test_a_member_overrides_keys_and_gives_the_rest_as_arguments(config_file):
    member = {"seed": 7, "optimizer.learning_rate": 1, "optimizer.freeze": ["b", "c"]}
    config = sweeps.member_config(f"{config_file('[]')}:steps=9", member)
    assert config.optimizer.learning_rate == 1.0 and config.optimizer.freeze == ("b", "c")
    assert config.training.to_dict() == {"steps": 9, "seed": 7}
    assert config.optimizer.name == "adamw"


def test_a_section_can_be_set_as_a_whole(config_file):
    config = sweeps.member_config(config_file("[]"), {"optimizer.factors": {"rembert/embeddings": 0.5}})
    assert config.to_dict()["optimizer"]["factors"] == {"rembert/embeddings": 0.5}


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (
            {"optimizer.lr": 1},
            r"optimizer\.lr: the config file has no key 'lr' in config\.optimizer; it has factors, freeze",
        ),
        (
            {"optimiser.lr": 1},
            r"optimiser\.lr: the config file has no key 'optimiser' in config; it has optimizer, training",
        ),
        ({"optimizer.learning_rate.x": 1}, r"no key 'x' in config\.optimizer\.learning_rate; it is a value"),
        ({"optimizer.learning_rate": "fast"}, r"optimizer\.learning_rate: found 'fast' \(str\), expected float"),
        ({"training.steps": 0.5}, r"training\.steps: found 0\.5 \(float\), expected int"),
        ({"sed": 1}, "config argument 'sed' is unknown; known: seed, steps"),
    ],
)
def test_a_setting_that_the_config_does_not_take_is_named(config_file, member, message):
    with pytest.raises(SweepError, match=message):
        sweeps.member_config(config_file("[]"), member)


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("[]", r"swept\.py: sweep\(\) yields nothing; expected a mapping"),
        ("iter([])", "yields nothing"),
        ("[1]", r"member 0 of sweep\(\) is 1, expected a mapping"),
        ("[{'a': 1}, {'a': 2}, {'a': 1}]", r"members 0 and 2 of sweep\(\) are equal: a=1"),
    ],
)
def test_sweeps_that_are_none_are_refused(config_file, sweep, message):
    with pytest.raises(SweepError, match=message):
        sweeps.load_members(config_file(sweep))


def test_a_sweep_may_depend_on_the_argument_of_its_config(tmp_path):
    path = tmp_path / "swept.py"
    path.write_text("def sweep(arg):\n    return [{'seed': seed} for seed in range(int(arg))]\n")
    assert sweeps.load_members(f"{path}:2") == [{"seed": 0}, {"seed": 1}]


def test_an_argument_that_a_sweep_refuses_is_one_error():
    with pytest.raises(SweepError, match=r"--config=configs/output_embedding.py:smoke=x: config argument 'smoke=x'"):
        sweeps.load_members("configs/output_embedding.py:smoke=x")


def test_files_without_a_sweep_are_named(tmp_path):
    (tmp_path / "plain.py").write_text("def get_config():\n    return None\n")
    with pytest.raises(SweepError, match=r"plain\.py has no function sweep\(\); let it return"):
        sweeps.load_members(str(tmp_path / "plain.py"))
    with pytest.raises(SweepError, match=r"absent\.py: no such file"):
        sweeps.load_members(str(tmp_path / "absent.py"))


@pytest.mark.parametrize("index", [-1, 2])
def test_an_index_out_of_range_is_told_the_range(index):
    with pytest.raises(SweepError, match=rf"--sweep_index={index}: the sweep has members 0 to 1"):
        sweeps.choose([{"a": 1}, {"a": 2}], index)


def test_members_are_described_by_the_last_part_of_their_names():
    assert sweeps.describe({"stages.a.optimizer.learning_rate": 0.1, "seed": 3}) == "learning_rate=0.1, seed=3"
    assert sweeps.describe({"stages.a.steps": 1, "stages.b.steps": 2}) == "stages.a.steps=1, stages.b.steps=2"


def test_arguments_are_put_to_those_that_are_there():
    assert sweeps.with_arguments("a.py", {}) == "a.py"
    assert sweeps.with_arguments("a.py", {"seed": 1, "smoke": True}) == "a.py:seed=1,smoke=true"
    assert sweeps.with_arguments("a.py:x=2", {"seed": 1}) == "a.py:x=2,seed=1"


@pytest.mark.parametrize("file", ["quickstart.py", "output_embedding.py"])
def test_the_sweeps_of_the_shipped_configs_fit_their_configs(file):
    specification = f"{ROOT}/configs/{file}:smoke"
    for member in sweeps.load_members(specification):
        config = sweeps.member_config(specification, member)
        assert {config.stages[stage].seed for stage in config.order} == {member["seed"]}
