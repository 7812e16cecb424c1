"""Settings: what is written is what is built, and mistakes are named."""

import inspect

import jax
import jax.numpy as jnp
import pytest

from tsam_jax import methods, noise, value_and_grad
from tsam_jax.methods import FORMULAS
from tsam_jax.recipes import defaults, noisy_digits
from tsam_jax.train.config import ConfigError
from tsam_jax.train.settings import parse, parse_all


def loss(x):
    return jnp.sum(x**4)


def gradient(estimator):
    x = jnp.array([1.0, -2.0, 0.5])
    step = value_and_grad(loss, estimator)
    return step(x, step.init(x))[0][1].tolist()


def test_a_setting_builds_what_its_text_says():
    [setting] = parse("tsam(t=0.05, rho=0.3, s=2, noise=sphere(rms=0.2), delta='half')")
    by_hand = methods.tsam(t=0.05, rho=0.3, s=2, noise=noise.sphere(rms=0.2), delta=0.5)
    assert gradient(setting.build()) == gradient(by_hand)
    for other in ({"delta": 0.25}, {"t": 0.06}, {"noise": noise.sphere(rms=0.1)}):
        arguments = {"t": 0.05, "rho": 0.3, "s": 2, "noise": noise.sphere(rms=0.2), "delta": 0.5}
        assert gradient(methods.tsam(**arguments | other)) != gradient(by_hand)


def test_schedules_and_infinity_can_be_written():
    [setting] = parse("tsam(t=inf, rho=linear_schedule(0.0, 1.0, 10), s=2, noise=none)")
    first = setting.build()
    assert gradient(first) == gradient(methods.erm())  # the schedule starts at 0


def test_lists_are_a_grid_and_overrides_are_not_the_methods():
    settings = parse("sam(rho=[0.1, 0.2], lr=[0.01, 0.03])")
    assert [(s.arguments["rho"], s.overrides["lr"]) for s in settings] == [
        (0.1, 0.01),
        (0.1, 0.03),
        (0.2, 0.01),
        (0.2, 0.03),
    ]


def test_text_is_canonical_and_reads_back():
    [setting] = parse("sam( rho = 0.1,lr=0.03 )")
    assert setting.text == "sam(rho=0.1, lr=0.03)"
    assert parse(setting.text) == [setting]


def test_bare_names_stand_for_defaults():
    assert [s.text for s in parse("sam", {"sam": "sam(rho=0.7)"})] == ["sam(rho=0.7)"]
    assert [s.text for s in parse("erm")] == ["erm()"]


def test_flags_replace_what_a_setting_has():
    fixed = {"rho": 0.3, "lr": 0.5}
    assert [x.text for x in parse("sam(rho=0.1)", fixed=fixed)] == ["sam(rho=0.3)"]
    [setting] = parse("sam(rho=0.1, lr=0.01)", fixed=fixed)
    assert setting.text == "sam(rho=0.3, lr=0.5)"
    assert setting.overrides == {"lr": 0.5}
    assert [x.text for x in parse("erm()", fixed=fixed)] == ["erm()"]


def test_numbers_are_the_arguments_of_a_shared_program():
    text = "tsam(t=[1, 20], rho=[0, 0.1], s=3, noise=antithetic(sphere(rms=0.02)), lr=0.03)"
    settings = parse(text)
    assert [x.numbers for x in settings[:2]] == [
        {"t": 1.0, "noise.law.rms": 0.02},
        {"t": 1.0, "rho": 0.1, "noise.law.rms": 0.02},
    ]
    assert len({x.shape for x in settings}) == 2  # rho = 0 computes something else
    assert settings[1].shape.endswith("noise=antithetic(sphere(rms=...)))")  # without lr
    for setting in settings:
        changed = {**setting.numbers, "t": 0.05}
        by_hand = parse(setting.text, fixed={"t": 0.05})[0]
        assert gradient(setting.build(changed)) == gradient(by_hand.build())
        assert gradient(setting.build(setting.numbers)) == gradient(setting.build())


@pytest.mark.parametrize("name", [x for x in noisy_digits.SETTINGS if x != "erm"])
def test_every_method_takes_its_numbers_traced(name):
    [setting] = parse(name, noisy_digits.SETTINGS)
    assert setting.numbers
    found = jax.jit(lambda numbers: _gradient(setting.build(numbers)))(setting.numbers)
    expected = jax.jit(lambda: _gradient(setting.build()))()
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-6)


def _gradient(estimator):
    x = jnp.array([1.0, -2.0, 0.5])
    step = value_and_grad(loss, estimator)
    return step(x, step.init(x))[0][1]


def test_a_grid_is_for_the_methods_that_take_it():
    settings = parse_all(("erm", "sam(rho=0.1)"), {}, grid=["rho=0.1,0.2", "lr=1,2"])
    assert [x.text for x in settings] == [
        "erm(lr=1)",
        "erm(lr=2)",
        "sam(rho=0.1, lr=1)",
        "sam(rho=0.1, lr=2)",
        "sam(rho=0.2, lr=1)",
        "sam(rho=0.2, lr=2)",
    ]
    laws = ("tsam(t=1, rho=1, s=2, noise=antithetic(ball(rms=0.1)))",)
    assert [x.text for x in parse_all(laws, {}, grid=["radius=5"])] == [
        "tsam(t=1, rho=1, s=2, noise=antithetic(ball(radius=5)))"
    ]


@pytest.mark.parametrize(
    ("law", "expected"),
    [
        ("gaussian(clip=2, rms=linear_schedule(0, 1, 10))", "gaussian(clip=2, radius=5)"),
        ("ball(rms=piecewise_constant_schedule(1, {10: 0.5, 20: 0.1}))", "ball(radius=5)"),
        ("orthogonal(law=sphere( radius = 3 ))", "orthogonal(law=sphere(radius=5))"),
        ("[none, ball(rms=1)]", None),
    ],
)
def test_a_grid_of_sizes_replaces_that_of_the_law_and_nothing_else(law, expected):
    text = f"tsam(t=1, rho=1, s=2, noise={law})"
    start = "tsam(t=1, rho=1, s=2, noise="
    found = [x.text for x in parse_all((text,), {}, grid=["radius=5"])]
    assert found == [
        f"{start}{x})" for x in ([expected] if expected else ["none", "ball(radius=5)"])
    ]


def test_flags_and_grids_are_added_in_this_order():
    found = parse_all(("from_paper(t=1, s=2)",), {}, (), {"rho": 3.0}, ["lr=0.1,0.2"])
    assert [x.text for x in found] == [
        "from_paper(t=1, s=2, rho=3.0, lr=0.1)",
        "from_paper(t=1, s=2, rho=3.0, lr=0.2)",
    ]


def test_a_law_that_is_too_deep_to_resize_is_refused():
    with pytest.raises(ConfigError, match="in `tsam"):
        parse_all((f"tsam(t=1, rho=1, s=2, noise={'-' * 1900}1)",), {}, grid=["radius=1"])


def test_the_price_counts_a_loss_value_as_a_third_of_a_gradient():
    [esam2] = parse("esam2(rhos=(0.1, 0.2, 0.3))")
    assert (esam2.cost.gradients, esam2.cost.values) == (2, 3)
    assert esam2.price == pytest.approx(3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("smm(rho=1)", "`smm` is not a known method.*Perhaps you meant `sam`"),
        ("sam(roh=1)", "`roh` is not a known argument of `sam`.*Perhaps you meant `rho`"),
        (
            "sam(rho=-1)",
            r"in `sam\(rho=-1\)`: `sam\(rho=...\)` must be a finite number >= 0, got -1",
        ),
        ("sam", "missing 1 required positional argument: 'rho'"),
        ("sam(0.1)", "arguments must be given by name"),
        ("sam(rho=0.1", "is not a setting"),
        ("sam(rho=[])", "empty list"),
        ("sam(rho=x)", "`x` is not a known value"),
        ("sam(rho=print(1))", "`print` is not a known noise law or schedule"),
        ("sam(rho=().__class__)", "is not a number"),
        ("__import__('os').system('true')", "is not a setting"),
        ("sam(rho=0.1, lr=-1)", "`lr` must be a finite number >= 0, got -1"),
        ("tsam(t=1, rho=1, s=1, key=3)", "in `tsam.*: give `key` as `--seed` or `--seeds`"),
        ("sam(rho=1, key=1)", r"in `sam\(rho=1, key=1\)`: give `key` as `--seed` or `--seeds`"),
        ("tsam(t=1, rho=1, s=2, sample_axis='a')", "in `tsam.*: give `sample_axis` as `--mesh`"),
        ("tsam(t=1, rho=1, s=1, noise=sphere())", "exactly one of `radius` and `rms`"),
        ("tsam(t=1, rho=1, s=1.5)", "must be an integer"),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(ConfigError, match=message):
        parse(text)


ODD_VALUES = {
    "b'x'": "`b'x'` is not a number",
    "1j": "`1j` is not a number",
    "...": "`...` is not a number",
    "{[]: 1}": r"`\{\[\]: 1\}` is not a number",
    "9" * 400: "a number is beyond 1e\\+12",
    "1e400": "a number is beyond 1e\\+12; infinity is `inf`",
    "-" * 1000 + "1": "is not a number",
    "------1": "`------1` is not a number",
    "(None)": "must be a number or a schedule, got None",
    "[[1, 2]]": r"`\[1, 2\]` is not a number",
    "(1, [2])": r"`\[2\]` is not a number",
    "True": "must be a number or a schedule, got True",
    "'x'": "must be a number or a schedule, got 'x'",
    "-inf": "`-inf` is not a number",
    "nan": "`nan` is not a known value",
    "none": "`none` is a noise law",
    "sphere(rms=1)": "`sphere` is a noise law",
    "linear_schedule(0, 1)": "missing 1 required positional argument: 'transition_steps'",
    "linear_schedule('a', 1, 10)": "in `sam",
    "linear_schedule(-1, 1, 10)": "a schedule must be a finite number >= 0, but is -1.0 at step 0",
    "linear_schedule(1, -1, 10**3)": r"`10\*\*3` is not a number",
    "linear_schedule(1, -1, 1000)": "must be a finite number >= 0, but is -1.0 at step 1000",
    "piecewise_constant_schedule(1, (1, 2))": "in `sam",
    "piecewise_constant_schedule(1, {inf: 1})": r"`\{inf: 1\}` is not a number",
    "cosine_decay_schedule(sphere(rms=1), 5)": "`sphere` is a noise law",
    "x" * 1990: r"`x+\.\.\.` is not a known value",
    "x" * 2000: "there are 2009 characters, of at most 2000",
    "(" * 300 + ")" * 300: "is not a setting.*nested",
    "1, rho=2": "an argument is given twice",
    "1, **{}": "is not a number",
    "\0": r"`sam\(rho=\\x00\)` is not a setting",
    "\ud800": r"`sam\(rho=\\ud800\)` is not a setting",
    "1if 1 else 1": "is not a setting",
}


@pytest.mark.parametrize("value", ODD_VALUES)
def test_odd_values_are_refused_in_one_short_line(value):
    with pytest.raises(ConfigError, match=ODD_VALUES[value]) as error:
        parse(f"sam(rho={value})")
    assert len(str(error.value)) <= 400
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tsam(t=1, rho=1, s=10001)", "`s` must be at most 10000, got 10001"),
        ("looksam(rho=1, every=1000000000000)", "`every` must be at most 10000"),
        ("tsam(t=1, rho=1, s=2, noise=linear_schedule(0, 1, 5))", "is no noise law"),
        ("tsam(t=1, rho=1, s=2, noise=antithetic(AutoTilt(1)))", "`AutoTilt` is no noise law"),
        ("tsam(t=1, rho=1, s=2, noise=" + "antithetic(" * 12 + "none" + ")" * 13, "not a number"),
        ("tsam(t=1, rho=1, s=2, noise=sphere(rms=[1, 2]))", r"`\[1, 2\]` is not a number"),
        ("tsam(t=1, rho=1, s=2, noise=filter_scaled(1, filter_axis='x'))", "must be integers"),
        ("tsam(t=1, rho=1, s=2, split_batch='x')", "`split_batch` must be True or False"),
        ("sam(rho=1, mask=3)", "`mask` must be True or False"),
        ("asam(rho=1, adapt=(1, 2))", "`adapt` must be True or False"),
        ("sam(rho=1, lr=True)", "`lr` must be a number, got True"),
        ("sam(rho=1, lr='x')", "`lr` must be a number, got 'x'"),
        ("sam(rho=1, momentum=5)", "`momentum` must be a finite number >= 0 and < 1, got 5"),
        ("sam(rho=1, weight_decay=inf)", "`weight_decay` must be a finite number >= 0, got inf"),
        (f"sam(rho={[1] * 40}, lr={[1] * 40})", "a grid of 1600 settings, of at most 1000"),
    ],
)
def test_limits_are_those_of_the_documentation(text, message):
    with pytest.raises(ConfigError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (["t=" + "1," * 1000 + "1"], "a grid of 1001 settings, of at most 1000"),
        ([f"{name}={','.join(map(str, range(1, 40)))}" for name in ("t", "s", "lr")], "a grid of"),
        (["t=1,1e400"], "a number is beyond"),
        (["t=\u0661"], "`\u0661` is not a number"),
        (["t=007"], "`007` is not a number"),
        (["t=nan"], "`nan` is not a known value"),
        (["t=none"], "`none` is a noise law"),
        (["t=True"], "is not a name with numbers"),
        (["t=1", "t = 2"], "more than once"),
        (["rms=1", "radius=2"], "more than once"),
        (["x" * 500 + "=1"], r"none of the methods takes `x+\.\.\.`"),
        (["t=[1"], r"`\[1` is not a number"),
        (["t=word"], "`word` is not a known value"),
        (["t=1,,2"], "`` is not a number"),
        (["t"], "in `--grid t`: it is not a name with numbers"),
        (["t="], "in `--grid t=`: it is not a name with numbers"),
        (["t=" + "1" * 3000], "there are 3000 characters"),
        (["foo=1"], "none of the methods takes `foo`"),
        (["sample_axis=1"], "none of the methods takes `sample_axis`"),
        (["t=-1"], r"in `tsam\(.*must be a number >= 0 .*, got -1"),
        (["radius=-1"], r"in `tsam\(.*must be a finite number >= 0, got -1"),
        (["momentum=3"], "`momentum` must be a finite number >= 0 and < 1, got 3"),
        (["s=20000"], "`s` must be at most 10000, got 20000"),
        (["mask=1"], "`mask` must be True or False, got 1"),
        ([f"lr={','.join(map(str, range(600)))}"], "a grid of 1200 settings, of at most 1000"),
    ],
)
def test_odd_grids_are_refused_in_one_short_line(grid, message):
    with pytest.raises(ConfigError, match=message) as error:
        parse_all(("tsam(t=1, rho=1, s=2, noise=ball(rms=1))", "erm"), {}, grid=grid)
    assert len(str(error.value)) <= 400
    assert "`--grid" in str(error.value)


def test_a_mistake_in_a_setting_is_not_blamed_on_a_grid_that_it_does_not_take():
    with pytest.raises(ConfigError, match=r"^in `sam"):
        parse_all(("sam(rho=-1)", "tsam(t=1, rho=1, s=2)"), {}, grid=["t=1,2"])


def test_every_method_can_be_written_by_name_alone_or_has_its_arguments_named():
    family = defaults.settings(defaults.FAMILIES["mlp", False])
    for name, method in methods.METHODS.items():
        needed = [
            p.name
            for p in inspect.signature(method).parameters.values()
            if p.default is p.empty and p.kind is not p.VAR_KEYWORD
        ]
        if name in noisy_digits.SETTINGS or not needed:
            assert parse(name, noisy_digits.SETTINGS)
            assert name in family or name == "tsam_hmc"
        else:
            with pytest.raises(ConfigError, match=needed[0]):
                parse(name, noisy_digits.SETTINGS)


def test_the_search_gives_every_method_the_same_number_of_settings():
    for search in (noisy_digits.SEARCH, noisy_digits.FAMILY_SEARCH, noisy_digits.DEMO_SEARCH):
        assert len({len(parse(grid)) for grid in search}) == 1


def test_the_chosen_settings_are_in_the_search():
    grids = noisy_digits.SEARCH + noisy_digits.FAMILY_SEARCH + noisy_digits.REFINED_SEARCH
    searched = {setting.text for grid in grids for setting in parse(grid)}
    in_demo = {setting.text for grid in noisy_digits.DEMO_SEARCH for setting in parse(grid)}
    for name in noisy_digits.SETTINGS:
        [chosen] = parse(name, noisy_digits.SETTINGS)
        assert chosen.text in (in_demo if name == "shared_tsam" else searched)
    for text in noisy_digits.DEMO_SETTINGS.values():
        assert parse(text)[0].text in in_demo


def test_every_method_but_the_other_spelling_of_tsam_has_a_setting_and_all_have_a_formula():
    assert set(noisy_digits.SETTINGS) == set(methods.METHODS) - {"from_paper"}
    assert set(FORMULAS) == set(methods.METHODS) | set(methods.WRAPPERS)


def test_a_key_may_be_traced():
    [setting] = parse("tsam(t=1, rho=0.1, s=2)")

    @jax.vmap
    def keys(seed):
        step = value_and_grad(loss, setting.build(), key=jax.random.key(seed))
        return step.init(jnp.zeros(2)).key

    assert keys(jnp.arange(2)).tolist() != keys(jnp.zeros(2, int)).tolist()
