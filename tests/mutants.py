"""Breaks the core lines of each method, one at a time, and shows that the tests notice.

    .venv/bin/python tests/mutants.py [--find] [part of a path ...]

The parts choose mutants by the file that they break or the tests that must notice. With `--find`
nothing is run: it only looks whether the lines are still there.

Not a part of the tests, which it takes minutes to run against each mutant: run it after a
change of a method or of its tests (`make mutants`). Each mutant is made in a copy of the package;
it is killed when the tests beside it fail, and the exit status is that of a survivor.
"""

import os
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
SAM, CLOSED = "test_golden_sam.py", "test_closed_forms.py"
CONTRACT, IDENTITIES = "test_contract.py", "test_identities.py"
TURNS, CHOICE, FRACTION = "test_two_turns.py", "test_strategy_choice.py", "test_tilt_fraction.py"
SPLIT, M_SAM, KEYS = "test_split_batch.py", "test_m_sam.py", "test_keys_and_samples.py"
EAGER, FINITE = "test_without_jit.py", "../faults/test_not_finite.py"
DEVICES = f"{M_SAM}::test_each_device_is_a_micro_batch"
FAULTS, OPTAX, FLAX = "../faults", "../with_optax", "../with_flax"
ADAPTER, MICRO = f"{OPTAX}/test_sharpness_aware.py", f"{OPTAX}/test_accumulation.py"
EXTRA, STATES = f"{OPTAX}/test_extra_arguments.py", f"{OPTAX}/test_states.py"
NNX = f"{FLAX}/test_nnx_estimator.py"
MESH = "../devices/test_mesh.py::test_on_a_mesh"
WAY = "../train/test_analyze.py::test_the_way_of_training_starts_at_its_initial_parameters"
AUGMENTED = "test_augmentation_has_a_key_of_its_own_in_each_step_and_its_images_are_trained_on"
TILTED, LOOP = "../analysis/test_tilted.py", "../train/test_loop.py"
LOOKS = f"{LOOP}::test_every_method_has_the_same_number_of_evaluations"
AVERAGED = f"{LOOP}::test_the_average_of_the_parameters_is_measured"
OWNED = "../train/test_directories.py::test_a_directory_belongs_to_one_process"
DAMAGED = "../train/test_directories.py::test_a_damaged_log_is_refused_and_nothing_is_lost"
RENAMED = "../train/test_directories.py::test_an_older_step_under_a_newer_name_is_noticed"
FROZEN = "../train/test_network.py::test_statistics_that_no_batch_changes_stay_as_they_are"
SHARDS = "../train/test_study.py::test_shards_are_the_study"
CONTINUED = "../train/test_study.py::test_a_study_goes_on_with_the_runs_that_are_not_finished"
MUTANTS = [
    # the shared algebra: norm, sign, size
    Mutant("_tree.py", "/ ratio.astype(wide)).astype", "/ ratio.astype(wide) ** 2).astype", SAM),
    Mutant("_tree.py", "return add(a, b, -share)", "return add(a, b, share)", ASCENT),
    Mutant("_tree.py", "product / jnp.where(length > 0, length, 1)", "product", ASCENT),
    # norms in one pass, where squares neither vanish nor overflow
    Mutant(
        "_tree.py",
        "(squares > jnp.sqrt(jnp.finfo(squares.dtype).tiny)) & ",
        "",
        f"{FAULTS}/test_extremes.py",
    ),
    Mutant("_tree.py", " & (squares < jnp.inf)", "", f"{FAULTS}/test_extremes.py"),
    Mutant("_tree.py", "jnp.isfinite(sum(sums", "~jnp.isnan(sum(sums", "test_tree.py"),
    Mutant("_tree.py", "(wide_dtype(x)) * 2.0**-64", "(wide_dtype(x))", "test_tree.py"),
    Mutant("_tree.py", "finite = ratio < jnp.inf", "finite = ratio == ratio", "test_tree.py"),
    # tilting
    Mutant("tilting.py", "jnp.exp(t * gap)", "jnp.exp(-t * gap)", "test_tilting.py"),
    Mutant(
        "tilting.py", "weight_b = weight_at(peak, b, t)", "weight_b = b.weight", "test_tilting.py"
    ),
    Mutant("tilting.py", "_tree.all_finite(loss, tree)", "jnp.isfinite(loss)", "test_tilting.py"),
    Mutant(
        "tilting.py", "1 / jnp.sum(jnp.square(weights))", "1 / jnp.max(weights)", "test_tilting.py"
    ),
    Mutant(
        "tilting.py",
        "jnp.exp2(middle))) <= target",
        "jnp.exp2(middle))) >= target",
        "test_auto_tilt.py",
    ),
    Mutant("tilting.py", "jnp.exp2(exponent) / unit", "jnp.exp2(exponent)", "test_auto_tilt.py"),
    # noise
    Mutant("_threefry.py", "range(5)", "range(4)", "test_noise_normals.py"),
    Mutant("_threefry.py", "np.uint32(stride)", "np.uint32(1)", "test_noise_normals.py"),
    Mutant("_threefry.py", "jnp.copysign(z, u)", "z", "test_noise_normals.py"),
    Mutant("_threefry.py", "first = length * int", "first = int", "test_noise_normals.py"),
    Mutant("_threefry.py", "(length,), offset)", "(length,))", "test_noise_normals.py"),
    Mutant(
        "_threefry.py",
        "jnp.where(is_drawn, jnp.square(z), 0)",
        "jnp.square(z)",
        "test_noise_normals.py",
    ),
    Mutant("noise.py", "* u / norm)", "/ norm)", "test_noise.py"),
    Mutant("noise.py", "math.sqrt(d + 2)", "math.sqrt(d)", "test_noise.py"),
    Mutant("noise.py", "law(keys[j], params)", "law(keys[0], params)", KEYS),
    Mutant("noise.py", "% 2 == 0, 1.0, -1.0)", "% 2 == 0, 1.0, 1.0)", "test_noise_designs.py"),
    Mutant(
        "noise.py", "_tree.scale(direction, _tree.norm(own))", "direction", "test_noise_designs.py"
    ),
    # the ascent
    Mutant("methods/ascent.py", "_tree.unit(direction), rho)", "_tree.unit(direction), -rho)", SAM),
    Mutant(
        "methods/ascent.py", "_tree.unit(direction), rho)", "_tree.unit(direction), rho**2)", SAM
    ),
    Mutant("methods/ascent.py", "_tree.unit(direction), rho)", "direction, rho)", SAM),
    Mutant("methods/ascent.py", "jnp.abs(x).astype(dtype) + ", "x.astype(dtype) + ", ASCENT),
    Mutant(
        "methods/ascent.py", "_tree.multiply(direction, sizes), rho)", "direction, rho)", ASCENT
    ),
    Mutant(
        "methods/ascent.py",
        "aux=first.aux, metrics",
        "metrics",
        f"{CONTRACT}::test_aux_is_of_the_first_evaluation",
    ),
    Mutant(
        "methods/ascent.py",
        '{"loss": first.value',
        '{"loss": last.value',
        f"{CONTRACT}::test_the_metric_loss_is_that_of_the_first_evaluation",
    ),
    Mutant("methods/ascent.py", "jnp.zeros(shape, dtype)", "jnp.ones(shape, dtype)", STATES),
    # erm, sam, pgn, wsam, gsam, esam2, rsam
    Mutant(
        "methods/ascent.py",
        "estimate, Cost(gradients=1))",
        "estimate, Cost(gradients=2))",
        f"{CONTRACT}::test_cost_is_what_is_called",
    ),
    Mutant("methods/ascent.py", "at(rho, step) / steps, mask)", "at(rho, step), mask)", SAM),
    Mutant("methods/ascent.py", "jnp.ndim(x) > 1", "jnp.ndim(x) > 0", "test_asam.py"),
    Mutant(
        "methods/ascent.py",
        "_tree.lerp(first.grad, last.grad, share)",
        "_tree.lerp(last.grad, first.grad, share)",
        ASCENT,
    ),
    Mutant(
        "methods/ascent.py",
        "_tree.lerp(first.value, last.value, share)",
        "_tree.lerp(last.value, first.value, share)",
        ASCENT,
    ),
    Mutant(
        "methods/ascent.py",
        "gamma / (1 - gamma), mask",
        "gamma, mask",
        f"{IDENTITIES}::test_wsam_is_pgn",
    ),
    Mutant(
        "methods/ascent.py",
        "return weight / (1 - weight)",
        "return weight",
        f"{CONTRACT}::test_numbers_may_be_schedules_of_the_step_counter",
    ),
    Mutant(
        "methods/ascent.py",
        "reject_and_cosine(first.grad, last.grad)",
        "reject_and_cosine(last.grad, first.grad)",
        ASCENT,
    ),
    Mutant("methods/ascent.py", "-at(alpha, step))", "at(alpha, step))", ASCENT),
    Mutant("methods/ascent.py", "jnp.clip(share, 0, 1)", "share", "test_rho_from_lr.py"),
    Mutant("methods/ascent.py", "worst = jnp.argmax(", "worst = jnp.argmin(", "test_esam2.py"),
    Mutant(
        "methods/ascent.py",
        "jnp.where(jnp.isfinite(losses), losses, -jnp.inf))",
        "losses)",
        "test_esam2.py",
    ),
    Mutant(
        "methods/ascent.py",
        "lengths = jnp.sort(lengths)",
        "lengths = -jnp.sort(-lengths)",
        "test_esam2.py",
    ),
    Mutant("methods/ascent.py", "ascend(smoothed, first.grad", "ascend(params, first.grad", MEMORY),
    Mutant("methods/ascent.py", "d, at(lam, step))", "d, 0.0)", MEMORY),
    # averages: off by one, weights swapped
    Mutant("methods/memory.py", "bool)), share, 1.0)", "bool)), 1.0, share)", MEMORY),
    Mutant(
        "methods/memory.py",
        "_tree.lerp(average, grad, share)",
        "_tree.lerp(grad, average, share)",
        MEMORY,
    ),
    Mutant(
        "methods/memory.py",
        "jnp.where(finite, new, old), updated",
        "new, updated",
        "test_averages.py",
    ),
    Mutant("methods/memory.py", "at(theta, step))", "1 - at(theta, step))", MEMORY),
    Mutant("methods/memory.py", "-at(sigma, step))", "at(sigma, step))", MEMORY),
    Mutant("methods/memory.py", "1 - at(lmbda, step))", "at(lmbda, step))", MEMORY),
    # looksam, xsam
    Mutant("methods/memory.py", "jnp.asarray(at(alpha, step), norm.dtype) * norm", "norm", ASCENT),
    Mutant("methods/memory.py", "step % every == 0", "step % every == 1", "test_looksam.py"),
    Mutant(
        "methods/memory.py",
        "_tree.reject(_tree.like(grad, memory), first.grad)",
        "_tree.like(grad, memory)",
        ASCENT,
    ),
    Mutant("methods/memory.py", "<= 4 * rounding", "<= 0 * rounding", "test_looksam.py"),
    Mutant("methods/memory.py", "jnp.sin((1 - alpha) * psi)", "jnp.sin((1 + alpha) * psi)", MEMORY),
    Mutant(
        "methods/memory.py",
        "jnp.where(finite, losses, -jnp.inf)",
        "jnp.where(losses > 0, losses, -jnp.inf)",
        "test_xsam_search.py",
    ),
    Mutant(
        "methods/memory.py",
        "jnp.where(jnp.any(finite), best, memory)",
        "best",
        "test_xsam_search.py",
    ),
    Mutant(
        "methods/memory.py",
        "step % search_every == 0",
        "step % search_every == 1",
        "test_xsam_search.py",
    ),
    Mutant(
        "methods/memory.py", "distance = 2 * length", "distance = length", "test_xsam_search.py"
    ),
    Mutant(
        "methods/memory.py",
        "jnp.clip(_tree.inner(v0, v1), -1.0, 1.0)",
        "_tree.inner(v0, v1)",
        "test_xsam_search.py",
    ),
    # tsam, tilted_sampling, from_paper; delta as a fraction of the tilt
    Mutant("methods/tilted.py", "displace(point, direction", "displace(params, direction", CLOSED),
    Mutant(
        "methods/tilted.py",
        "finite & _tree.all_finite(others)",
        "finite",
        f"{FAULTS}/test_not_finite.py",
    ),
    Mutant("methods/tilted.py", "rest = 1 - fraction", "rest = jnp.ones_like(fraction)", FRACTION),
    Mutant("methods/tilted.py", "0.5 if delta ==", "1.0 if delta ==", FRACTION),
    Mutant(
        "methods/tilted.py",
        "jnp.clip(fraction.astype(dtype), 0, 1)",
        "fraction.astype(dtype)",
        FRACTION,
    ),
    Mutant(
        "methods/tilted.py",
        "jnp.maximum(jnp.asarray(tilt, dtype), 0)",
        "jnp.asarray(tilt, dtype)",
        FRACTION,
    ),
    Mutant("methods/tilted.py", "jnp.where(rest > 0, rest * tilt, zero)", "rest * tilt", FRACTION),
    Mutant(
        "methods/tilted.py",
        "fraction > 0, fraction * tilt",
        "fraction > 0, rest * tilt",
        "test_hmc.py",
    ),
    Mutant(
        "methods/tilted.py",
        "spread(_fold.weigh_one(here, tilt_at(step)), s)",
        "spread(_fold.weigh_one(here, tilt_at(step)), 1)",
        f"{CONTRACT}::test_special_cases_do_not_change_the_type_of_the_state",
    ),
    Mutant(
        "methods/tilted.py",
        '"weights"] / s, (s,))',
        '"weights"], (s,))',
        f"{IDENTITIES}::test_without_noise_tsam_is_sam",
    ),
    Mutant(
        "methods/tilted.py",
        '"effective_sample_size"] * s',
        '"effective_sample_size"]',
        f"{IDENTITIES}::test_without_noise_tsam_is_sam",
    ),
    Mutant(
        "methods/tilted.py",
        "loss.value(params)[1] if",
        "sampled.aux if",
        "test_contract_of_samples.py::test_aux_policies",
    ),
    Mutant(
        "methods/tilted.py",
        "return tsam(t, 0.0, s",
        "return tsam(t, 0.1, s",
        f"{IDENTITIES}::test_without_ascent_and_delta_tsam_is_tilted_sampling",
    ),
    Mutant(
        "methods/tilted.py",
        "share * radius, (1 - share) * radius",
        "(1 - share) * radius, share * radius",
        f"{IDENTITIES}::test_from_paper_splits_the_ball_into_noise_and_ascent",
    ),
    Mutant("methods/tilted.py", "loss.on(j, s, batch)", "loss.on(0, s, batch)", SPLIT),
    Mutant("methods/tilted.py", "1 if batch is not None else distinct", "distinct", SPLIT),
    Mutant(
        "methods/tilted.py", '"batch" if split_batch is True else split_batch', '"batch"', SPLIT
    ),
    Mutant(
        "methods/tilted.py",
        "sampling.estimate(loss, top, memory",
        "sampling.estimate(loss, params, memory",
        f"{IDENTITIES}::test_a_shared_ascent_is_tilted_sampling_around_the_point_of_sam",
    ),
    # layers that are fast on a CPU
    Mutant(
        "convolution.py",
        "return y + _plain(*swapped",
        "return _plain(*swapped",
        "test_convolution.py::test_long_sums_of_kernel_gradients_go_in_blocks",
    ),
    Mutant(
        "models/_batch_norm.py",
        "0.5 * scale * inverse**3",
        "0.5 * scale * inverse**2",
        "../models/test_normalisation.py",
    ),
    # tsam_hmc
    Mutant("methods/hmc.py", "look, kick / 2, drift)", "look, kick, drift)", "test_hmc_paths.py"),
    Mutant(
        "methods/hmc.py", "there.force, kick / 2)", "here.force, kick / 2)", "test_hmc_paths.py"
    ),
    Mutant(
        "methods/hmc.py",
        "tilt * (there.value - here.value)",
        "tilt * (here.value - there.value)",
        "test_hmc_law.py",
    ),
    Mutant(
        "methods/hmc.py",
        "_tree.norm(there.e) <= ",
        "_tree.norm(there.e) >= 0 * ",
        "test_hmc_paths.py",
    ),
    Mutant(
        "methods/hmc.py", "accepted &= _tree.all_finite(", "_tree.all_finite(", "test_hmc_paths.py"
    ),
    Mutant("methods/hmc.py", "drift=beta / sigma**2", "drift=beta", "test_hmc.py"),
    Mutant("methods/hmc.py", "accepted / proposals", "accepted", "test_hmc.py"),
    Mutant("methods/hmc.py", "(chain, keys[j])", "(chain, keys[0])", "test_hmc.py"),
    # the fold: two evaluations of a sample, in turns or one after the other
    Mutant("_fold.py", "last = loss(above)", "last = loss(point)", TURNS),
    Mutant("_fold.py", "first.aux, finite", "last.aux, finite", TURNS),
    Mutant("_fold.py", "jnp.arange(2) == 1", "jnp.arange(2) == 0", TURNS),
    Mutant("_fold.py", "x[0], auxes", "x[1], auxes", TURNS),
    Mutant("_fold.py", "aux, finite[0]", "aux, finite[1]", TURNS),
    Mutant("_fold.py", "finite & jnp.isfinite(first)", "finite", TURNS),
    Mutant("_fold.py", "finite & jnp.isfinite(first)", "jnp.isfinite(first)", TURNS),
    Mutant("_fold.py", "in_loop and _mesh.on_one_cpu()", "False", TURNS),
    # the fold: samples that are not finite, aux, metrics
    Mutant(
        "_fold.py",
        "jnp.where(part.weight > 0, this.value, jnp.nan)",
        "this.value",
        f"{FAULTS}/test_not_finite.py",
    ),
    Mutant(
        "_fold.py",
        "jnp.where(part.weight > 0, mean, jnp.nan)",
        "mean",
        f"{CONTRACT}::test_if_nothing_is_finite_apply_if_finite_acts",
    ),
    Mutant(
        "_fold.py",
        "x[jnp.argmax(present)]",
        "x[0]",
        "test_contract_of_samples.py::test_aux_of_the_first_sample_is_not_used_if_it_is_not_finite",
    ),
    Mutant(
        "_fold.py",
        'if policy == "mean" and',
        'if policy == "clean" and',
        "test_contract_of_samples.py::test_aux_policies",
    ),
    Mutant(
        "_fold.py",
        "weigh(jnp.where(finite, only.value, jnp.nan)[None], tilt)",
        "weigh(only.value[None], tilt)",
        f"{FAULTS}/test_not_finite.py",
    ),
    Mutant(
        "_fold.py", "tilting.tilted_loss(losses, tilt)", "tilting.tilted_loss(losses, 0.0)", CLOSED
    ),
    Mutant(
        "_fold.py",
        "weights = tilting.tilt_weights(losses, tilt)",
        "weights = tilting.tilt_weights(losses, 0.0)",
        FRACTION,
    ),
    Mutant(
        "_fold.py",
        "tilting.effective_sample_size(weights)",
        "jnp.max(weights)",
        f"{STATES}::test_a_metric_is_found_by_name_wherever_the_estimator_is",
    ),
    # the fold: merging, and when
    Mutant(
        "_fold.py",
        "return tilting.merge(part, this, tilt), rest",
        "return tilting.merge(part, this, 0.0), rest",
        CLOSED,
    ),
    Mutant(
        "_fold.py",
        "part = tilting.merge(part, this_part, known)",
        "part = tilting.merge(part, this_part, 0.0)",
        CLOSED,
    ),
    Mutant("_fold.py", "weight = jnp.sum(weights)", "weight = jnp.max(weights)", CLOSED),
    Mutant("_fold.py", "x[0], terms.aux", "x[-1], terms.aux", MICRO),
    Mutant("_fold.py", "_tree.widened(this.grad)", "this.grad", MICRO),
    Mutant(
        "_fold.py",
        'strategy == "unrolled" or not _mesh.is_staged(indices)',
        'strategy == "unrolled"',
        CHOICE,
    ),
    Mutant("_fold.py", "_UNROLLED_UP_TO = 8", "_UNROLLED_UP_TO = 9", CHOICE),
    Mutant("_fold.py", '== "conv_general_dilated"', '== "conv"', CHOICE),
    Mutant("_fold.py", "if _mesh.is_staged(xs):", "if True:", EAGER),
    Mutant("_fold.py", "if _mesh.is_staged(predicate):", "if True:", EAGER),
    Mutant("_fold.py", "jnp.where(finite, only.value, jnp.nan)[None]", "only.value[None]", FINITE),
    # parts of a batch, which arguments they are of
    Mutant("estimator.py", "*jnp.shape(x)[1:]))[i]", "*jnp.shape(x)[1:]))[0]", M_SAM),
    Mutant(
        "estimator.py", "places.append((args, position - 1))", "places.append((args, 0))", M_SAM
    ),
    Mutant("_checks.py", "and x >= 1)", "and x >= 0)", SPLIT),
    Mutant("estimator.py", "1 <= position <= len(args)", "0 <= position <= len(args)", SPLIT),
    Mutant("estimator.py", "elif name in kwargs:", "elif wanted in kwargs:", M_SAM),
    Mutant("estimator.py", "if len(sizes) != 1:", "if not sizes:", M_SAM),
    Mutant("methods/batches.py", "part = loss.on(i, n, batch)", "part = loss", M_SAM),
    Mutant(
        "methods/batches.py",
        "part, params, memory, step=step, key=key)",
        "part, params, memory, step=step + i, key=key)",
        M_SAM,
    ),
    Mutant(
        "methods/batches.py",
        "self.cut)(params)",
        "self.cut)(jax.tree.map(jnp.zeros_like, params))",
        MICRO,
    ),
    Mutant(
        "methods/batches.py",
        "self.loss.on(i, self.n, self.cut)(params)",
        "self.loss(params)",
        MICRO,
    ),
    Mutant(
        "methods/batches.py",
        "self.loss.on(i, self.n, self.cut).value",
        "self.loss.on(0, self.n, self.cut).value",
        MICRO,
    ),
    Mutant(
        "methods/batches.py",
        "return _MicroBatched(self.loss.on(i, n, batch), self.m, self.cut, self.strategy)",
        "return self.loss.on(i, n, batch)",
        MICRO,
    ),
    # step, key and types of the state
    Mutant("estimator.py", "jax.random.fold_in(run_key, state.step)", "run_key", KEYS),
    Mutant("estimator.py", "step=state.step, key", "step=state.step + 1, key", CLOSED),
    Mutant("estimator.py", "optax.safe_increment(state.step)", "state.step", CLOSED),
    Mutant("estimator.py", "_own(jax.random.key_data(typed))", "jax.random.key_data(typed)", KEYS),
    Mutant("estimator.py", "state.key.dtype != jnp.uint32 or ", "", STATES),
    Mutant("estimator.py", " or state.step.dtype != jnp.int32", "", STATES),
    Mutant(
        "estimator.py",
        "return jnp.asarray(x, y.dtype)",
        "return x",
        STATES,
    ),
    Mutant("estimator.py", "jax.tree.map(_own, made)", "made", STATES),
    Mutant(
        "estimator.py", "_tree.conjugate(grad), aux", "grad, aux", f"{FAULTS}/test_parameters.py"
    ),
    Mutant(
        "estimator.py",
        "_tree.conjugate(evaluation.grad)",
        "evaluation.grad",
        f"{FAULTS}/test_parameters.py",
    ),
    # the optax adapters
    Mutant(
        "transform.py", "return _tree.conjugate(evaluation.grad)", "return evaluation.grad", ADAPTER
    ),
    Mutant(
        "transform.py", "grad = _tree.conjugate(evaluation.grad)", "grad = evaluation.grad", ADAPTER
    ),
    Mutant("transform.py", "*tangents)", "*primals)", ADAPTER),
    Mutant("transform.py", '"value": evaluation.value', '"value": loss.value(params)[0]', ADAPTER),
    Mutant("transform.py", "_naming(extra_args, objective)", "value_fn", ADAPTER),
    Mutant("transform.py", "([first, *names])", "([first])", "test_user_mistakes.py"),
    Mutant(
        "transform.py", "loss, params, before)[0].value", "loss, params, after)[0].value", ADAPTER
    ),
    Mutant("transform.py", "**options), key=key", "**options), key=0", ADAPTER),
    Mutant("transform.py", '"grad": grad, **extra_args}', '"grad": grad}', EXTRA),
    Mutant(
        "transform.py",
        '{"value": evaluation.value, "grad": grad, **extra_args}',
        '{**extra_args, "value": evaluation.value, "grad": grad}',
        EXTRA,
    ),
    Mutant("transform.py", "for p in parameters[1:]:", "for p in parameters:", EXTRA),
    Mutant("transform.py", "kwargs |= rest", "continue", EXTRA),
    Mutant("transform.py", "rest.pop(p.name, p.default)", "rest.get(p.name, p.default)", EXTRA),
    Mutant(
        "transform.py",
        " and (p.name in rest or p.default is not p.empty)",
        " and p.name in rest",
        EXTRA,
    ),
    Mutant("transform.py", "missing.append(p.name)", "continue", EXTRA),
    Mutant(
        "transform.py",
        "_refuse_masked(params)\n        return init_state(estimator, key, params)\n",
        "return init_state(estimator, key, params)\n",
        f"{OPTAX}/test_chains.py",
    ),
    Mutant(
        "transform.py",
        "_refuse_masked(params)\n        return init_state(estimator, key, params), last",
        "return init_state(estimator, key, params), last",
        f"{OPTAX}/test_chains.py",
    ),
    Mutant(
        "transform.py",
        "_refuse_beside_line_search(extra_args, base_state)\n",
        "",
        f"{OPTAX}/test_line_searches.py",
    ),
    Mutant(
        "transform.py",
        ", optax.ScaleByZoomLinesearchState)",
        ",)",
        f"{OPTAX}/test_line_searches.py",
    ),
    Mutant(
        "transform.py",
        'hasattr(base, "init") and hasattr(base, "update")',
        "isinstance(base, optax.GradientTransformation)",
        MICRO,
    ),
    Mutant("transform.py", "_checks.key(key)", "", f"{OPTAX}/test_wrong_arguments.py"),
    # the nnx adapter
    Mutant("nnx.py", "nnx.update(everything, changes)", "pass", NNX),
    Mutant("nnx.py", "nnx.update(self.state, nnx.state(state))", "pass", NNX),
    Mutant("nnx.py", "@functools.wraps(loss_fn)", "", NNX),
    Mutant("nnx.py", "key = 0 if self._impl is None else", "key = 0 if True else", NNX),
    Mutant("nnx.py", "_check_model(self._made_for, _described(params))", "pass", NNX),
    # many devices
    Mutant(
        "estimator.py",
        "params = _mesh.as_varying(params, self.axis_name)",
        "params = params",
        f"{MESH}[batch_in_shard_map]",
    ),
    Mutant("_mesh.py", "jax.lax.pmean(x", "jax.lax.psum(x", f"{MESH}[batch_in_shard_map]"),
    Mutant(
        "_mesh.py", ".at[own].set(numbers)", ".at[0].set(numbers)", f"{MESH}[samples_in_shard_map]"
    ),
    Mutant(
        "_fold.py",
        "point = _mesh.as_varying(point, axis)",
        "point = point",
        f"{MESH}[samples_in_shard_map]",
    ),
    Mutant(
        "_mesh.py",
        "jax.lax.axis_index(axis) * (s // devices)",
        "0 * jax.lax.axis_index(axis)",
        f"{MESH}[samples_under_jit]",
    ),
    Mutant(
        "_fold.py",
        "peak = jax.lax.pmax(part.peak, axis)",
        "peak = jax.lax.pmin(part.peak, axis)",
        f"{MESH}[samples_in_shard_map]",
    ),
    Mutant(
        "_fold.py",
        "weight = jax.lax.psum(own, axis)",
        "weight = jax.lax.pmax(own, axis)",
        f"{MESH}[samples_under_jit]",
    ),
    Mutant("methods/batches.py", "_mesh.mean(result, axis_name)", "result", DEVICES),
    Mutant("methods/batches.py", "_mesh.as_varying(params, axis_name)", "params", DEVICES),
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
        "_tree.filter_norms(p, axes) / jnp.where",
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
        "train/metrics.py",
        "smoothing / (classes - 1)",
        "smoothing / classes",
        "../train/test_metrics.py",
    ),
    Mutant("train/loop.py", "x + kept * (old - x)", "old + kept * (x - old)", LOOP),
    Mutant(
        "train/loop.py",
        "jnp.mean(x) for name, x in last.items",
        "jnp.max(x) for name, x in last.items",
        f"{LOOP}::test_the_metrics_of_the_last_step_are_logged",
    ),
    Mutant(
        "train/loop.py", "fold_in(state.key, state.step // steps)", "fold_in(state.key, 0)", LOOP
    ),
    Mutant(
        "train/metrics.py",
        "signed = value if self.higher_is_better else -value",
        "signed = value",
        "../train/test_metrics.py",
    ),
    Mutant(
        "train/loop.py",
        "network.augment(key, batch.inputs))",
        "(network.augment(key, batch.inputs), batch.inputs)[1])",
        f"{LOOP}::{AUGMENTED}",
    ),
    Mutant(
        "train/task.py",
        '"official": augmentation.official',
        '"official": functools.partial(augmentation.official, cutout_size=0)',
        "../train/test_task.py::test_crop_flip_is_the_official_recipe_without_cutout",
    ),
    Mutant(
        "train/metrics.py",
        "np.ptp(pair, axis=1).all()",
        "not np.isclose(pair, pair[:, :1]).all(axis=1).any()",
        "../train/test_metrics.py",
    ),
    Mutant(
        "data/npz.py",
        "else inputs[..., None]",
        "else 0 * inputs[..., None]",
        "../datasets/test_npz.py::test_grey_images_get_a_channel",
    ),
    Mutant(
        "data/_images.py",
        ".convert(mode)",
        '.convert("1").convert(mode)',
        "../datasets/test_image_folders.py::test_grey_and_palette_images_become_rgb",
    ),
    Mutant(
        "commands/catalogue.py",
        "{**METHODS, **WRAPPERS}.items():",
        '[x for x in {**METHODS, **WRAPPERS}.items() if x[0] != "sam"]:',
        "../train/test_cli.py::test_methods_lists_every_method_with_cost_and_source",
    ),
    # the way of a training
    Mutant("train/restore.py", "weights in saved)]", "weights in saved[::-1])]", WAY),
    # which run is resumed, what it costs, what it shares, who owns it
    Mutant("train/loop.py", "if ema is None else state.average\n", "\n", AVERAGED),
    Mutant(
        "train/settings.py",
        "+ config.VALUE_COST * self.cost.values",
        "",
        "../train/test_settings.py",
    ),
    Mutant(
        "train/settings.py", " if word.arg in self.arguments]", "]", "../train/test_settings.py"
    ),
    Mutant("train/record.py", "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_UN", OWNED),
    Mutant("train/record.py", "if there[: len(due)] != due:", "if False:", DAMAGED),
    Mutant("train/checkpoint.py", "require(there == step", "require(True", RENAMED),
    Mutant("train/network.py", "/ (1 - kept)", "", "../train/test_network.py"),
    Mutant("train/network.py", "lambda x: x == 1, kept", "lambda x: x > 1, kept", FROZEN),
    Mutant("train/network.py", "jnp.where(fixed, x, start)", "jnp.full_like(x, start)", FROZEN),
    Mutant("train/study.py", "[i - 1 :: n]", "[i % n :: n]", SHARDS),
    Mutant("train/study.py", "not in finished]", "not in ()]", CONTINUED),
    Mutant("train/run.py", "math.floor(epochs * k / count)", "epochs", LOOKS),
]


def main(arguments: list[str]) -> int:
    survivors = []
    cache = tempfile.TemporaryDirectory()  # most programs are the same for all mutants
    only_find = "--find" in arguments
    wanted = [part for part in arguments if part != "--find"]
    for mutant in MUTANTS:
        if wanted and not any(part in mutant.path + " " + mutant.tests for part in wanted):
            continue
        if only_find and mutant.line in (ROOT / "tsam_jax" / mutant.path).read_text():
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
            command += ["-m", "not slow"]  # what `make test` runs must notice
            test = copy / "tests" / "core" / mutant.tests
            environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache.name}
            done = subprocess.run(
                [*command, test], cwd=copy, env=environment, capture_output=True, check=False
            )
        verdict = {0: "SURVIVED", 1: "killed"}.get(done.returncode, "BROKEN")
        if verdict != "killed":
            survivors.append(mutant)
        print(f"{verdict:9}  {mutant.path}: {mutant.line}  ->  {mutant.broken}", flush=True)
    print(f"{len(survivors)} not killed")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
