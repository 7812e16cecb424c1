"""Odd settings, grids, base optimizers and files of runs, for `tests/fuzz.py`.

Every text is refused in one sentence, or gives the values that Python reads in it and a program
that can be traced. A file of a run is refused, or read as it was written.
"""

import ast
import dataclasses
import functools
import itertools
import json
import math
import random
import time

import jax
import jax.numpy as jnp

from tsam_jax import methods, value_and_grad
from tsam_jax.train.config import ConfigError, Optimizer, Task
from tsam_jax.train.optimizers import OPTIMIZERS, make_base
from tsam_jax.train.record import Log
from tsam_jax.train.restore import read_plan
from tsam_jax.train.settings import _FUNCTIONS, _NAMES, parse, parse_all

LONGEST, SLOWEST = 400, 20.0
PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}

NUMBERS = ("0", "0.05", "1", "20", "1e-3", "0.5", "2.", "1_0", "True", "0x10", "-0.0")
LAWS = (
    "sphere(rms=0.02)",
    "ball(radius=3)",
    "gaussian(rms=0.1, clip=2)",
    "antithetic(sphere(0.1))",
    "orthogonal(law=gaussian(rms=linear_schedule(0, 1, 10)))",
    "filter_scaled(0.1, filter_axis=(0, -1))",
    "leaf_scaled(gamma=0.1)",
    "none",
)
SCHEDULES = (
    "linear_schedule(0.0, 1.0, 10)",
    "cosine_decay_schedule(0.1, 100)",
    "piecewise_constant_schedule(0.1, {10: 0.5, 20: 0.1})",
    "warmup_cosine_decay_schedule(0.0, 0.1, 5, 10)",
    "constant_schedule(0.3)",
    "exponential_decay(0.1, 10, 0.9)",
    "AutoTilt(0.5)",
    "inf",
)
ODD = (
    "b'x'", "1j", "...", "{[]: 1}", "{1: 2}", "9" * 400, "-" * 1000 + "1", "------1", "(None)",
    "([1, 2])", "[[1], 2]", "[]", "()", "(1, 'a')", "'x'", "''", "None", "nan", "-inf", "1e400",
    "1e13", "10**12", "1000000000000", "not 1", "1 if 1 else 2", "lambda: 0", "[x for x in y]",
    "f'{1}'", "*a", "**{}", "x := 1", "print", "sam(rho=1)", "__import__('os')", "().__class__",
    "(" * 150 + ")" * 150, "antithetic(" * 60 + "none" + ")" * 60, "\0", "\ud800", "\n", "#", "é",
    "sphere", "sphere()", "sphere(1, 2)", "sphere(rms=-1)", "sphere(rms=[1, 2])", "ball(rms=inf)",
    "gaussian(rms='x')", "antithetic(3)", "antithetic(linear_schedule(0, 1, 5))", "AutoTilt(3)",
    "filter_scaled(0.1, filter_axis='x')", "filter_scaled(0.1, filter_axis=0.5)",
    "linear_schedule(0)", "linear_schedule('a', 'b', 'c')", "linear_schedule(-1, 1, 10)",
    "cosine_decay_schedule(1, 0)", "cosine_decay_schedule(None, 5)", "linear_schedule(1, inf, 10)",
    "piecewise_constant_schedule(0.1, (1, 2))", "piecewise_constant_schedule(0.1, {'a': 2})",
    "warmup_cosine_decay_schedule(0, 1, 10, 5)", "exponential_decay(1, 0, 0)", "sphere(rms=none)",
    "[" + "1, " * 900 + "]", "'" + "x" * 1900 + "'", "x" * 3000, "constant_schedule(sphere(1))",
)  # fmt: skip
BASES = (
    "adamw(b2=0.99)",
    "sgd(nesterov=True)",
    "adafactor(decay_rate=0.7, clipping_threshold=None)",
    "lion(b1=0.8, b2=0.9)",
    "adam(mu_dtype='bfloat16', eps=1e-6)",
    "rmsprop(decay=0.5, centered=True)",
)


def a_setting(rng):
    """A text that is often right: a method with plausible, and sometimes odd, arguments."""
    name = rng.choice([*methods.METHODS])
    own = {"rho": "0.05", "t": "20", "s": "2", "alpha": "0.5", "gamma": "0.5", "radius": "0.1"}
    own |= {"beta": "0.5", "rhos": "(0.1, 0.2)", "noise": rng.choice(LAWS)}
    own |= {"lr": "0.1", "momentum": "0.5", "weight_decay": "0.01", "budget": "4", "mask": "True"}
    own |= {
        "delta": "'half'",
        "strategy": "'streamed'",
        "steps": "2",
        "every": "3",
        "aux": "'mean'",
    }
    own |= {"split_batch": "True", "eta": "0.1", "sigma": "1.0", "adapt": "False", "lam": "0.5"}
    needed = {"erm": (), "esam2": ("rhos",), "tsam_hmc": ("t", "s", "radius", "beta")}
    needed |= {"tilted_sampling": ("t", "s"), "tsam": ("t", "rho", "s"), "from_paper": ("t", "s")}
    needed |= {"pgn": ("rho", "alpha"), "wsam": ("rho", "gamma"), "gsam": ("rho", "alpha")}
    needed |= {"rsam": ("rho", "gamma")}
    words = dict.fromkeys(needed.get(name, ("rho",)))
    words |= dict.fromkeys(rng.sample([*own], rng.choice([0, 0, 1, 2])))
    return _call(rng, name, {word: own[word] for word in words})


def a_base(rng):
    """A text of `--base` that is often right."""
    if rng.random() < 0.5:
        return rng.choice(BASES)
    name = rng.choice([*OPTIMIZERS])
    words = ("b1", "b2", "eps", "decay_rate", "momentum", "nesterov", "weight_decay", "mu_dtype")
    return _call(rng, name, dict.fromkeys(rng.sample(words, rng.choice([0, 1, 2])), "0.5"))


def _call(rng, name, words):
    for word in words:
        draw = rng.random()
        if draw < 0.08:
            words[word] = rng.choice(ODD)
        elif draw < 0.2:
            words[word] = rng.choice(NUMBERS)
        elif draw < 0.25:
            words[word] = rng.choice(SCHEDULES)
        elif draw < 0.33:
            words[word] = f"[{', '.join(rng.choices(NUMBERS, k=rng.choice([1, 2, 3])))}]"
    return f"{name}({', '.join(f'{word}={value}' for word, value in words.items())})"


def mutated(rng, text):
    """The text with a few characters or words changed."""
    for _ in range(rng.choice([0, 0, 0, 1, 1, 3])):
        i, j = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        odd = rng.choice([*ODD, *LAWS, *SCHEDULES, *"()[]{},=.-'\"\\ \n\0*:", "rho=1", "s=2,"])
        text = rng.choice([text[:i] + odd + text[i:], text[:i] + text[j:], text[:j] + text[i:]])
    return text


def a_grid(rng):
    """A text of `--grid`."""
    if rng.random() < 0.1:
        return rng.choice([*ODD, f"t={',' * 999}", "t=1,2" * 300, "=", "t=", "t=nan", "t=1,,2"])
    name = rng.choice(["t", "rho", "rms", "radius", "lr", "s", "momentum", "x", "noise", ""])
    odd = rng.choice(["inf", "-1", "007", "+1", "1e400", " 2", "\u0661", "0x10", "nan", "1e13"])
    values = [*rng.choices(["0.05", "1", "2", "0.5", "1_0"], k=3), odd][rng.choice([0, 0, 0, 1]) :]
    text = f"{name}={','.join(values[: rng.choice([1, 2, 3])])}"
    return text if rng.random() < 0.8 else mutated(rng, text)


def read(text, names):
    """What Python reads: (name, arguments) of each setting of the grid; for accepted texts only."""
    recorders = {
        name: functools.partial(lambda name, **words: (name, words), name) for name in names
    }
    found = eval(text.strip(), {"__builtins__": {}, **_FUNCTIONS, **_NAMES, **recorders})
    name, words = found if isinstance(found, tuple) else found()
    nodes = {
        w.arg: w.value for w in getattr(ast.parse(text.strip(), mode="eval").body, "keywords", ())
    }
    choices = [
        [(word, x) for x in (value if isinstance(nodes[word], ast.List) else [value])]
        for word, value in words.items()
    ]
    return [(name, dict(chosen)) for chosen in itertools.product(*choices)]


def same(a, b):
    """Equal, where functions are equal if they are of the same kind."""
    if callable(a) or callable(b) or not isinstance(a, (int, float, str, tuple, bool, type(None))):
        return type(a) is type(b)
    return type(a) is type(b) and a == b


def traces(estimator):
    step = value_and_grad(lambda p, batch: jnp.sum(p["w"] ** 2) * jnp.mean(batch), estimator)
    jax.eval_shape(step, PARAMS, step.init(PARAMS), jnp.ones(60))


def check_setting(text):
    settings = parse(text)
    for setting, (name, words) in zip(settings, read(text, methods.METHODS), strict=True):
        found = {**setting.arguments, **setting.overrides}
        assert setting.name == name
        assert found.keys() == words.keys()
        assert all(same(found[word], words[word]) for word in words), (found, words)
        assert parse(setting.text) == [setting]
        check_values(setting)


def check_values(setting):
    """Bounds that hold for all methods, and that a step can be traced."""
    for key, value in setting.overrides.items():
        assert 0 <= value < math.inf, key
    assert setting.arguments.get("s", 1) <= 10_000
    size = setting.arguments.get("s", 1) * setting.arguments.get("steps", 1)
    if size <= 30 and not (setting.arguments.get("split_batch") and 60 % setting.arguments["s"]):
        traces(setting.build())
        traces(setting.build({name: jnp.float32(x) for name, x in setting.numbers.items()}))


def check_grid(texts):
    start = ("sam(rho=0.1, lr=0.1)", "tsam(t=1, rho=0.1, s=2, noise=ball(rms=0.1))", "erm()")
    found = parse_all(start, {}, grid=texts)
    assert len({setting.text for setting in found}) == len(found) <= 1000
    for setting in found[:20]:
        check_values(setting)
    for text in texts:
        name, _, values = text.partition("=")
        written = [value.strip() for value in values.split(",")]
        numbers = {math.inf if x == "inf" else ast.literal_eval(x) for x in written}
        key = name.strip()
        key = "noise" if key in ("rms", "radius") else key
        for setting in found:
            value = {**setting.arguments, **setting.overrides}.get(key)
            assert value is None or callable(value) or value in numbers


def check_base(text):
    base = make_base(Optimizer(base=text), steps=10, steps_per_epoch=5)
    [(name, words)] = read(text, OPTIMIZERS)
    assert name in text
    numbers = [x for x in words.values() if isinstance(x, (int, float))]
    assert all(0 <= x < math.inf for x in numbers)
    state = base.init(PARAMS)
    for _ in range(2):
        updates, state = base.update(PARAMS, state, PARAMS)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(updates))


def outcome(check, text):
    """The column of a text, and what happened."""
    start = time.monotonic()
    try:
        check(text)
    except ConfigError as error:
        message = str(error)
        named = "`" in message or "tmp" in message  # an option, or a file
        clear = len(message) <= LONGEST and message.isprintable() and named
        found = ("refused clearly", "") if clear else ("traceback", f"unclear: {message!r}")
    except AssertionError as error:
        found = "silently wrong", repr(error)
    except BaseException as error:
        found = "traceback", f"{type(error).__name__}: {str(error)[:200]}"
    else:
        found = "right", ""
    seconds = time.monotonic() - start
    return found if seconds < SLOWEST else ("traceback", f"{seconds:.0f} s")


RUN = {
    "setting": "sam(rho=0.1)",
    "seed": 0,
    "task": dataclasses.asdict(Task()),
    "optimizer": dataclasses.asdict(Optimizer()),
    "epochs": 2,
    "data": "abc",
}
LINES = [{"epoch": i, "train_loss": 1.5, "timing": {"seconds": 0.1}} for i in (1, 2, 3)]
VALUES = ("x", "", None, True, -1, 1e400, float("nan"), [], {}, [1], {"a": 1}, 10**400, "9" * 99)


def check_run(rng, root):
    """Edits config.json or metrics.jsonl of a run, and reads it."""
    found = json.loads(json.dumps(RUN))
    part = rng.choice([found, found["task"], found["optimizer"]])
    name, value = rng.choice([*part]), rng.choice(VALUES)
    draw = rng.random()
    if draw < 0.6:
        part[name] = value
    elif draw < 0.7:
        del part[name]
    elif draw < 0.8:
        part["x"] = value
    text = damaged(rng, json.dumps(found).encode())
    (root / "config.json").write_bytes(text)
    _, task, plan = read_plan(root, "checkpoint")
    again = {"setting": plan.setting.text, "epochs": plan.epochs}
    again |= {"task": dataclasses.asdict(task), "optimizer": dataclasses.asdict(plan.optimizer)}
    written = json.loads(text)
    assert json.loads(json.dumps(again)) == {k: written[k] for k in again}


def check_log(rng, root):
    lines = [json.dumps(line) for line in LINES]
    draw, i = rng.random(), rng.randrange(3)
    if draw < 0.2:
        del lines[i]
    elif draw < 0.4:
        lines.insert(i, lines[i])
    elif draw < 0.6:
        lines[i] = json.dumps({"epoch": rng.choice(VALUES), "train_loss": 1.5})
    text = damaged(rng, "".join(f"{line}\n" for line in lines).encode())
    (root / "metrics.jsonl").write_bytes(text)
    log = Log(root / "metrics.jsonl")
    log.keep_until(3, [1, 2, 3])
    assert [line["epoch"] for line in log.lines] == [1, 2, 3]


def damaged(rng, content):
    """The content as it is, or cut, changed, not UTF-8, or nested deeply."""
    draw = rng.random()
    place = rng.randrange(len(content))
    if draw < 0.1:
        return content[:place]
    if draw < 0.2:
        return content[:place] + bytes([rng.choice([0, 44, 91, 128, 255])]) + content[place:]
    return b"[" * 100_000 if draw < 0.25 else content


def tried(make):
    """(seed, number, folder) -> the outcome of what `make` draws, and what was said."""

    def found(seed, i, root):
        text, check = make(random.Random(f"{seed} {i}"), root)
        column, what = outcome(check, text)
        return column, f"{str(text)[:200]!r}: {what}"

    return found


def in_folder(check):
    return lambda rng, root: (check.__name__, lambda _: check(rng, root))


KINDS = {
    "settings": tried(lambda rng, root: (mutated(rng, a_setting(rng)), check_setting)),
    "grids": tried(
        lambda rng, root: ([a_grid(rng) for _ in range(rng.choice([1, 1, 2, 12]))], check_grid)
    ),
    "bases": tried(lambda rng, root: (mutated(rng, a_base(rng)), check_base)),
    "config.json": tried(in_folder(check_run)),
    "metrics.jsonl": tried(in_folder(check_log)),
}
"""Kind -> (seed, number of the input, empty folder) -> the outcome, and what was said."""
