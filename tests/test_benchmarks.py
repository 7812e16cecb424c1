"""The benchmarks run, their arithmetic is right, and the pages quote the committed records."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _site import records as results  # notebooks/_site

from benchmarks import __main__ as campaign
from benchmarks import models, record, steps, tables
from benchmarks.steps import Measurement
from tsam_jax import cli, sharpness_aware
from tsam_jax.commands import study
from tsam_jax.train import settings

ROOT = Path(__file__).parents[1]
TOLD = {"model": "small-mlp", "batch": 4, "dtype": "float32", "s": 2, "seconds": 0.0}
CPU = {"backend": "cpu", "device_kind": "cpu", "devices": 1, "cores": 2, "processor": "P"}


@pytest.fixture(scope="module")
def step():
    kinds = ["sam", "tsam-streamed", "tsam-unrolled", "tsam-jax.random"]
    return list(steps.step({**TOLD, "methods": kinds, "seconds": 600}))


def test_steps_are_measured_against_their_count_of_gradients(step):
    plain, sam, *tilted = step[-1]["programs"]
    assert plain["over_gradients"] == [1.0, 1.0, 1.0]
    assert (sam["method"], sam["gradients"]) == ("sam", 2)
    assert [x["method"] for x in tilted] == ["tsam-streamed", "tsam-unrolled", "tsam-jax.random"]
    for this in tilted:
        assert this["outcome"] == "measured"
        assert this["compile_seconds"] > 0
        pairs = zip(this["seconds"], plain["seconds"], strict=True)
        ratios = sorted(a / (4 * b) for a, b in pairs)
        middle = ratios[len(ratios) // 2]
        assert this["over_gradients"][1] == pytest.approx(middle, rel=1e-2)


def test_the_strategy_that_auto_picks_is_found_by_its_program(step):
    assert step[-1]["auto"] == "tsam-streamed"


def test_a_measurement_that_is_cut_off_has_what_it_had(step):
    assert [x["outcome"] for x in step[:-1]] == ["unfinished"] * (len(step) - 1)
    assert step[0]["programs"][0]["compile_seconds"] > 0
    assert len(step[-2]["programs"][1]["seconds"]) == steps.MOST_ROUNDS


def test_the_table_of_steps_shows_the_ratios(step):
    row = {"labels": {"model": "m", "batch": 4, "dtype": "d", "s": 2, "methods": []}, **step[-1]}
    line = tables.markdown(tables.step, [row]).splitlines()[4]
    assert line.startswith('| `m`, 4, d | tsam-streamed ("auto") | 2 |')
    assert f" {tables.spread(step[-1]['programs'][2]['over_gradients'])} |" in line
    costs = [x["gradients"] * x["over_gradients"][1] for x in step[-1]["programs"][1:3]]
    shown = " | ".join(f"{tables.number(cost, digits=2)} gradients" for cost in costs)
    line = tables.markdown(tables.headline, [row]).splitlines()[-1]
    assert line.endswith(f" ms | {shown} |")


def test_rows_of_failures_have_the_reason():
    row = {"labels": {"model": "m", "batch": 4}, "outcome": "failed: out of memory"}
    assert (
        tables.markdown(tables.sam, [row]).splitlines()[-1] == "| `m`, 4 | failed: out of memory |"
    )


def test_a_table_warns_of_a_busy_machine():
    row = {"date": "D", "versions": {"jax": "1"}, "commit": "0123456789", "clean_tree": True}
    row |= {"busy_elsewhere": 0.31, "small": False}
    found = {"part": "sam", "machine": CPU, "rows": [row, {**row, "clean_tree": False}]}
    assert tables.source(found, ROOT / "sam-cpu.json") == (
        "[sam-cpu.json](sam-cpu.json); P, 2 cores; D; jax 1; commit 012345678 and 012345678 with"
        " changes; others took up to 31% of the cores. Preliminary: a busy machine."
    )
    row["busy_elsewhere"] = 0.02
    assert "Preliminary" not in tables.source({**found, "rows": [row]}, ROOT / "sam-cpu.json")


def test_a_missed_target_is_bold():
    assert tables.spread([0.9, 1.004, 1.1], 1.0) == "1.00 of 1.0 (0.90 to 1.10)"
    assert tables.spread([0.9, 1.01, 1.1], 1.0) == "**1.01** of 1.0 (0.90 to 1.10)"


@pytest.mark.parametrize(
    ("x", "shown"),
    [(0.01234, "0.0123"), (99.96, "100"), (12345.0, "12,300"), (None, "-"), (0, "0")],
)
def test_numbers_are_shown_without_exponents(x, shown):
    assert tables.number(x) == shown


def test_memory_is_planned_by_the_program():
    [plain] = steps.memory({**TOLD, "method": "gradient"})
    [tilted] = steps.memory({**TOLD, "method": "tsam-streamed"})
    assert plain["parameter_bytes"] == 4 * (784 * 24 + 24 + 24 * 10 + 10)
    assert tilted["planned_bytes"] > plain["planned_bytes"] > plain["parameter_bytes"]


def test_sam_is_compared_at_the_same_numbers():
    [found] = steps.sam(TOLD)
    assert found["difference"] < 1e-4
    assert [x["by"] for x in found["programs"]] == ["tsam_jax", "optax.contrib.sam"]
    assert found["programs"][-1]["over_optax"] == [1.0, 1.0, 1.0]


def test_collectives_of_a_program_are_counted():
    hlo = """
    ROOT %all-reduce.1 = f32[4,8]{1,0} all-reduce(%x), channel_id=1
    %all-reduce.2 = (f32[2]{0}, bf16[3]{0}) all-reduce(%x, %y), channel_id=2
    %g = s32[] all-gather-start(%x), channel_id=3
    %h = s32[] all-gather-done(%g), channel_id=3
    %add = f32[4]{0} add(%all-reduce.1, %all-reduce.1)
    """
    assert len(steps.COLLECTIVE.findall(hlo)) == 3


@pytest.mark.slow
def test_devices_share_the_work():
    virtual = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    found = record.ask("steps", {**TOLD, "part": "devices"}, 600, **virtual)
    sample, data = found["programs"]
    assert (sample["axis"], data["axis"]) == ("sample", "data")
    assert sample["flops"] < 0.8 * data["flops"]  # both draw the noise of each of their samples
    assert min(sample["collectives"], data["collectives"]) > 0


@pytest.mark.parametrize("name", ["mlp", "bert-tiny", "small-resnet", "plain-mlp"])
def test_models_have_float32_parameters_and_compute_in_a_dtype(name):
    problem = models.build({"model": name, "batch": 2, "dtype": "bfloat16"})
    arguments = problem.params, problem.inputs, problem.targets
    loss, grads = jax.eval_shape(jax.value_and_grad(problem.loss), *arguments)
    assert (loss.shape, loss.dtype) == ((), jnp.float32)
    assert {x.dtype.name for x in jax.tree.leaves(grads)} == {"float32"}
    assert "bf16" in str(jax.make_jaxpr(problem.loss)(*arguments))


def test_the_models_of_the_lists_exist():
    assert set(campaign.ON_GPU) | set(campaign.MODELS) <= {*models.ZOO, *models.PLAIN}
    with pytest.raises(ValueError, match="`--models` must be of plain-mlp"):
        models.build({"model": "mpl", "batch": 1})


def test_every_method_of_the_library_can_be_measured():
    methods = models.methods.METHODS
    assert {models.make(name).cost.gradients for name in methods} >= {1, 2, 6}


@pytest.mark.parametrize("name", ["mlp", "resnet", "wrn", "vit", "bert"])
def test_torch_has_the_same_gradients_and_makes_the_same_step(name, tmp_path):
    torch = pytest.importorskip("torch")
    from benchmarks import torch_side

    torch.set_num_threads(1)  # several wait for each other in vain on a busy machine
    told = {**TOLD, **steps.STEP, "model": f"small-{name}"}
    told["exchange"] = str(tmp_path / "exchange.npz")
    optimizer = sharpness_aware(optax.sgd(told["lr"]), models.make("tsam", told["s"]))
    told |= steps.write_exchange(told, optimizer)
    exchange = np.load(told["exchange"])
    for layout in ("contiguous", "channels_last"):
        found = torch_side.differences(torch_side.Side(told, exchange, layout), exchange)
        assert found["gradient_difference"] < 1e-5
        assert found["update_difference"] < 1e-3


def test_rounds_stop_when_the_time_is_spent(monkeypatch):
    now = [0.0]

    def timed(*_):
        now[0] += 0.1
        return 0.1

    monkeypatch.setattr(steps, "timed", timed)
    monkeypatch.setattr(steps.time, "monotonic", lambda: now[0])

    def count(seconds):
        this = Measurement({}, warm_seconds=1.0)
        for _ in steps.rounds(seconds):
            steps.take_turns([(this, None)])
        return len(this.seconds)

    assert (count(0.0), count(1.0), count(9.0)) == (3, 10, steps.MOST_ROUNDS)


def test_ratios_pair_the_times_of_a_round():
    assert steps.ratios([2.0, 8.0, 9.0], [1.0, 2.0], times=2) == [1.25, 1.5, 1.75]
    assert steps.ratios([1.0], [2.0]) == [0.5, 0.5, 0.5]
    assert steps.ratios([], [1.0]) is None


HERE = {"date": "D", "versions": {"jax": "1"}, "commit": "c", "clean_tree": True}


def test_a_record_has_one_row_for_each_label_of_one_machine(tmp_path):
    records = record.Records("sam", CPU, tmp_path)
    for labels, outcome in (({"a": 1}, "failed: x"), ({"a": 2}, "measured"), ({"a": 1}, "failed")):
        records.add({"labels": labels, "outcome": outcome, **HERE})
    again = record.Records("sam", CPU, tmp_path)
    assert [x["labels"]["a"] for x in again.rows] == [2, 1]
    assert again.done({"a": 2}, {**HERE, "commit": "d"})
    assert again.done({"a": 1}, HERE)
    assert not again.done({"a": 1}, {**HERE, "commit": "d"})  # failed, and the code is another
    assert not again.done({"a": 2}, {**HERE, "versions": {"jax": "2"}})
    assert record.Records("sam", {**CPU, "cores": 4}, tmp_path).rows == []
    gpu = {**CPU, "backend": "gpu", "device_kind": "NVIDIA H100 80GB HBM3"}
    assert record.Records("sam", gpu, tmp_path).path.name == "sam-nvidia-h100-80gb-hbm3.json"


def test_a_worker_that_fails_leaves_the_reason():
    told = {**TOLD, "part": "memory", "model": "none"}
    assert "must be of plain-mlp" in record.ask("steps", told, 600)["outcome"]
    assert record.ask("steps", told, 0)["outcome"] == "failed: took too long"


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """(minutes) -> the cells of the small campaign for a GPU that one call measures, 10 s each."""
    now, seen = [0.0], []

    def fake(part, labels, left, settings):
        seen.append((part, labels))
        now[0] += 10.0
        return {"outcome": "measured", "programs": []}

    monkeypatch.setattr(campaign, "measure", fake)
    monkeypatch.setattr(campaign.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(record, "ask", lambda *_, **__: {**CPU, "outcome": "measured"})

    def call(minutes, *options):
        seen.clear()
        words = ["gpu", "--minutes", str(minutes), "--results", str(tmp_path), *options]
        campaign.main(campaign.parse(words))
        return list(seen)

    return call


def test_the_next_call_goes_on_where_the_time_was_spent(measured):
    cells = list(campaign.parse(["gpu"]).cells())
    assert measured(1.5) == cells[:7]  # 10 s each; none is begun in the last third
    assert measured(600) == cells[7:]
    assert measured(600) == []
    assert measured(600, "--again") == cells


def test_the_campaign_is_in_order_of_worth():
    cells = list(campaign.parse(["gpu"]).cells())
    parts = [part for part, _ in cells]
    assert parts[:2] == ["step", "torch"]
    assert parts.index("torch") < parts.index("memory") < parts.index("train")
    first = cells[0][1]
    assert (first["model"], first["batch"], first["dtype"]) == ("resnet18", 64, "float32")
    kinds = {"streamed", "unrolled", "vectorized", "jax.random"}
    assert {x.removeprefix("tsam-") for x in first["methods"]} == kinds | {"sam"}
    of = {tuple(labels.values())[:3] for part, labels in cells if part == "torch"}
    assert len(of) == 4 * 2 * 2


@pytest.mark.parametrize("words", [campaign.REHEARSAL, *campaign.studies(Path("D")).values()])
def test_studies_of_the_campaign_are_commands_that_exist(words, monkeypatch):
    seen = []
    monkeypatch.setattr(study.Study, "run", lambda self, console: seen.append(self) or 0)
    assert cli.main(["study", *words.split()]) == 0
    assert seen[0].seeds == 5
    assert [settings.parse(x) for x in seen[0].methods]


def test_methods_of_the_campaign_have_equal_epochs_and_then_equal_gradients():
    found = [settings.parse(text)[0] for text in campaign.methods(5, 0.01, 0.001).split()[3:]]
    epochs = [one.overrides["budget"] / one.price for one in found]
    assert epochs == [5] * 7 + [30, 15]
    assert {one.overrides["budget"] for one in found[3:]} == {30}


@pytest.mark.slow
def test_the_campaign_is_rehearsed(tmp_path):
    """Everything in processes of its own, as on a GPU, but with small models."""
    command = [sys.executable, "-m", "benchmarks", "gpu", "--small", "--results", str(tmp_path)]
    env = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {x.stem: json.loads(x.read_text())["rows"] for x in tmp_path.glob("*.json")}
    assert set(found) == {"step-cpu", "torch-cpu", "memory-cpu", "train-cpu"}
    for part, rows in found.items():
        for row in rows:
            missing = part == "torch-cpu" and "not installed" in row["outcome"]
            assert row["outcome"] == "measured" or missing, (part, row)
    assert found["train-cpu"][0]["rows"][0]["final"]["test_accuracy"] > 0.1
    text = "\n".join(f"<!-- benchmarks:{kind}-cpu -->\n<!-- end -->" for kind in tables.TABLES)
    assert "a small run" in tables.rendered(text, tmp_path)
    again = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert "measured" not in again.stdout  # there is nothing left to do


def test_a_study_without_its_data_fails_with_the_reason(tmp_path):
    words = ["--dataset", f"npz:{tmp_path / 'none.npz'}", "--methods", "erm"]
    found = campaign.train(words, {"study": "x", "shard": "1/1"}, 600, tmp_path)
    assert found["outcome"].startswith("failed: ")
    assert "none.npz" in found["outcome"]


def test_the_pages_quote_the_committed_records():
    pages = tables.pages()
    assert ROOT / "benchmarks" / "README.md" in pages
    for page in pages:
        text = page.read_text()
        assert tables.rendered(text, folder=page.parent) == text, (
            f"{page}: run `python -m benchmarks render`"
        )


def test_rendering_replaces_what_is_between_the_markers(tmp_path):
    text = "a\n<!-- benchmarks:sam-gpu -->\nold\n<!-- end -->\nb <!-- end -->"
    new = tables.rendered(text, tmp_path)
    assert new.startswith(
        "a\n<!-- benchmarks:sam-gpu -->\n*Not measured: `python -m benchmarks gpu"
    )
    assert new.endswith("*\n<!-- end -->\nb <!-- end -->")
    assert tables.rendered(new, tmp_path) == new


def test_the_suite_is_small():
    files = sorted((ROOT / "benchmarks").glob("*.py"))
    assert len(files) <= 10
    assert sum(len(path.read_text().splitlines()) for path in files) <= 1200


def test_the_results_pages_quote_the_committed_records():
    pages = [page for page in results.PAGES if results.BLOCK.search(page.read_text())]
    assert len(pages) >= 3
    for page in pages:
        text = page.read_text()
        assert results.rendered(text) == text, f"{page}: run `python notebooks/_site/records.py`"


def test_a_table_of_results_has_means_intervals_and_differences_within_seeds():
    def row(method, seed, last, best):
        curve = {"step_effective_sample_size": [1.0, 2.0]}
        found = {"method": method, "setting": f"{method}(a=1)", "arguments": {"a": "1"}}
        at = {"final": {"test_accuracy": last}, "best": {"test_accuracy": best}}
        return found | at | {"seed": seed, "curve": curve if method == "tsam" else {}}

    rows = [row("erm", 0, 0.5, 0.6), row("erm", 1, 0.7, 0.6), row("tsam", 1, 0.8, 0.9)]
    rows += [row("tsam", 0, 0.58, 0.8)]  # not in the order of the seeds
    report = {"study": {"settings": ["erm(a=1)", "tsam(a=1)"]}, "rows": rows}
    headings, _, erm, tsam = results.lines(report, ["test", "early", "test-1", "ess"])
    assert headings[3] == "test - ERM"
    # Student's t with one degree of freedom: 12.706; half widths are 12.706 s / sqrt(2).
    assert erm == ["`erm(a=1)`", "60.0 ± 127.1", "60.0", "", "-"]
    assert tsam == ["`tsam(a=1)`", "69.0 ± 139.8", "85.0 ± 63.5", "+9.0 ± 12.7", "1.50"]


def test_what_pages_say_of_differences_stands_in_the_tables_of_results():
    number = re.compile(r"\d+\.\d+ ± \d+\.\d+")
    guides = [ROOT / "notebooks" / name for name in ("when.md", "guides/choosing_settings.md")]
    lines = [line for page in results.PAGES for line in page.read_text().splitlines()]
    known = {x for line in lines if line.startswith("| `") for x in number.findall(line)}
    lines += [x for page in (*guides, ROOT / "README.md") for x in page.read_text().splitlines()]
    said = [x for line in lines if not line.startswith("| `") for x in number.findall(line)]
    assert len(said) >= 30
    assert set(said) - known == set()
