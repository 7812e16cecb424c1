"""Breaks the core lines of each method, one at a time, and shows that the tests notice.

    .venv/bin/python tests/mutants.py [part of a path ...]

Not a part of the tests, which it takes minutes to run against each mutant: run it after a
change of a method or of its tests (`make mutants`). Each mutant is made in a copy of the package;
it is killed when the tests beside it fail, and the exit status is that of a survivor.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent


class Mutant(NamedTuple):
    """A line of the package, what becomes of it, and the tests that must notice."""

    path: str
    line: str
    broken: str
    tests: str


ASCENT, MEMORY = "test_ascent_closed_forms.py", "test_memory_closed_forms.py"
ADAPTER, MICRO = "../with_optax/test_sharpness_aware.py", "../with_optax/test_accumulation.py"
MESH = "../devices/test_mesh.py::test_on_a_mesh"
TURNS = "test_two_turns.py"
WAY = "../train/test_analyze.py::test_the_way_of_training_starts_at_its_initial_parameters"
M_SAM = "test_m_sam.py::test_each_device_is_a_micro_batch"
TILTED, LOOP = "../analysis/test_tilted.py", "../train/test_loop.py"
MUTANTS = [
    # the shared algebra: norm, sign, size
    Mutant(
        "_tree.py",
        "/ ratio.astype(wide)).astype",
        "/ ratio.astype(wide) ** 2).astype",
        "test_golden_sam.py",
    ),
    Mutant("_tree.py", "return add(a, b, -share)", "return add(a, b, share)", ASCENT),
    Mutant("tilting/_weights.py", "jnp.exp(t * gap)", "jnp.exp(-t * gap)", "test_tilting.py"),
    Mutant(
        "tilting/_means.py",
        "weight_b = _weight_at(peak, b, t)",
        "weight_b = b.weight",
        "test_tilting.py",
    ),
    Mutant(
        "methods/_common.py",
        "_tree.unit(direction), rho)",
        "_tree.unit(direction), -rho)",
        "test_golden_sam.py",
    ),
    Mutant(
        "methods/_common.py",
        "_tree.unit(direction), rho)",
        "_tree.unit(direction), rho**2)",
        "test_golden_sam.py",
    ),
    Mutant(
        "methods/_common.py", "_tree.unit(direction), rho)", "direction, rho)", "test_golden_sam.py"
    ),
    # noise
    Mutant("noise/_normals.py", "range(5)", "range(4)", "test_noise_normals.py"),
    Mutant("noise/_normals.py", "np.uint32(stride)", "np.uint32(1)", "test_noise_normals.py"),
    Mutant("noise/_normals.py", "jnp.copysign(z, u)", "z", "test_noise_normals.py"),
    Mutant("noise/_normals.py", "first = length * int", "first = int", "test_noise_normals.py"),
    Mutant("noise/_normals.py", "(length,), offset)", "(length,))", "test_noise_normals.py"),
    Mutant("noise/_normals.py", "jnp.arange(length) < count", "True", "test_noise_normals.py"),
    # norms in one pass, where squares neither vanish nor overflow
    Mutant(
        "_tree.py",
        "(squares > jnp.sqrt(jnp.finfo(squares.dtype).tiny)) & ",
        "",
        "../faults/test_extremes.py",
    ),
    Mutant("_tree.py", " & (squares < jnp.inf)", "", "../faults/test_extremes.py"),
    Mutant("_tree.py", "jnp.isfinite(sum(sums", "~jnp.isnan(sum(sums", "test_tree.py"),
    Mutant("_tree.py", "(wide_dtype(x)) * 2.0**-64", "(wide_dtype(x))", "test_tree.py"),
    Mutant("_tree.py", "finite = ratio < jnp.inf", "finite = ratio == ratio", "test_tree.py"),
    # sam, asam
    Mutant("methods/_sam.py", "length / steps, mask)", "length, mask)", "test_golden_sam.py"),
    Mutant(
        "methods/_common.py",
        "return jnp.abs(x).astype(dtype) + ",
        "return x.astype(dtype) + ",
        ASCENT,
    ),
    Mutant(
        "methods/_common.py", "_tree.multiply(direction, sizes), rho)", "direction, rho)", ASCENT
    ),
    # pgn, wsam, gsam, esam2, looksam
    Mutant(
        "methods/_pgn.py",
        "_tree.lerp(first.grad, last.grad, share)",
        "_tree.lerp(last.grad, first.grad, share)",
        ASCENT,
    ),
    Mutant(
        "methods/_gsam.py",
        "_tree.reject(first.grad, last.grad)",
        "_tree.reject(last.grad, first.grad)",
        ASCENT,
    ),
    Mutant("methods/_gsam.py", "-at(alpha, step))", "at(alpha, step))", ASCENT),
    Mutant("methods/_esam2.py", "jnp.argmax(", "jnp.argmin(", "test_esam2.py"),
    Mutant(
        "methods/_esam2.py",
        "lengths = jnp.sort(lengths)",
        "lengths = -jnp.sort(-lengths)",
        "test_esam2.py",
    ),
    Mutant("methods/_looksam.py", "_tree.norm(first.grad)", "_tree.norm(sharp)", ASCENT),
    # averages: off by one, weights swapped
    Mutant("methods/_averages.py", "bool)), share, 1.0)", "bool)), 1.0, share)", MEMORY),
    Mutant(
        "methods/_averages.py",
        "_tree.lerp(state.average, grad, share)",
        "_tree.lerp(grad, state.average, share)",
        MEMORY,
    ),
    Mutant("methods/_fsam.py", "-at(sigma, step))", "at(sigma, step))", MEMORY),
    Mutant("methods/_fsam.py", "1 - at(lmbda, step))", "at(lmbda, step))", MEMORY),
    # rsam, xsam
    Mutant("methods/_rsam.py", "ascend(smoothed, first.grad", "ascend(params, first.grad", MEMORY),
    Mutant("methods/_xsam.py", "jnp.sin((1 - alpha) * psi)", "jnp.sin((1 + alpha) * psi)", MEMORY),
    Mutant(
        "methods/_xsam.py",
        "jnp.where(finite, losses, -jnp.inf)",
        "jnp.where(losses > 0, losses, -jnp.inf)",
        "test_golden_memory.py",
    ),
    # tsam
    Mutant(
        "methods/_sampled.py",
        "displace(point, direction",
        "displace(params, direction",
        "test_closed_forms.py",
    ),
    Mutant(
        "methods/_sampled.py",
        "finite & _tree.all_finite(others)",
        "finite",
        "../faults/test_not_finite.py",
    ),
    Mutant("methods/_two_turns.py", "evaluate(above)", "evaluate(point)", TURNS),
    Mutant("methods/_two_turns.py", "first.aux, finite", "last.aux, finite", TURNS),
    Mutant("methods/_two_turns.py", "== 1", "== 0", TURNS),
    Mutant("methods/_two_turns.py", "x[0], auxes", "x[1], auxes", TURNS),
    Mutant("methods/_two_turns.py", "finite[0]", "finite[1]", TURNS),
    Mutant("methods/_two_turns.py", "finite & jnp.isfinite(first)", "finite", TURNS),
    Mutant("methods/_two_turns.py", "finite & jnp.isfinite(first)", "jnp.isfinite(first)", TURNS),
    Mutant("methods/_two_turns.py", "not _axes.on_one_cpu()", "True", TURNS),
    Mutant("methods/_sampled.py", "at(t, step) / 2", "at(t, step)", "test_closed_forms.py"),
    Mutant(
        "methods/_sampled.py",
        "jax.random.fold_in(state.key, step)",
        "state.key",
        "test_golden_tsam.py",
    ),
    Mutant(
        "methods/_sampled.py",
        "oracle_of(j).evaluate",
        "oracle_of(0).evaluate",
        "test_split_batch.py",
    ),
    Mutant(
        "methods/_sampled.py", "1 if split_batch else distinct", "distinct", "test_split_batch.py"
    ),
    # tsam_hmc
    Mutant("methods/_chains.py", "kick / 2)", "kick)", "test_hmc_paths.py"),
    Mutant(
        "methods/_chains.py",
        "gain = delta * (there.value - here.value)",
        "gain = delta * (here.value - there.value)",
        "test_hmc_law.py",
    ),
    Mutant(
        "methods/_chains.py",
        "_tree.norm(there.e) <= ",
        "_tree.norm(there.e) >= 0 * ",
        "test_hmc_paths.py",
    ),
    # the optax adapters, micro-batches
    Mutant("transform.py", "*tangents)", "*primals)", ADAPTER),
    Mutant("transform.py", "jax.tree.map(jnp.conj, grad)", "grad", ADAPTER),
    Mutant("transform.py", '"value": after.value', '"value": value_fn(params)', ADAPTER),
    Mutant("transform.py", '"value_fn": objective', '"value_fn": value_fn', ADAPTER),
    Mutant("transform.py", "        _refuse_masked(params)\n", "", "../with_optax/test_chains.py"),
    Mutant("methods/_micro_batches.py", "(next(means) / n)", "next(means)", MICRO),
    Mutant("methods/_micro_batches.py", "x[0] for x in stacked", "x[-1] for x in stacked", MICRO),
    Mutant("methods/_micro_batches.py", "_tree.wide_dtype(x)", "x.dtype", MICRO),
    Mutant("methods/_micro_batches.py", "batch=part, on=on", "batch=None, on=None", MICRO),
    Mutant("methods/_microbatched.py", "estimate(in_parts(oracle)", "estimate(oracle", MICRO),
    Mutant("methods/_microbatched.py", "part(i).value(params)", "part(0).value(params)", MICRO),
    # many devices
    Mutant(
        "estimator.py",
        "params = _axes.as_varying(params, axis_name)",
        "params = params",
        f"{MESH}[batch_in_shard_map]",
    ),
    Mutant("_axes.py", "jax.lax.pmean(x", "jax.lax.psum(x", f"{MESH}[batch_in_shard_map]"),
    Mutant(
        "execution.py",
        "evaluate(_axes.as_varying(params, axis))",
        "evaluate(params)",
        f"{MESH}[samples_in_shard_map]",
    ),
    Mutant(
        "execution.py",
        "jax.lax.axis_index(axis) * share",
        "0 * jax.lax.axis_index(axis)",
        f"{MESH}[samples_under_jit]",
    ),
    Mutant(
        "tilting/_means.py",
        "peak = jax.lax.pmax(part.peak, axis)",
        "peak = jax.lax.pmin(part.peak, axis)",
        f"{MESH}[samples_in_shard_map]",
    ),
    Mutant(
        "tilting/_means.py",
        "weight = jax.lax.psum(own, axis)",
        "weight = jax.lax.pmax(own, axis)",
        f"{MESH}[samples_under_jit]",
    ),
    Mutant("methods/_m_sam.py", "_axes.mean(result", "jax.tree.map(lambda x: x, result", M_SAM),
    Mutant("methods/_m_sam.py", "_axes.as_varying(params, axis_name)", "params", M_SAM),
    # noise
    Mutant("noise/_laws.py", "radius * u / norm", "radius / norm", "test_noise.py"),
    Mutant("noise/_laws.py", "math.sqrt(d + 2)", "math.sqrt(d)", "test_noise.py"),
    # analysis
    Mutant(
        "analysis/objectives.py",
        "jax.grad(loss_fn)(params, batch), sam_rho",
        "jax.grad(loss_fn)(params, batch), -sam_rho",
        TILTED,
    ),
    Mutant(
        "analysis/objectives.py",
        "ascend(noisy, jax.grad(loss_fn)(noisy, batch)",
        "ascend(noisy, jax.grad(loss_fn)(params, batch)",
        TILTED,
    ),
    Mutant(
        "analysis/spectrum.py",
        "_tree.inner(product, product)",
        "_tree.inner(z, product) ** 2",
        "../analysis/test_spectrum.py",
    ),
    Mutant(
        "analysis/landscapes.py",
        "norms(p) / jnp.where",
        "1.0 / jnp.where",
        "../analysis/test_landscapes.py",
    ),
    Mutant(
        "analysis/sharpness.py",
        "direction, step_size * rho",
        "direction, -step_size * rho",
        "../analysis/test_sharpness.py",
    ),
    Mutant(
        "analysis/tilted.py",
        "(weights - 1 / count) / jnp",
        "weights / jnp",
        TILTED,
    ),
    Mutant(
        "analysis/sampler.py",
        "squared_error.value - variance, error",
        "squared_error.value, error",
        "../analysis/test_sampler.py",
    ),
    Mutant(
        "analysis/theory.py",
        "mean, -t * _tree.inner",
        "mean, t * _tree.inner",
        "../analysis/test_theory.py",
    ),
    Mutant("analysis/toys.py", "theta - 0.005", "theta + 0.005", "../analysis/test_toys.py"),
    # data, losses, the loop
    Mutant(
        "data/corruption.py",
        "rng.integers(1, classes",
        "rng.integers(0, classes",
        "../datasets/test_digits_and_label_noise.py",
    ),
    Mutant(
        "data/augmentation.py",
        "0, 2 * padding + 1",
        "0, padding + 1",
        "../datasets/test_augmentation.py",
    ),
    Mutant(
        "train/losses.py",
        "smoothing / (classes - 1)",
        "smoothing / classes",
        "../train/test_losses.py",
    ),
    Mutant("train/loop.py", "x + kept * (old - x)", "old + kept * (x - old)", LOOP),
    Mutant(
        "train/loop.py", "fold_in(state.key, state.step // steps)", "fold_in(state.key, 0)", LOOP
    ),
    Mutant(
        "train/job.py",
        "sign = -1 if metric",
        "sign = 1 if metric",
        "../train/test_fit.py",
    ),
    # the way of a training
    Mutant("train/trained.py", "(start, *states)", "(*states, start)", WAY),
]


def main(wanted: list[str]) -> int:
    survivors = []
    for mutant in MUTANTS:
        if wanted and not any(part in mutant.path + mutant.tests for part in wanted):
            continue
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder)
            for name in ("tsam_jax", "tests"):
                shutil.copytree(ROOT / name, copy / name)
            shutil.copy(ROOT / "pyproject.toml", copy)
            path = copy / "tsam_jax" / mutant.path
            source = path.read_text()
            if mutant.line not in source:
                survivors.append(mutant)
                print(f"NOT FOUND  {mutant.path}: {mutant.line}")
                continue
            path.write_text(source.replace(mutant.line, mutant.broken, 1))
            command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
            test = copy / "tests" / "core" / mutant.tests
            done = subprocess.run([*command, test], cwd=copy, capture_output=True, check=False)
        verdict = {0: "SURVIVED", 1: "killed"}.get(done.returncode, "BROKEN")
        if verdict != "killed":
            survivors.append(mutant)
        print(f"{verdict:9}  {mutant.path}: {mutant.line}  ->  {mutant.broken}", flush=True)
    print(f"{len(survivors)} not killed")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
