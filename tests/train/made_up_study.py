"""Studies and rows as `tsam_jax.train.study` writes them, with made-up numbers."""

import json

import numpy as np

METHODS = {"erm": 1.0, "sam": 2.0, "tsam": 6.0, "zsharp": 2.0}
SIZES = [0.005, 0.01, 0.02, 0.03, 0.04, 0.05]


def study(*settings, dataset="digits", label_noise=0.4, noise_law="other-labels", **changes):
    fields = {
        "kind": "compare",
        "recipe": "digits",
        "seeds": [0, 1, 2],
        "settings": list(settings),
        "metric": "accuracy",
        "metrics": ["accuracy", "loss"],
        "parts": ["train", "validation", "test"],
        "task": {"dataset": dataset, "label_noise": label_noise, "noise_law": noise_law},
        "resolved": [["dataset", "digits", "recipe"], ["lr", "0.1", "flag"]],
        "versions": {"jax": "0.10.2"},
        "flatness_examples": 2000,
        "flags": [],
    }
    return {**fields, **changes}


def row(setting, seed, *, names=("accuracy", "loss"), epochs=20, flat=True, **changes):
    """A row; a number in `changes` that is named as a curve replaces its last value."""
    method, _, inner = setting.partition("(")
    words = [word.split("=") for word in inner.rstrip(")").split(", ") if word]
    random = np.random.default_rng([seed, *setting.encode()])
    quality = 0.9 - 0.1 / METHODS[method] + random.normal(0, 0.01)
    x = 1 - np.exp(-np.arange(1, epochs + 1) / (4 + METHODS[method]))
    curve = {"epoch": list(range(1, epochs + 1))}
    for part in ("train", "validation", "test"):
        for name in names:
            noise = random.normal(0, 0.006, epochs)
            y = (2.3 - 1.6 * x if name == "loss" else quality * x) + noise
            curve[f"{part}_{name}"] = y.tolist()
    for name in set(curve) & set(changes):
        curve[name][-1] = changes.pop(name)
    best = int(np.argmax(curve[f"validation_{names[0]}"]))
    mean, variance = (k * np.square(SIZES) / METHODS[method] for k in (900.0, 300.0))
    flatness = {
        "loss": 0.05,
        "noise_rms": SIZES,
        "mean": (0.05 + mean * (1 + 0.1 * seed)).tolist(),
        "variance": (variance * (1 + 0.1 * seed)).tolist(),
        "top_eigenvalue": 40.0 / METHODS[method] + seed,
    }
    cost = METHODS[method]
    fields = {
        "setting": setting,
        "method": method,
        "arguments": dict(words),
        "seed": seed,
        "directory": f"cells/{method}-seed{seed}",
        "optimizer": {"base": "sgd", "lr": 0.1, "schedule": "cosine"},
        "epochs": epochs,
        "steps_per_epoch": 20,
        "price_per_step": cost,
        "gradient_evaluations": 20 * epochs * cost,
        "seconds": 130.0,
        "diverged": None,
        "curve": curve,
        "final": {key: values[-1] for key, values in curve.items()},
        "best": {key: values[best] for key, values in curve.items()},
        "flatness": flatness if flat else None,
        "flatness_error": None,
    }
    return {**fields, **changes}


def diverged(setting, seed, **changes):
    found = row(setting, seed, flat=False, **changes)
    for name, values in found["curve"].items():
        if name != "epoch":
            values[3:] = [None] * (len(values) - 3)
    found["final"] = {name: values[-1] for name, values in found["curve"].items()}
    return found | {"diverged": "step 61, epoch 4"}


def rows_of(study_, **options):
    return [row(text, seed, **options) for text in study_["settings"] for seed in study_["seeds"]]


def write(directory, study_, rows, name="rows.jsonl"):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "study.json").write_text(json.dumps(study_))
    (directory / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def _grid():
    erm = [f"erm(lr={lr})" for lr in (0.03, 0.1, 0.3)]
    sam = [f"sam(rho={rho}, lr={lr})" for rho in (0.05, 0.1, 0.2, 0.5) for lr in (0.03, 0.1)]
    tsam = [f"tsam(t={t}, rho={rho}, s={s})" for t in (1, 20) for rho in (0.2, 0.7) for s in (2, 3)]
    return [*erm, *sam, *tsam]


THREE = study("erm()", "sam(rho=0.2)", "tsam(t=20, rho=0.7, s=3)")
TWO = study("erm()", "sam(rho=0.2)")
GLUE = study(
    "erm()",
    "sam(rho=0.05)",
    metric="pearson",
    metrics=["pearson", "spearman", "loss"],
    dataset="glue:STS-B",
    label_noise=0.0,
)
PLAIN = study("erm()", "sam(rho=0.2)", metric="loss", metrics=["loss"], label_noise=0.0)
GRID = study(*_grid(), kind="sweep", parts=["train", "validation"], flags=["--width", "8"])
ONE = study("sam(rho=0.2)", kind="train", seeds=[7], dataset="cifar10")
MANY = study(*[f"sam(rho=0.{k})" for k in range(1, 10)])

STUDIES = {
    "complete": (THREE, rows_of(THREE)),
    "one seed": ({**TWO, "seeds": [0]}, rows_of({**TWO, "seeds": [0]})),
    "one epoch": (TWO, rows_of(TWO, epochs=1)),
    "many": (MANY, rows_of(MANY)),
    "glue": (GLUE, rows_of(GLUE, names=("pearson", "spearman", "loss"))),
    "regression": (PLAIN, rows_of(PLAIN, names=("loss",), flat=False)),
    "sweep": (GRID, [*rows_of(GRID, flat=False)[:-3], diverged(GRID["settings"][-1], 0)]),
    "partial": (THREE, [*rows_of(THREE)[:5], row("tsam(t=20, rho=0.7, s=3)", 0, flat=False)]),
    "diverged": (
        THREE,
        [
            *rows_of(THREE)[:3],
            *[diverged("sam(rho=0.2)", seed) for seed in (0, 1, 2)],
            row("tsam(t=20, rho=0.7, s=3)", 0),
            *[diverged("tsam(t=20, rho=0.7, s=3)", seed) for seed in (1, 2)],
        ],
    ),
    "at once": (
        study("sam(rho=0.2)", seeds=[0], kind="study"),
        [diverged("sam(rho=0.2)", 0) | {"curve": {}, "final": None, "best": None}],
    ),
    "one run": (ONE, rows_of(ONE, flat=False)),
    "nothing": (THREE, []),
}
