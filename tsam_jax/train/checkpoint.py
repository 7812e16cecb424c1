"""Checkpoints of a training state: atomic, bit for bit, no pickle (orbax)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from tsam_jax.train.loop import TrainState


class Checkpoints:
    """The checkpoints of one run.

    Args:
      manager: the orbax manager of the run's directory.
    """

    def __init__(self, manager: ocp.CheckpointManager) -> None:
        self._manager = manager

    def save(self, state: TrainState) -> None:
        """Saves a state under its epoch; a save that is cut off leaves the former one in force."""
        args = ocp.args.Composite(state=ocp.args.StandardSave(state._asdict()))
        self._manager.save(int(state.epoch.ravel()[0]), args=args)
        # The next round is given the state's buffers, which an unfinished save may still read.
        self._manager.wait_until_finished()

    def restore(self, like: TrainState) -> TrainState | None:
        """The newest state, or None if there is none; `like` gives structure, shapes, dtypes."""
        epoch = self._manager.latest_step()
        if epoch is None:
            return None
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like._asdict())
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        return TrainState(**self._manager.restore(epoch, args=args)["state"])


@contextmanager
def open_checkpoints(directory: Path) -> Iterator[Checkpoints]:
    """Opens the checkpoints of a run, keeping the newest two.

    Args:
      directory: the run's directory; they go to `checkpoints` in it.

    Yields:
      `Checkpoints`; when it closes, all saves are finished.
    """
    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    path = (directory / "checkpoints").resolve()
    with ocp.CheckpointManager(path, options=options) as manager:
        yield Checkpoints(manager)
