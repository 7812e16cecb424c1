"""Checkpoints of a training state: atomic, checked, bit for bit, no pickle (orbax)."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from tsam_jax.train.config import ConfigError
from tsam_jax.train.loop import TrainState

LAST, BEST = "checkpoints", "best"
"""Folders of a run: its newest states, and its best one on the validation part."""

_FORMAT = "tsam_jax training state, 1"


class Checkpoints:
    """The checkpoints of one folder.

    Args:
      manager: the orbax manager of the folder.
      identity: what tells the run from others; a checkpoint of another run is refused.
    """

    def __init__(self, manager: ocp.CheckpointManager, identity: str) -> None:
        self._manager, self._identity = manager, identity

    @property
    def newest(self) -> int | None:
        """The step of the newest checkpoint; None if there is none."""
        step: int | None = self._manager.latest_step()
        return step

    @property
    def steps(self) -> list[int]:
        """The steps of the checkpoints that are kept, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState) -> None:
        """Saves a state under its step; a save that is cut off leaves the former one in force.

        A state that is older than the newest one is not saved: a run that was killed, and goes on
        from an older checkpoint, comes back to the same states, bit for bit.
        """
        step = int(state.step.ravel()[0])
        if self.newest is not None and self.newest >= step:
            return
        tree = state._asdict()
        meta = {"format": _FORMAT, "identity": self._identity, "digest": _digest(tree)}
        args = ocp.args.Composite(state=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(meta))
        self._manager.save(step, args=args)
        # The next round is given the state's buffers, which an unfinished save may still read.
        self._manager.wait_until_finished()

    def check(self, step: int) -> str:
        """Reads what a checkpoint says of itself.

        Args:
          step: which one.

        Returns:
          The hash of its state.

        Raises:
          ConfigError: if it is damaged, or of another run.
        """
        path, args = self._path(step), ocp.args.Composite(meta=ocp.args.JsonRestore())
        try:
            meta = self._manager.restore(step, args=args)["meta"]
            found, identity, digest = meta["format"], meta["identity"], meta["digest"]
        except Exception as error:  # orbax has no class of its own for what it cannot read
            raise ConfigError(_damaged(path, error)) from error
        if (found, identity) != (_FORMAT, self._identity):
            msg = (
                f"the checkpoint {path} is of another run, or another version. Nothing was changed."
                " Put the config.json back that belongs to it, or move the folder away."
            )
            raise ConfigError(msg)
        return str(digest)

    def _path(self, step: int) -> Path:
        return Path(self._manager.directory) / str(step)

    def restore(self, like: TrainState, step: int | None = None) -> TrainState | None:
        """Reads a state back, and changes nothing.

        Args:
          like: a state with the same structure, shapes and dtypes.
          step: which one; default: the newest.

        Returns:
          The state, or None if there is no checkpoint.

        Raises:
          ConfigError: if the checkpoint is damaged, or of another run.
        """
        step = self.newest if step is None else step
        if step is None:
            return None
        path, digest = self._path(step), self.check(step)
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like._asdict())
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        try:
            tree = self._manager.restore(step, args=args)["state"]
        except Exception as error:
            raise ConfigError(_damaged(path, error)) from error
        if _digest(tree) != digest:
            raise ConfigError(_damaged(path, "its content is not what was saved"))
        return TrainState(**tree)


@contextmanager
def open_checkpoints(
    directory: Path, identity: str = "", *, folder: str = LAST, keep: int = 2
) -> Iterator[Checkpoints]:
    """Opens the checkpoints of a run.

    Args:
      directory: the run's directory.
      identity: what tells the run from others.
      folder: `LAST` or `BEST`, in it.
      keep: how many of the newest are kept.

    Yields:
      `Checkpoints`; when it closes, all saves are finished.

    Raises:
      ConfigError: if the folder cannot be read.
    """
    options = ocp.CheckpointManagerOptions(max_to_keep=keep)
    path = (directory / folder).resolve()
    try:
        manager = ocp.CheckpointManager(path, options=options)
    except (OSError, ValueError) as error:
        raise ConfigError(_damaged(path, error)) from error
    with manager:
        yield Checkpoints(manager, identity)


def _damaged(path: Path, error: object) -> str:
    reason = (str(error) or type(error).__name__).splitlines()[0][:200]
    return (
        f"the checkpoint {path} cannot be read ({reason}). Nothing was changed. To go on from an"
        " older one, move this folder away and resume again."
    )


def _digest(tree: Any) -> str:
    """A hash of every bit of a state, with names, dtypes and shapes."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(tree):
        key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.ascontiguousarray(jax.random.key_data(leaf) if key else leaf)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        digest.update(f"{name} {leaf.dtype} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
