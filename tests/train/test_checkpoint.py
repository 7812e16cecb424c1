"""Checkpoints: what was saved comes back; what is damaged or foreign is refused and kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsam_jax.train.checkpoint import BEST, LAST, Checkpoints
from tsam_jax.train.config import ConfigError
from tsam_jax.train.loop import TrainState

# When one array of a checkpoint cannot be read, orbax gives up its event loop, and the reads of the
# other arrays, which end later, complain to it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def state_at(step, value=1.5):
    return TrainState(
        step=jnp.array([step]),
        key=jax.random.key(7)[None],
        params={"w": jnp.full((1, 3), value, jnp.bfloat16)},
        rest={},
        estimator=(jnp.arange(4.0)[None], jax.random.key_data(jax.random.key(1))[None]),
        base=(),
        average=(),
        broken=jnp.array([0]),
        numbers={"noise.rms": jnp.array([0.02]), "t": jnp.array([20.0])},
    )


def saved(directory, *states, identity="mine", **folder):
    with Checkpoints(directory, identity, **folder) as checkpoints:
        for state in states:
            checkpoints.save(int(state.step[0]), state._asdict())


def restored(directory, identity="mine", step=None):
    with Checkpoints(directory, identity) as checkpoints:
        return checkpoints.restore(state_at(0)._asdict(), step)


def content(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def assert_same(tree, state):
    """Bit for bit, whatever the state holds."""
    pairs = zip(
        jax.tree.leaves_with_path(tree), jax.tree.leaves_with_path(state._asdict()), strict=True
    )
    for (path, x), (other, y) in pairs:
        assert path == other
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def test_the_newest_two_come_back(tmp_path):
    saved(tmp_path, *(state_at(step, step / 4) for step in (1, 2, 3)))
    assert_same(restored(tmp_path), state_at(3, 0.75))
    assert_same(restored(tmp_path, step=2), state_at(2, 0.5))
    assert {path.name for path in (tmp_path / LAST).iterdir()} == {"2", "3"}
    with Checkpoints(tmp_path, "mine") as checkpoints:
        assert checkpoints.newest == 3
        assert checkpoints.steps == [2, 3]


def test_no_checkpoint_is_none(tmp_path):
    assert restored(tmp_path) is None
    with Checkpoints(tmp_path, "mine") as checkpoints:
        assert checkpoints.newest is None
        assert checkpoints.steps == []


def test_a_state_that_is_not_newer_is_not_saved(tmp_path):
    saved(tmp_path, state_at(3, 1.0))
    saved(tmp_path, state_at(2, 2.0), state_at(3, 2.0))
    assert_same(restored(tmp_path), state_at(3, 1.0))


def test_the_best_folder_keeps_one(tmp_path):
    saved(tmp_path, state_at(1), state_at(4), folder=BEST, keep=1)
    assert [path.name for path in (tmp_path / BEST).iterdir()] == ["4"]


def test_the_best_folder_has_weights_alone(tmp_path):
    weights = {"params": state_at(0).params, "rest": {"mean": jnp.arange(3.0)}}
    with Checkpoints(tmp_path, "mine", folder=BEST, keep=1) as checkpoints:
        checkpoints.save(7, weights)
        found = checkpoints.restore(jax.tree.map(jnp.zeros_like, weights))
    jax.tree.map(np.testing.assert_array_equal, found, weights)


def test_a_checkpoint_is_checked_without_reading_its_arrays(tmp_path):
    saved(tmp_path, state_at(3), identity="another")
    with (
        Checkpoints(tmp_path, "mine") as checkpoints,
        pytest.raises(ConfigError, match="is of another run"),
    ):
        checkpoints.check(3)
    with Checkpoints(tmp_path, "another") as checkpoints:
        assert len(checkpoints.check(3)) == 64


def refused(directory, match, identity="mine"):
    before = content(directory)
    with pytest.raises(ConfigError, match=match) as stopped:
        restored(directory, identity)
    assert "Nothing was changed" in str(stopped.value)
    assert content(directory) == before


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    saved(tmp_path, state_at(3), identity="another")
    refused(tmp_path, "is of another run")


def data_files(directory):
    files = [path for path in directory.rglob("*") if path.is_file()]
    return [path for path in files if "/d/" in str(path)]


def test_a_damaged_checkpoint_is_refused(tmp_path):
    saved(tmp_path, state_at(3))
    files = data_files(tmp_path / LAST)
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[:-7])
    refused(tmp_path, "cannot be read")


def test_a_missing_file_is_refused(tmp_path):
    saved(tmp_path, state_at(3))
    next((tmp_path / LAST / "3").rglob("_METADATA")).unlink()
    refused(tmp_path, "cannot be read")


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / LAST / "5").mkdir(parents=True)
    (tmp_path / LAST / "5" / "notes.txt").write_text("mine")
    refused(tmp_path, "cannot be read")


def test_content_that_is_not_what_was_saved_is_refused(tmp_path):
    """Two states of the same form whose data were exchanged: each is readable."""
    saved(tmp_path / "a", state_at(3, 1.0))
    saved(tmp_path / "b", state_at(3, 2.0))
    (tmp_path / "a" / LAST / "3" / "state").rename(tmp_path / "old")
    (tmp_path / "b" / LAST / "3" / "state").rename(tmp_path / "a" / LAST / "3" / "state")
    refused(tmp_path / "a", "its content is not what was saved")
