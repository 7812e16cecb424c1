"""Loading of pretrained weights from safetensors: Hugging Face transformers, torchvision, timm.

`tsam_jax.models` does not import this module, as it needs the package safetensors.
"""

import logging
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tsam_jax.models import _checkpoint_files, _names_resnet, _names_text, _names_vit
from tsam_jax.models._checkpoint_files import Checkpoint, PretrainedError
from tsam_jax.models._names import Format

__all__ = ["PretrainedError", "architecture_of", "load_pretrained"]

_log = logging.getLogger(__name__)

_TIMM = r"(resnet(18|34)|(vit|deit)_(tiny|small|base|large)_patch\d+_\d+)(\..*)?"


def load_pretrained(
    path: str | os.PathLike[str],
    *,
    num_outputs: int | None = None,
    rngs: nnx.Rngs,
    **options: Any,
) -> nnx.Module:
    """Make a model with the weights of a checkpoint, and with a new head if needed.

    Supported checkpoints, all in safetensors format (nothing is unpickled):

    - Hugging Face transformers: folders with config.json and model.safetensors, in one file or in
      shards, of BERT, DistilBERT and ViT, with or without a head.
    - timm: folders or single files of ResNet-18, ResNet-34 and ViT.
    - torchvision: single files of ResNet-18, ResNet-34 and ViT.
    - The official TSAM code: files of its ResNet and WideResNet.

    The head (the last dense layer) comes from the checkpoint if `num_outputs` is None or equals its
    number of outputs. Otherwise, or if the checkpoint has no head, the head is initialised from
    `rngs` as the architecture's `build` does. In that case, the dense layer before it (BERT's
    pooler, DistilBERT's pre_classifier) is also initialised if the checkpoint lacks it. The
    module's logger reports initialised layers at level INFO. A head without that dense layer
    belongs to another task, such as token classification, and is treated as missing.

    All other tensors of the model must exist and be finite. The checkpoint may have no further
    tensors except heads of other tasks: `cls.*`, `qa_outputs.*`, `vocab_*`, and a ViT's pooler and
    decoder. config.json is compared with the tensors before any memory is allocated.

    Args:
      path: a folder or a file.
      num_outputs: number of outputs; None to keep the checkpoint's head.
      rngs: keys for a new head and for dropout.
      **options: arguments of the architecture's `build`, such as `dtype`, `remat` and `dropout`,
        which override the checkpoint. For a ViT, `image_shape=(height, width, channels)`
        interpolates the position embeddings (bicubic with Keys' kernel, which differs slightly
        from PyTorch's). For a ViT without config.json, `heads` defaults to heads of 64 features.

    Returns:
      A model of `tsam_jax.models` in training mode, with float32 parameters. A model from Hugging
      Face transformers has the same outputs as there.

    Raises:
      PretrainedError: if a file is missing or corrupt, the architecture or one of its settings is
        not supported, or `build` rejects a value. Also if tensors are missing, unexpected, of the
        wrong shape, or not finite in float32; the message lists them.

    Cost: memory for two copies of the model.

    Example:
      >>> import tempfile
      >>> load_pretrained(tempfile.mkdtemp(), rngs=nnx.Rngs(0))  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      tsam_jax.models._checkpoint_files.PretrainedError: `load_pretrained(path=...)` must be ...
    """
    checkpoint = _checkpoint_files.read(Path(path))
    try:
        form = _format(checkpoint, options)
    except ValueError as error:
        msg = f"{checkpoint.path} cannot be loaded. {error}"
        raise PretrainedError(msg) from error
    tensors, before = checkpoint.tensors, form.before_head
    head = tensors.get(form.names[f"{form.head}/kernel"].name)
    lacks_before = before is not None and form.names[f"{before}/kernel"].name not in tensors
    outputs = None if head is None or not head.ndim or lacks_before else len(head)
    if num_outputs is None:
        num_outputs = outputs
    if num_outputs is None:
        msg = f"{checkpoint.path} has no head; pass `load_pretrained(num_outputs=...)`."
        raise PretrainedError(msg)
    made_anew: tuple[str, ...] = ()
    if num_outputs != outputs:
        made_anew = (form.head,)
        made_anew += (str(before),) if lacks_before else ()
        _log.info("%s: newly initialised: %s", checkpoint.path, ", ".join(made_anew))
    build = partial(form.build, num_outputs, **{**form.options, **options})
    try:
        shapes = nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0)))
    except ValueError as error:
        msg = f"{checkpoint.path} cannot be loaded. {error}"
        raise PretrainedError(msg) from error
    arrays = _arrays(shapes, form, made_anew, checkpoint)
    model: nnx.Module = build(rngs=rngs)
    nnx.update(model, nnx.from_flat_state(arrays))
    return model


def architecture_of(path: str | os.PathLike[str]) -> str:
    """Return the architecture of a checkpoint, such as "bert", without reading its tensors.

    Raises:
      PretrainedError: if there is no checkpoint.
    """
    config, names = _checkpoint_files.describe(Path(path))
    described = config.get("model_type") or config.get("architecture")
    if described:
        return str(described)
    return "vit" if {"conv_proj.weight", "patch_embed.proj.weight"} & names else "resnet"


def _format(checkpoint: Checkpoint, options: Mapping[str, Any]) -> Format:
    """Identifies the checkpoint's format from its config.json or else from its tensors."""
    config, tensors = checkpoint.config, checkpoint.tensors
    if config is not None and "model_type" in config:
        kind = config["model_type"]
        if kind == "bert":
            return _names_text.bert_format(config, tensors)
        if kind == "distilbert":
            return _names_text.distilbert_format(config, tensors)
        if kind == "vit":
            return _names_vit.hugging_face_format(config, tensors, options)
        msg = f"`model_type` in config.json must be 'bert', 'distilbert' or 'vit', got {kind!r}."
        raise ValueError(msg)
    architecture = (config or {}).get("architecture", "vit_base_patch16_224")
    if not isinstance(architecture, str) or not re.fullmatch(_TIMM, architecture):
        msg = (
            "`architecture` in config.json must be timm's resnet18, resnet34, vit_*_patch* or"
            f" deit_*_patch* (tiny, small, base, large), got {architecture!r}."
        )
        raise ValueError(msg)
    if "f.0_convolution.weight" in tensors:
        return _names_resnet.wide_resnet_format(tensors)
    if "patch_embed.proj.weight" in tensors:
        return _names_vit.timm_format(tensors, options)
    if "conv_proj.weight" in tensors:
        return _names_vit.torchvision_format(tensors, options)
    if {"conv1.weight", "layer1.0.conv1.weight"} <= tensors.keys():
        return _names_resnet.resnet_format(tensors)
    msg = (
        "Without a Hugging Face config.json, its tensors must be those of a supported timm,"
        f" torchvision or TSAM network, got {_listed(list(tensors), 5)}."
    )
    raise ValueError(msg)


def _arrays(
    model: nnx.Module, form: Format, made_anew: tuple[str, ...], checkpoint: Checkpoint
) -> list[tuple[Any, jax.Array]]:
    """Maps the model's paths to the checkpoint's arrays, except for initialised parts."""
    tensors = checkpoint.tensors
    variables = dict(nnx.to_flat_state(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))))
    missing, misshapen, infinite, arrays = set(), set(), set(), []
    for path, variable in variables.items():
        ours = "/".join(map(str, path))
        if ours.startswith(tuple(f"{part}/" for part in made_anew)):
            continue
        name, layout = form.names.get(ours, (f"(for {ours})", None))
        if name not in tensors:
            missing.add(name)
            continue
        array = _laid_out(layout, tensors[name])
        if array is None or array.shape != variable.shape or array.dtype != np.float32:
            given = f"{tensors[name].dtype}{list(tensors[name].shape)}"
            misshapen.add(f"{name} {given} (for {ours} {list(variable.shape)})")
        elif not np.isfinite(array).all():
            infinite.add(name)
        else:
            arrays.append((path, jnp.asarray(array, jnp.float32)))
    known = {source.name for source in form.names.values()}
    extra = {name for name in tensors if name not in known and not re.fullmatch(form.ignored, name)}
    wrong = {"missing": missing, "unexpected": extra, "of another shape or dtype": misshapen}
    wrong["not finite in float32"] = infinite
    if any(wrong.values()):
        lists = [f"{what}: {_listed(sorted(names))}" for what, names in wrong.items() if names]
        msg = (
            f"{checkpoint.path} does not fit a {type(model).__name__} with these settings."
            f" Tensors {'; '.join(lists)}."
        )
        raise PretrainedError(msg)
    return arrays


def _laid_out(layout: Any, tensor: np.ndarray) -> np.ndarray | None:
    """Returns the tensor in the model's layout, or None if its number of axes is wrong."""
    try:
        array: np.ndarray = layout(tensor)
    except (ValueError, IndexError, TypeError):
        return None
    return array


def _listed(names: list[str], most: int = 20) -> str:
    """Joins the first `most` names with commas, and counts the rest."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
