"""Where values come from: flag > setting > recipe > default of the model family."""

import ast
import dataclasses
import itertools
import re
import typing

import numpy as np
import pytest
from rich.console import Console

from tsam_jax import cli
from tsam_jax.commands.study import Compare, Study, Sweep, Train
from tsam_jax.methods import METHODS
from tsam_jax.models import MODELS
from tsam_jax.recipes import RECIPES, defaults
from tsam_jax.train import config
from tsam_jax.train.config import Budget, ConfigError, Optimizer, Task
from tsam_jax.train.resolve import announce, render, resolve
from tsam_jax.train.settings import parse

GROUPS = {"task": Task, "optimizer": Optimizer, "budget": Budget}


def command(kind=Compare, **given):
    """A command by its options, as they are named on the command line."""
    names = {name: {field.name for field in dataclasses.fields(x)} for name, x in GROUPS.items()}
    groups = {group: {k: v for k, v in given.items() if k in names[group]} for group in GROUPS}
    every = set(itertools.chain(*names.values()))
    return kind(**groups, **{k: v for k, v in given.items() if k not in every})


def resolved(kind=Compare, **given):
    return resolve(command(kind, **given))


def rows_of(found):
    return {option: (value, origin) for option, value, origin in found.rows}


def printed(found):
    console = Console(width=120)
    with console.capture() as capture:
        console.print(render(found))
    return capture.get()


# Two values of every option, neither of which is the default.
TWO_VALUES = {
    Task: {
        "dataset": ("digits", "npz:x"),
        "data_dir": ("a", "b"),
        "vocabulary": ("a", "b"),
        "max_length": (7, 8),
        "casing": ("cased", "uncased"),
        "text_columns": (("a",), ("a", "b")),
        "label_column": ("a", "b"),
        "delimiter": (",", ";"),
        "image_size": (7, 8),
        "train_size": (70, 80),
        "evaluation_size": (7, 8),
        "label_noise": (0.1, 0.2),
        "noise_law": ("official", "other-labels"),
        "model": ("mlp", "cnn"),
        "width": (7, 8),
        "depth": (7, 8),
        "dropout": (0.1, 0.2),
        "pretrained": ("a", "b"),
        "precision": ("bfloat16", "float32"),
        "augmentation": ("official", "crop-flip"),
        "loss": ("mse", "official"),
        "label_smoothing": (0.1, 0.2),
        "metrics": (("f1",), ("accuracy", "f1")),
    },
    Optimizer: {
        "base": ("adam", "lion"),
        "lr": (0.2, 0.3),
        "momentum": (0.2, 0.3),
        "weight_decay": (0.2, 0.3),
        "schedule": ("step", "cosine"),
        "warmup": (1.0, 2.0),
        "clip": (1.0, 2.0),
        "batch_size": (64, 32),
        "accumulate": (2, 4),
        "ema": (0.9, 0.99),
    },
    Budget: {"budget": (7.0, 8.0), "epochs": (7, 8)},
}
OPTIONS = [(kind, field.name) for kind in GROUPS.values() for field in dataclasses.fields(kind)]
SWITCHES = {(Task, "stream"), (Task, "remat"), (Optimizer, "recalibrate")}


def test_the_table_of_values_has_every_option():
    have = {(kind, name) for kind, names in TWO_VALUES.items() for name in names}
    assert have | SWITCHES == set(OPTIONS)
    hints = {kind: typing.get_type_hints(kind) for kind in GROUPS.values()}
    assert {(kind, name) for kind, name in OPTIONS if hints[kind][name] is bool} == SWITCHES


@pytest.mark.parametrize(("kind", "name"), OPTIONS)
def test_the_stronger_level_wins_for_every_option(kind, name):
    weak, strong = (False, True) if (kind, name) in SWITCHES else TWO_VALUES[kind][name]
    words = ("family", "recipe", "setting", "flag")
    for one, other in itertools.combinations(words, 2):
        levels = [(word, {}) for word in words]
        levels[words.index(one)] = (one, {name: weak})
        levels[words.index(other)] = (other, {name: strong})
        found, origins = config.merge(kind, levels)
        assert (getattr(found, name), origins[name]) == (strong, other)
    found, origins = config.merge(kind, [(words[0], {name: strong}), ("flag", {})])
    assert (getattr(found, name), origins[name]) == (strong, "family")
    plain, origins = config.merge(kind, [])
    assert plain == kind()
    assert set(origins.values()) == {"default"}


def typed(*words):
    """The flags of a command line, all groups together."""
    found = cli._command(Train, "train", list(words))
    return found.task | found.optimizer | found.budget


@pytest.mark.parametrize(("kind", "name"), OPTIONS)
def test_every_option_is_a_flag_that_is_not_given_unless_it_is(kind, name):
    assert typed() == {}
    flag, hint = config.flag(name), typing.get_type_hints(kind)[name]
    if (kind, name) in SWITCHES:
        assert typed(flag) == {name: True}
        assert typed(f"--no-{name}") == {name: False}  # the recipe's can be taken back
        return
    strong = TWO_VALUES[kind][name][1]
    words = strong if isinstance(strong, tuple) else (strong,)
    assert typed(flag, *map(str, words)) == {name: strong}
    if type(None) in typing.get_args(hint):
        assert typed(flag, "none") == {name: None}
    elif hint is str:
        assert typed(flag, "none") == {name: "none"}


@pytest.mark.parametrize("kind", [Train, Compare, Sweep, Study])
def test_a_recipe_is_a_difference_from_the_defaults(kind):
    recipe = RECIPES["digits"]
    found = resolved(kind, recipe="digits")
    assert found.task == Task(**recipe.task)
    for plan in found.plans:
        expected = {**recipe.optimizer, **plan.setting.overrides}
        expected.pop("budget", None)
        assert plan.optimizer == Optimizer(**expected)
    rows = rows_of(found)
    assert rows["label-noise"] == ("0.4", "recipe digits")
    assert rows["batch-size"] == ("50", "recipe digits")
    assert rows["noise-law"] == ("other-labels", "default")


def test_the_data_set_named_alone_is_not_the_recipe_of_its_name():
    plain, noisy = resolved(dataset="digits"), resolved(recipe="digits")
    assert plain.task.label_noise == 0
    assert plain.task.train_size is None
    assert plain.plans[0].optimizer.base == "adam"
    assert noisy.task.label_noise == 0.4
    assert noisy.task.train_size == len(plain.opened.train.labels) == 1000  # all there are
    assert "replaced" not in announce(plain.task)
    assert announce(noisy.task).endswith("40 % of the training labels replaced.")


@pytest.mark.parametrize("kind", [Train, Compare, Sweep, Study])
def test_without_recipe_or_data_set_it_is_the_digits(kind):
    assert resolve(kind()).recipe == "digits"
    assert resolve(command(kind, dataset="digits")).recipe is None
    assert resolve(kind(recipe="demo")).recipe == "demo"


def test_options_of_the_optimizer_from_all_levels_in_one_command():
    methods = ("sam(rho=0.1, lr=0.05)", "erm(weight_decay=0.2, budget=24)")
    found = resolved(recipe="digits", methods=methods, momentum=0.5, budget=12.0)
    sam, erm = found.plans
    assert (sam.optimizer.lr, erm.optimizer.lr) == (0.05, 0.03)  # setting, recipe
    assert (sam.optimizer.momentum, erm.optimizer.momentum) == (0.5, 0.5)  # flag
    assert (sam.optimizer.weight_decay, erm.optimizer.weight_decay) == (5e-4, 0.2)
    assert (sam.epochs, erm.epochs) == (6, 12)  # the flag, also over what the setting has
    rows = rows_of(found)
    assert rows["lr"] == ("0.05", "setting")
    assert rows["momentum"] == ("0.5", "flag")
    assert rows["weight-decay"] == ("0.0005", "recipe digits")
    assert rows["budget"] == ("12.0", "flag")


def test_what_nothing_names_is_the_familys():
    found = resolved(dataset="digits", methods=("erm", "tsam"), lr=0.5)
    family = defaults.FAMILIES["mlp", False]
    assert found.family is family
    for plan in found.plans:
        assert plan.optimizer == Optimizer(**{**family.optimizer, "lr": 0.5})
        assert plan.epochs == family.epochs
    assert found.plans[1].setting.arguments["t"] == family.t
    rows = rows_of(found)
    assert rows["base"] == ("adam", family.name)
    assert rows["lr"] == ("0.5", "flag")
    assert rows["model"] == ("mlp", "kind of data (vector)")
    assert rows["epochs"] == (str(family.epochs), family.name)


OWN = {"t": 3.0, "rho": 0.3, "s": 4}
NAMED = [name for name in METHODS if name != "tsam_hmc"]


@pytest.mark.parametrize("name", NAMED)
def test_flags_of_methods_replace_what_a_setting_has(name):
    family = defaults.settings(defaults.FAMILIES["mlp", False])[name]
    [before] = resolved(dataset="digits", methods=(name,)).plans
    assert before.setting.text == ast.unparse(ast.parse(family))
    taken = {flag: value for flag, value in OWN.items() if flag in before.setting.written}
    for flag, value in taken.items():
        [plan] = resolved(dataset="digits", methods=(name,), **{flag: value}).plans
        assert plan.setting.arguments[flag] == value
        others = {k: v for k, v in before.setting.written.items() if k != flag}
        assert {k: v for k, v in plan.setting.written.items() if k != flag} == others
    [plan] = resolved(dataset="digits", methods=(name,), **taken).plans
    assert {flag: plan.setting.arguments[flag] for flag in taken} == taken


@pytest.mark.parametrize("name", NAMED)
def test_flags_of_the_optimizer_and_the_length_beat_every_setting(name):
    own = "lr=0.07, weight_decay=0.3, momentum=0.4, budget=240"
    call = defaults.settings(defaults.FAMILIES["mlp", False])[name]
    text = f"{call[:-1]}, {own})".replace("(, ", "(")
    [plan] = resolved(recipe="digits", methods=(text,)).plans
    kept = plan.optimizer
    assert (kept.lr, kept.weight_decay, kept.momentum) == (0.07, 0.3, 0.4)
    assert plan.epochs == int(240 / plan.setting.price + 1e-9)
    for option, value in {"lr": 0.9, "weight_decay": 0.8, "momentum": 0.7}.items():
        [plan] = resolved(recipe="digits", methods=(text,), **{option: value}).plans
        assert plan.optimizer == dataclasses.replace(kept, **{option: value})
        assert plan.setting.overrides[option] == value  # and it is the label of the method
    [plan] = resolved(recipe="digits", methods=(text,), budget=120.0).plans
    assert plan.epochs == int(120 / plan.setting.price + 1e-9)
    [plan] = resolved(recipe="digits", methods=(text,), epochs=5).plans
    assert plan.epochs == 5


def test_flags_apply_to_every_method_that_takes_them_and_to_no_other():
    found = resolved(recipe="digits", methods=("erm", "sam", "tsam"), rho=0.3, t=2.0)
    erm, sam, tsam = (plan.setting for plan in found.plans)
    assert "rho" not in erm.arguments
    assert sam.arguments == {"rho": 0.3}
    assert (tsam.arguments["rho"], tsam.arguments["t"]) == (0.3, 2.0)


@pytest.mark.parametrize("kind", [Compare, Sweep, Study])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"methods": ("erm", "sam"), "t": 1.0}, "`--t` does not apply: .* of erm, sam"),
        ({"methods": ("erm",), "rho": 1.0}, "`--rho` does not apply"),
        ({"methods": ("sam",), "s": 2}, "`--s` does not apply"),
        (
            {"methods": ("sam(rho=[0.1, 0.2])",), "rho": 0.3},
            r"`--rho` contradicts the grid in `sam\(rho=\[0.1, 0.2\]\)`",
        ),
        ({"methods": ("sam(rho=1, lr=[1, 2])",), "lr": 0.3}, "`--lr` contradicts the grid"),
        (
            {"methods": ("sam(rho=1, weight_decay=[1, 2])",), "weight_decay": 0.3},
            "`--weight-decay` contradicts the grid",
        ),
        (
            {"methods": ("sam",), "grid": ("rho=1,2",), "rho": 0.3},
            "`--grid` with `rho`",
        ),
        ({"methods": ("sam",), "grid": ("lr=1,2",), "lr": 0.3}, "`--grid` with `lr`"),
        ({"methods": ("sam",), "grid": ("radius=1",)}, "none of the methods takes `radius`"),
        ({"methods": ("tsam",), "rho": -1.0}, r"in `tsam\(.*must be a finite number >= 0, got -1"),
        ({"methods": ("sam", "sam")}, "has sam.* more than once"),
        ({"methods": ("smm",)}, "`smm` is not a known method.*Perhaps you meant `sam`"),
    ],
)
def test_what_contradicts_is_refused_by_name(kind, given, message):
    with pytest.raises(ConfigError, match=message):
        resolved(kind, recipe="digits", **given)


def test_methods_are_checked_before_the_data_are_opened():
    with pytest.raises(ConfigError, match="`smm` is not a known method"):
        resolved(dataset="npz:/nowhere.npz", methods=("smm",))
    with pytest.raises(ConfigError, match="`--t` does not apply"):
        resolved(dataset="npz:/nowhere.npz", methods=("sam",), t=1.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"base": "adamm"}, "`adamm` is not a known optimizer.*Perhaps you meant `adam`"),
        ({"model": "resnet81"}, r"`resnet81` is not a known model \(`--model`\).*`resnet18`"),
        ({"loss": "cross-entrpy"}, r"known loss \(`--loss`\).*`cross-entropy`"),
        ({"metrics": ("f1", "acuracy")}, r"`acuracy` .* metric \(`--metrics`\).*`accuracy`"),
        ({"augmentation": "crop-flp"}, r"augmentation \(`--augmentation`\).*`crop-flip`"),
        ({"schedule": "none"}, "`none` is not a known schedule"),
        ({"base": "none"}, "`none` is not a known optimizer"),
        ({"schedule": "cosin"}, r"`cosin` .* schedule \(`--schedule`\).*you meant `cosine`"),
        ({"recipe": "digit"}, "`digit` is not a known recipe.*Perhaps you meant `digits`"),
        ({"lr": -1.0}, "`--lr` must be a finite number >= 0, got -1"),
        ({"width": 0}, "`--width` must be a finite number >= 1, got 0"),
        ({"label_noise": 1.5}, "`--label-noise` must be a finite number >= 0 and <= 1"),
        ({"budget": 0.0}, "`--budget` must be a finite number > 0"),
        ({"budget": 5.0, "epochs": 3}, "`--budget` and `--epochs` are two ways"),
        ({"model": "mlp", "pretrained": "x"}, "`--model` and `--pretrained` both name"),
        ({"pretrained": "/nowhere"}, "`--pretrained`: "),
    ],
)
def test_mistakes_are_named_before_the_data_are_opened(given, message):
    with pytest.raises(ConfigError, match=message):
        resolved(dataset="npz:/nowhere.npz", **given)
    with pytest.raises(ConfigError, match=r"`--dataset npz:/nowhere\.npz`"):
        resolved(dataset="npz:/nowhere.npz")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_size": 1001}, "`--batch-size` must be at most the 1000 training examples"),
        (
            {"methods": ("tsam(t=1, rho=0.1, s=3, split_batch=True)",)},
            "must be a multiple of s = 3 in `tsam",
        ),
        ({"accumulate": 3}, "`--accumulate` must divide `--batch-size`, got 3 and 50"),
        ({"epochs": 2, "warmup": 2.0}, "`--warmup` must be shorter than the training of 2 epochs"),
        ({"base": "sm3", "schedule": "cosine"}, "`--base sm3` takes no schedule"),
        ({"base": "adam(b3=1)"}, r"in `--base adam\(b3=1\)`"),
        ({"budget": None}, "`--budget` and `--epochs` are both none"),
        ({"mesh": "data=3"}, "`--mesh data=3`"),
    ],
)
def test_what_does_not_fit_together_is_named_before_anything_is_trained(given, message):
    with pytest.raises(ConfigError, match=message):
        resolved(recipe="digits", **given)


def test_a_flag_that_fits_the_recipe_is_not_checked_against_a_default():
    [plan] = resolved(recipe="digits", methods=("erm",), accumulate=25).plans  # of 50, not of 128
    assert plan.optimizer.accumulate == 25


def test_the_table_names_the_origin_of_everything_that_is_not_plain():
    text = printed(
        resolved(dataset="digits", methods=("sam(rho=0.1, lr=0.05)",), clip=1.0, label_noise=0.2)
    )
    lines = [line.split() for line in text.splitlines() if line.strip()]
    origins = {line[0]: " ".join(line[1:]) for line in lines}
    assert origins["lr"] == "0.05 setting"
    assert origins["clip"] == "1.0 flag"
    assert origins["label-noise"] == "0.2 flag"
    assert origins["base"] == f"adam {defaults.FAMILIES['mlp', False].name}"
    assert "ema" not in origins  # a plain default
    assert defaults.FAMILIES["mlp", False].source[:30] in text
    assert "sam(rho=0.1, lr=0.05)" in text
    whole = printed(resolved(recipe="digits"))
    assert "recipe digits" in whole
    assert (
        defaults.FAMILIES["mlp", False].name not in whole
    )  # the recipe leaves nothing to the family


def test_the_task_of_a_study_is_the_same_for_all_methods_and_rows_name_every_option():
    found = resolved(recipe="digits")
    names = [name.replace("_", "-") for _, name in OPTIONS]
    assert [option for option, _, _ in found.rows] == names


@pytest.mark.parametrize(("family", "fine_tuned"), defaults.FAMILIES)
def test_family_defaults_have_a_source_and_are_options(family, fine_tuned):
    found = defaults.FAMILIES[family, fine_tuned]
    Optimizer(**found.optimizer)
    assert {"base", "lr", "weight_decay", "batch_size"} <= found.optimizer.keys()
    assert re.search(r"\b(19|20)\d\d\b", found.source)
    assert "rho" in found.source
    assert found.epochs > found.optimizer.get("warmup", 0)


@pytest.mark.parametrize("family", defaults.FAMILIES.values(), ids=lambda x: x.name)
def test_every_method_but_hmc_has_a_setting_in_every_family(family):
    settings = defaults.settings(family)
    assert set(settings) == set(METHODS) - {"tsam_hmc"}
    for name in settings:
        assert len(parse(name, settings)) == 1


def test_every_model_has_a_family_of_its_kind():
    kinds = {"mlp": "mlp", "cnn": "mlp"}
    for name, entry in MODELS.items():
        found = defaults.family_of(name, fine_tuned=False).name.lower()
        expected = kinds.get(name) or ("bert" if entry.kind == "text" else ("vit", "resnet"))
        assert found.startswith(expected), name


def test_the_kind_of_data_chooses_the_model(tmp_path):
    np.savez(
        tmp_path / "images.npz",
        train_images=np.zeros((40, 8, 8, 3), np.uint8),
        train_labels=np.arange(40) % 4,
    )
    found = resolved(dataset=f"npz:{tmp_path / 'images.npz'}", methods=("erm",), batch_size=8)
    assert found.task.model == "resnet18"
    assert rows_of(found)["model"] == ("resnet18", "kind of data (image)")
    assert found.family is defaults.FAMILIES["resnet", False]


def test_a_default_warm_up_is_at_most_a_tenth_of_the_training(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\ngood\nbad\n")
    rows = "".join(f"{('bad', 'good')[i % 2]}\t{i % 2}\n" for i in range(80))
    (tmp_path / "mine.tsv").write_text("sentence\tlabel\n" + rows)
    task = config.TaskFlags(
        dataset=f"table:{tmp_path / 'mine.tsv'}", vocabulary=str(tmp_path / "vocab.txt")
    )
    for epochs, warmup in ((1, 0.1), (50, 1.0)):
        command = Train(method="erm", task=task, budget=config.BudgetFlags(epochs=epochs))
        assert resolve(command).plans[0].optimizer.warmup == pytest.approx(warmup)


def test_a_default_batch_is_at_most_the_training_part():
    for given, expected in (({}, 40), ({"accumulate": 8}, 40), ({"batch_size": 16}, 16)):
        task = config.TaskFlags(dataset="digits", train_size=40)
        command = Train(method="erm", task=task, optimizer=config.OptimizerFlags(**given))
        assert resolve(command).plans[0].optimizer.batch_size == expected
    command = Train(method="erm", task=task, optimizer=config.OptimizerFlags(batch_size=64))
    with pytest.raises(ConfigError, match="`--batch-size` must be at most the 40 training"):
        resolve(command)
