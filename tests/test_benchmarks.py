"""The benchmarks run, their arithmetic is right, and the documentation quotes their results."""

import json
import math
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import (
    __main__,
    devices_worker,
    differences,
    each_method,
    everything,
    jax_worker,
    machine,
    measure,
    models,
    programs,
    record,
    render,
    sam,
    step,
    tables,
    variance,
)
from benchmarks import noise as noise_part
from benchmarks.budget import Budget
from benchmarks.measure import Measurement
from tsam_jax import methods, noise, tsam

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def cell():
    settings = step.Settings(models=("mlp_small",), batches=(4,), samples=(2,), repeats=3)
    jax.config.update("jax_disable_most_optimizations", True)
    yield step.measure_cell(step.cells_of(settings)[0], settings, Budget(3600))
    jax.config.update("jax_disable_most_optimizations", False)


def test_every_strategy_is_measured_against_its_count_of_gradients(cell):
    plain, *tilted, sam = cell["measurements"]
    assert plain["ratio_quartiles"] == [1.0, 1.0, 1.0]
    assert (sam["method"], sam["gradients"]) == ("sam", 2)
    assert [x["strategy"] for x in tilted] == ["streamed", "unrolled", "vectorized"]
    for this in tilted:
        assert this["outcome"] == "measured"
        assert this["compile_cpu_seconds"] > 0
        pairs = zip(this["seconds"], plain["seconds"], strict=True)
        ratios = sorted(a / (4 * b) for a, b in pairs)
        assert this["ratio_quartiles"][1] == pytest.approx(ratios[1], rel=1e-2)


def test_auto_is_compared_with_the_fastest_strategy(cell):
    [row] = cell["auto"]
    seconds = {x["strategy"]: x["seconds"] for x in cell["measurements"] if x["method"] == "tsam"}
    assert row["auto"] == "streamed"
    medians = {name: sorted(times)[1] for name, times in seconds.items()}
    assert medians[row["best"]] == pytest.approx(min(medians.values()), abs=1e-7)  # as rounded
    pairs = zip(seconds[row["auto"]], seconds[row["best"]], strict=True)
    assert row["auto_over_best"] == pytest.approx(sorted(a / b for a, b in pairs)[1], rel=1e-2)


def test_costs_of_steps_are_in_plain_gradients(cell):
    found = {
        "settings": {"samples": [2]},
        "cells": [{**cell, "model": "m", "batch": 4, "dtype": "d"}],
    }
    row = tables.headline(found).splitlines()[-1]
    plain, *tilted, sam = cell["measurements"]
    streamed = next(x for x in tilted if x["strategy"] == "streamed")
    costs = 2 * sam["ratio_quartiles"][1], 4 * streamed["ratio_quartiles"][1]
    shown = [f"{tables.number(cost)} gradients" for cost in costs]
    assert row == f"| `m`, 4, d | {tables.milliseconds(plain)} ms | {shown[0]} | {shown[1]} |"


def test_flops_of_a_gradient_are_those_of_its_matrix_products(cell):
    """Forward, and backward for kernels and, but for the first layer, for inputs."""
    products = 2 * 4 * (784 * 24 * 2 + 24 * 10 * 3)
    assert cell["flops_of_a_gradient"] == pytest.approx(products, rel=0.1)


def test_use_of_the_device_is_in_flops_of_the_gradients():
    plain, this = Measurement({}), Measurement({}, gradients=6, seconds=[3.0])
    row = step.described(this, plain, flops=1e12, peak=4e12)
    assert (row["tflops"], row["utilisation"]) == (2.0, 0.5)


def test_a_case_without_time_is_skipped_with_its_price():
    done = [Measurement({"model": "mlp", "method": "gradient", "strategy": "-", "s": 1})]
    done[0].warm_seconds, done[0].compile_seconds = 10.0, 1.0
    labels = {"model": "mlp", "method": "tsam", "strategy": "unrolled", "s": 3}
    this = Measurement(labels, gradients=6)
    assert step.reason_to_skip(this, done, Budget(200), cpu=True) == "60 s a step"
    budget = Budget(1000)
    budget.left = lambda: 200.0
    assert "6 s of compilation and 60 s" in step.reason_to_skip(this, done, budget, cpu=True)
    assert step.reason_to_skip(this, done, Budget(1000), cpu=True) is None


@pytest.mark.parametrize("strategy", programs.STRATEGIES)
def test_gradients_are_counted_as_they_run(strategy):
    assert programs.counted_gradients(programs.tsam(3, strategy)) == 6


def test_gradients_are_counted_over_whole_periods():
    looksam = methods.looksam(rho=0.1, every=5)
    assert programs.counted_gradients(looksam, steps=10) == pytest.approx(1.2)


def test_every_method_of_the_table_can_be_measured():
    assert {programs.make(name).cost.gradients for name in each_method.METHODS} >= {1, 2, 6}


def test_the_default_models_exist():
    cpu = {*step.ON_CPU, *step.SHARES, *step.HOPELESS_ON_CPU}
    assert cpu <= set(models.MODELS)
    with pytest.raises(ValueError, match="`model` must be one of mlp"):
        models.build("mpl", batch=1)


@pytest.mark.parametrize("name", ["mlp", "bert-tiny"])
def test_models_of_the_zoo_are_problems(name):
    zoo = pytest.importorskip("tsam_jax.models")
    if not hasattr(zoo, "MODELS"):
        pytest.skip("there is no catalogue of models")
    problem = models.build(f"zoo:{name}", batch=2, dtype="bfloat16")
    gradient = jax.value_and_grad(problem.loss)
    loss, grads = jax.eval_shape(gradient, problem.params, problem.inputs, problem.targets)
    assert (loss.shape, loss.dtype) == ((), jnp.float32)
    assert {x.dtype.name for x in jax.tree.leaves(grads)} == {"float32"}


def test_sizes_are_those_of_the_architectures():
    def count(name):
        return models.size(jax.eval_shape(lambda: models.MODELS[name](jax.random.key(0), 1).params))

    assert count("resnet18") == 11_173_962 - 10  # the usual one's, but for the head's bias
    assert count("mlp") == 2_118_410


def test_sam_is_compared_at_the_same_numbers():
    assert sam.largest_difference(models.build("mlp_small", batch=4)) < 1e-4


@pytest.fixture
def torch():
    """PyTorch in one thread: several wait for each other in vain on a busy machine."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return torch


@pytest.mark.usefixtures("torch")
def test_torch_makes_the_same_step(tmp_path):
    from benchmarks import torch_worker

    told = {"model": "mlp_small", "s": 2, "t": 20.0, "rho": 0.05, "lr": 0.1, "rms": 0.006}
    told |= {"dtype": "float32", "exchange": str(tmp_path / "exchange.npz")}
    problem = models.build("mlp_small", batch=4)
    law = noise.sphere(rms=told["rms"])
    optimizer = tsam(optax.sgd(told["lr"]), told["t"], told["rho"], told["s"], noise=law)
    told["found"] = jax_worker.write_exchange(told, problem, optimizer)
    exchange = np.load(told["exchange"])
    step = torch_worker.Step(told, exchange, "contiguous")
    same = torch_worker.difference(step, told, exchange)
    assert same["update_difference"] < 1e-3
    assert same["loss_difference"] < 1e-5


@pytest.mark.parametrize("name", ["transformer", "resnet"])
def test_torch_has_the_same_gradients(name, torch, fast_compile):
    from benchmarks.torch_models import Network

    makers = {"transformer": models.transformer}
    makers["resnet"] = partial(models.resnet, width=4, stages=2)
    problem = makers[name](jax.random.key(0), 2)
    arguments = problem.params, problem.inputs, problem.targets
    loss, grads = jax.jit(jax.value_and_grad(problem.loss))(*arguments)
    leaves = [np.asarray(x) for x in jax.tree.leaves(problem.params)]
    inputs, targets = np.array(problem.inputs), np.array(problem.targets)
    for channels_last in (False, True)[: 1 + (name == "resnet")]:
        network = Network(name, leaves, "cpu")
        if channels_last:
            network.use_channels_last()
        found = network.loss(network.inputs(inputs), torch.from_numpy(targets).long())
        assert found.item() == pytest.approx(float(loss), rel=1e-5)
        theirs = torch.autograd.grad(found, network.tensors)
        for ours, other in zip(jax.tree.leaves(grads), theirs, strict=True):
            wanted = network.tensor(np.asarray(ours)).numpy()
            np.testing.assert_allclose(other.numpy(), wanted, rtol=1e-2, atol=1e-4)


def test_rounds_stop_when_the_time_is_spent(monkeypatch):
    now = [0.0]

    def timed(*_):
        now[0] += 0.1
        return 0.1

    monkeypatch.setattr(measure, "timed", timed)
    monkeypatch.setattr(measure, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def rounds():
        this = Measurement({}, warm_seconds=1.0)
        measure.run_rounds([(this, None)], repeats=50, budget=Budget(0.0))
        return len(this.seconds)

    assert rounds() == 3
    monkeypatch.setattr(measure, "SHORT", 0.0)
    assert rounds() == 1


def test_ratios_pair_the_times_of_a_round():
    assert measure.ratios([2.0, 8.0, 9.0], [1.0, 2.0], times=2) == [1.25, 1.5, 1.75]
    assert measure.ratios([], [1.0]) is None


def test_collectives_of_a_program_are_counted():
    hlo = """
    ROOT %all-reduce.1 = f32[4,8]{1,0} all-reduce(%x), channel_id=1
    %all-reduce.2 = (f32[2]{0}, bf16[3]{0}) all-reduce(%x, %y), channel_id=2
    %g = s32[] all-gather-start(%x), channel_id=3
    %add = f32[4]{0} add(%all-reduce.1, %all-reduce.1)
    """
    expected = {"collectives": 3, "collective_bytes": 4 * 32 + 8 + 6 + 4}
    assert devices_worker.collectives(hlo) == expected


def test_variances_of_the_designs_are_relative_to_plain_draws(fast_compile):
    settings = variance.Settings(problems=("quadratic",), samples=(4,), draws=40)
    [found] = variance.measure_all(settings, Budget(3600))
    assert found["draws"] == 40
    [rows] = found["relative_to_plain"].values()
    assert [row["tilt_times_spread"] for row in rows] == [0.0, 0.1, 1.0, 10.0]
    for kind in "variance", "squared_error":
        of = {design: [row[kind][design] for row in rows] for design in rows[0][kind]}
        assert of["plain"] == [1.0] * 4
        assert of["antithetic"][0] == of["both"][0] == 0.0  # gradients are odd, so pairs cancel
        assert 0 < of["antithetic"][1] < 0.1 < of["antithetic"][2]
        assert min(of["orthogonal"]) > 0.5


def test_noise_is_measured_against_plain_gradients(fast_compile):
    settings = noise_part.Settings(models=("mlp_small",), samples=1, batch=2, repeats=3)
    [found] = noise_part.measure_all(settings, Budget(3600))
    plain, *laws = found["measurements"]
    assert [x["noise"] for x in laws] == list(noise_part.LAWS)
    for row in laws:
        pairs = zip(row["seconds"], plain["seconds"], strict=True)
        ratios = sorted(a / (2 * b) for a, b in pairs)
        assert row["ratio_quartiles"][1] == pytest.approx(ratios[1], rel=1e-2)
        assert len(row["cpu_seconds"]) == 3


def test_without_a_part_the_command_line_means_all():
    assert __main__.parse(["--quick"]) == ("all", everything.Settings(quick=True))
    name, settings = __main__.parse(["all", "--minutes", "3", "--parts", "sam", "noise"])
    assert (name, settings.minutes, settings.parts) == ("all", 3.0, ("sam", "noise"))
    name, settings = __main__.parse(["step", "--models", "mlp", "--samples", "3", "--quick"])
    assert (name, settings) == ("step", step.Settings(models=("mlp",), samples=(3,), quick=True))


def test_quick_models_give_way_to_those_asked_for():
    assert record.models_of(sam.Settings(), ("a",)) == sam.Settings.models
    assert record.models_of(sam.Settings(quick=True), ("a",)) == ("a",)
    assert record.models_of(sam.Settings(quick=True, models=("mlp",)), ("a",)) == ("mlp",)


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match="got stp"):
        everything.run({"step": 1}, everything.Settings(parts=("stp",)))


def test_a_part_that_fails_is_recorded_and_read_as_not_measured(tmp_path):
    assert everything.run_one(["false"], timeout=600) == "ended with 1"
    record.write(tmp_path / "sam-cpu.json", {"part": "sam", "failed": "ended with 1"})
    assert record.read("sam", "cpu", tmp_path) is None
    assert "Not measured" in render.table("sam", "cpu", tmp_path)


def test_a_part_that_is_cut_off_keeps_what_it_had(tmp_path):
    settings = record.Common(output=tmp_path / "some-cpu.json")

    def measure_all(*_):
        yield {"measurements": [1]}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record.run("some", measure_all, settings, seconds=1)
    record.cut_off(settings.output, "some", "stopped after 9 s")
    found = record.read("some", "cpu", tmp_path)
    assert found["measurements"] == [1]
    assert "stopped after 9 s" in render.warnings_of(found)


def test_work_of_others_is_seen():
    usage = machine.Usage()
    usage._now = lambda: (usage._start[0] + 10.0, usage._start[1] + 8.0, usage._start[2] + 5.0)
    assert usage.elsewhere() == 0.3


def test_a_part_writes_where_its_numbers_come_from(tmp_path):
    settings = record.Common(quick=True, output=tmp_path / "some-cpu.json")
    path = record.run("some", lambda *_: [{"found": np.float32(2.0)}], settings, seconds=1)
    written = json.loads(path.read_text())
    assert written["found"] == 2.0
    assert written["environment"]["versions"]["jax"] == jax.__version__
    assert {"commit", "clean_tree", "device_kind", "busy_elsewhere"} <= set(written["environment"])


def test_the_documentation_quotes_the_committed_results():
    pages = render.pages()
    assert render.ROOT / "benchmarks" / "README.md" in pages
    for page in pages:
        text = page.read_text()
        assert render.rendered(text, folder=page.parent) == text, (
            f"{page}: run `python -m benchmarks render`"
        )


def test_rendering_replaces_what_is_between_the_markers(tmp_path):
    text = "a\n<!-- benchmarks:sam-gpu -->\nold\n<!-- end -->\nb <!-- end -->"
    new = render.rendered(text, tmp_path)
    assert new.startswith("a\n<!-- benchmarks:sam-gpu -->\n*Not measured")
    assert new.endswith("*\n<!-- end -->\nb <!-- end -->")
    assert "old" not in new
    assert render.rendered(new, tmp_path) == new


def test_a_table_warns_of_a_busy_machine():
    where = {"processor": "P", "backend": "cpu", "cores": 2, "date": "D", "versions": {"jax": "1"}}
    where |= {"commit": "0123456789", "clean_tree": True, "busy_elsewhere": 0.31}
    found = {"part": "sam", "environment": where, "settings": {"quick": False}}
    path = Path("sam-cpu.json")
    assert render.source(found, path) == (
        "sam-cpu.json; P, 2 cores; D; jax 1; commit 012345678; others took 31% of the cores."
        " Preliminary: a busy machine."
    )
    where["busy_elsewhere"] = 0.02
    assert "Preliminary" not in render.source(found, path)


@pytest.mark.parametrize(
    ("x", "shown"), [(0.01234, "0.012"), (9.96, "10"), (12345.0, "12,000"), (None, "-"), (0, "0")]
)
def test_numbers_are_shown_without_exponents(x, shown):
    assert tables.number(x) == shown


def test_widths_give_the_wanted_parameters():
    from benchmarks.scaling import hidden_for

    for wanted in (1e4, 1e6, 1e8):
        w = hidden_for(wanted)
        assert math.isclose(784 * w + w * w + 10 * w, wanted, rel_tol=0.1)


@pytest.mark.parametrize(("column", "part"), [(1, "noise20"), (2, "noise40")])
def test_differences_of_the_cifar10_page_are_those_of_its_reports(column, part):
    folder = ROOT / "benchmarks" / "results" / "cifar10_small"
    found = dict(
        line.split(": ", 1) for line in differences.differences(folder / part / "report.json")
    )
    page = (folder / "README.md").read_text()
    rows = re.findall(r"^\| (\w+) - (\w+), (.*?) \| (.*?) \| (.*?) \|$", page, re.MULTILINE)
    assert len(rows) == 7
    epochs = {"ERM": 180, "SAM": 90, "TSAM": 30}
    for a, b, how, *quoted in rows:
        names = [f"{x.lower()}, {30 if how == '30 epochs' else epochs[x]} epochs" for x in (a, b)]
        at_end, early = found[" - ".join(names)].split("; both stopped early: ")
        assert quoted[column - 1] == (early if "early" in how else at_end), (a, b, how)
