"""Checkpoints: atomic, checked, bit for bit, no pickle (orbax)."""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from tsam_jax.train.config import ConfigError

LAST, BEST = "checkpoints", "best"
"""Folders of a run: its newest states, and the weights of its best epoch on the validation part."""

_FORMAT = "tsam_jax training state, 2"


class Checkpoints:
    """The checkpoints of one folder.

    Args:
      manager: the orbax manager of the folder.
      identity: identifies the run; a checkpoint with another identity is rejected.
    """

    def __init__(self, manager: ocp.CheckpointManager, identity: str) -> None:
        self._manager, self._identity = manager, identity

    @property
    def newest(self) -> int | None:
        """Step of the newest checkpoint, or None."""
        step: int | None = self._manager.latest_step()
        return step

    @property
    def steps(self) -> list[int]:
        """Steps of the kept checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, tree: dict[str, Any]) -> None:
        """Saves a tree; an interrupted save leaves the previous checkpoint intact.

        A step that is not newer is skipped: a killed run that resumes from an older checkpoint
        reaches the same states, bit for bit.
        """
        if self.newest is not None and self.newest >= step:
            return
        meta = {"format": _FORMAT, "identity": self._identity, "step": step}
        meta["digest"] = hash_tree(tree)
        args = ocp.args.Composite(state=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(meta))
        before = logging.root.manager.disable
        logging.disable()  # orbax logs the traceback of what is raised below
        try:
            self._manager.save(step, args=args)
            # The next round is given the state's buffers, which an unfinished save may still read.
            self._manager.wait_until_finished()
        except Exception as error:  # orbax has no class of its own for what it cannot write
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            msg = f"the checkpoint {self._path(step)} cannot be written ({reason})"
            msg += "; the former one is as it was"
            raise OSError(msg) from error
        finally:
            logging.disable(before)

    def check(self, step: int) -> str:
        """Returns a checkpoint's hash; raises ConfigError if it is damaged or of another run."""
        path, args = self._path(step), ocp.args.Composite(meta=ocp.args.JsonRestore())
        try:
            meta = self._manager.restore(step, args=args)["meta"]
            found, identity, digest = meta["format"], meta["identity"], meta["digest"]
            moved = meta["step"] != step
        except Exception as error:  # orbax has no class of its own for what it cannot read
            raise ConfigError(_damaged(path, error)) from error
        if moved:
            raise ConfigError(_damaged(path, f"it is of step {meta['step']}, under another name"))
        if (found, identity) != (_FORMAT, self._identity):
            msg = (
                f"the checkpoint {path} is of another run, or another version. Nothing was changed."
                " Use the same options as for that run, or another directory."
            )
            raise ConfigError(msg)
        return str(digest)

    def restore(self, like: dict[str, Any], step: int | None = None) -> dict[str, Any] | None:
        """Restores a tree; the files do not change.

        Args:
          like: a tree with the same structure, shapes and dtypes.
          step: which one; default: the newest.

        Returns:
          The tree, or None if there is no checkpoint.

        Raises:
          ConfigError: if the checkpoint is damaged, or of another run.
        """
        step = self.newest if step is None else step
        if step is None:
            return None
        path, digest = self._path(step), self.check(step)
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        try:
            tree: dict[str, Any] = self._manager.restore(step, args=args)["state"]
        except Exception as error:
            raise ConfigError(_damaged(path, error)) from error
        if hash_tree(tree) != digest:
            raise ConfigError(_damaged(path, "its content is not what was saved"))
        return tree

    def _path(self, step: int) -> Path:
        return Path(self._manager.directory) / str(step)


@contextmanager
def open_checkpoints(
    directory: Path, identity: str = "", *, folder: str = LAST, keep: int = 2
) -> Iterator[Checkpoints]:
    """Opens the checkpoints of a run; on exit all saves are finished.

    Args:
      directory: the run's directory.
      identity: identifies the run.
      folder: `LAST` or `BEST`, in it.
      keep: how many of the newest are kept.

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
        f"the checkpoint {path} cannot be read ({reason}). Nothing was changed. To resume from an"
        " older one, move this folder away and resume again."
    )


def hash_tree(tree: Any, before: str = "") -> str:
    """A hash of a text and of every bit of a tree, with names, dtypes and shapes."""
    digest = hashlib.sha256(before.encode())
    for path, leaf in jax.tree.leaves_with_path(tree):
        key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.ascontiguousarray(jax.random.key_data(leaf) if key else leaf)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        digest.update(f"{name} {leaf.dtype} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
