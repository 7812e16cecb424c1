"""Checkpoints: atomic, checked, bit for bit, no pickle (orbax)."""

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from tsam_jax.train.config import ConfigError, require

LAST, BEST = "checkpoints", "best"
"""Folders of a run: its newest states, and the weights of its best epoch on the validation part."""

_FORMAT = "tsam_jax training state, 3"


class Checkpoints(contextlib.AbstractContextManager["Checkpoints"]):
    """The checkpoints in a folder of a run; the newest `keep` remain.

    A checkpoint with another identity is of another run, and rejected.
    """

    def __init__(
        self, directory: Path, identity: str, *, folder: str = LAST, keep: int = 2
    ) -> None:
        self._path = (directory / folder).resolve()
        self._meta = {"format": _FORMAT, "identity": identity}
        # In no thread of its own: an interrupt must not leave a save behind that ends later.
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
        with _read(self._path):
            self._manager = ocp.CheckpointManager(self._path, options=options)

    def __exit__(self, *error: object) -> None:
        self._manager.close()

    @property
    def steps(self) -> list[int]:
        """Steps of the kept checkpoints, ascending."""
        self._manager.reload()  # an interrupted save may have ended
        return sorted(self._manager.all_steps())

    @property
    def newest(self) -> int | None:
        """Step of the newest checkpoint, or None."""
        return max(self.steps, default=None)

    def save(self, step: int, tree: dict[str, Any]) -> None:
        """Saves a tree; an interrupted save leaves the previous checkpoint intact.

        Orbax skips a step that is not newer: a killed run that resumes from an older checkpoint
        reaches the same states, bit for bit.
        """
        path, meta = self._path / str(step), {"step": step, "digest": hash_tree(tree)} | self._meta
        args = ocp.args.Composite(state=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(meta))
        with _explained(path, "written", "; the former one is as it was", OSError):
            self._manager.save(step, args=args)

    def check(self, step: int | None = None) -> str:
        """Returns a checkpoint's hash; raises ConfigError if it is damaged or of another run."""
        step = self.newest if step is None else step
        if step is None:
            return ""
        path = self._path / str(step)
        with _read(path):
            args = ocp.args.Composite(meta=ocp.args.JsonRestore())
            meta = self._manager.restore(step, args=args)["meta"]
            digest, there = str(meta.pop("digest")), meta.pop("step")
            require(there == step, f"it is of step {there}, under another name", ValueError)
        why = f"the checkpoint {path} is of another run, or another version. Nothing was changed."
        require(meta == self._meta, f"{why} Use the options of that run, or another directory.")
        return digest

    def restore(self, like: dict[str, Any], step: int | None = None) -> Any:
        """Restores a tree like another one, by default the newest; None if there is none.

        Raises:
          ConfigError: if the checkpoint is damaged, or of another run.
        """
        step = self.newest if step is None else step
        if step is None:
            return None
        digest, target = self.check(step), jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        with _read(self._path / str(step)):
            args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
            tree = self._manager.restore(step, args=args)["state"]
            require(hash_tree(tree) == digest, "its content is not what was saved", ValueError)
        return tree


def _read(path: Path) -> contextlib.AbstractContextManager[None]:
    older = "To resume from an older one, move this folder away and resume again."
    return _explained(path, "read", f". Nothing was changed. {older}", ConfigError)


@contextlib.contextmanager
def _explained(path: Path, done: str, then: str, kind: type[Exception]) -> Iterator[None]:
    """Raises an error of a kind for any error: orbax has no class of its own for its errors."""
    before = logging.root.manager.disable
    logging.disable()  # orbax logs the traceback of what is raised below
    try:
        yield
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        msg = f"the checkpoint {path} cannot be {done} ({reason}){then}"
        raise kind(msg) from error
    finally:
        logging.disable(before)


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
