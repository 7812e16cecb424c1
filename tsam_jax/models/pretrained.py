"""Loads pretrained weights from safetensors files of Hugging Face transformers, torchvision, timm.

Imported on request, as it needs safetensors.
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
    """Makes a model with the weights of a checkpoint, and a new head if it has to have one.

    Which checkpoints: folders of Hugging Face transformers (config.json and model.safetensors, in
    one file or in shards) of BERT, DistilBERT and ViT, with or without a head; folders of timm,
    or single safetensors files of timm or torchvision, of ResNet-18, ResNet-34 and ViT; and
    safetensors files of the official TSAM code's ResNet and WideResNet. Nothing is unpickled.

    The head (the last dense layer) is the checkpoint's if `num_outputs` is None or the number of
    its outputs. For any other number, or where the checkpoint has none, it is made anew, from
    `rngs`, as the architecture's `build` does; so is the dense layer before it (BERT's pooler,
    DistilBERT's pre_classifier) if the checkpoint lacks that too. The logger of this module says
    so, at level INFO. A head without that layer is the head of another task, such as the labelling
    of tokens, and counts as none. All else must be there and finite, and nothing more, except the
    heads of other tasks: `cls.*`, `qa_outputs.*`, `vocab_*`, and a ViT's pooler and decoder.
    config.json is compared with the tensors before anything is allocated.

    Args:
      path: a folder or a file.
      num_outputs: number of outputs; None for those of the checkpoint's head.
      rngs: a new head, and the keys of dropout.
      **options: arguments of the architecture's `build`, such as `dtype`, `remat` and `dropout`, in
        place of what the checkpoint says. `image_shape=(height, width, channels)` for a ViT has
        the positions' vectors interpolated (bicubic, by Keys' kernel; PyTorch's differs a little
        from it). `heads` for a ViT without config.json: heads of 64 features are taken for
        granted.

    Returns:
      A model of `tsam_jax.models`, in training mode, with float32 parameters. A Hugging Face model
      gives the outputs that it gives there.

    Raises:
      PretrainedError: if a file is missing or corrupt, the architecture is another one or has
        settings that are not supported, or tensors are missing, too many, of another shape, or
        not finite in float32: they are listed; or if `build` rejects a value.

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
        msg = f"{checkpoint.path} has no head: say `load_pretrained(num_outputs=...)`."
        raise PretrainedError(msg)
    made_anew: tuple[str, ...] = ()
    if num_outputs != outputs:
        made_anew = (form.head,)
        made_anew += (str(before),) if lacks_before else ()
        _log.info("%s: made anew, untrained: %s", checkpoint.path, ", ".join(made_anew))
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
    """Returns the architecture of a checkpoint, "bert" or "resnet18" say, without its tensors.

    Raises:
      PretrainedError: if there is no checkpoint.
    """
    config, names = _checkpoint_files.describe(Path(path))
    described = config.get("model_type") or config.get("architecture")
    if described:
        return str(described)
    return "vit" if {"conv_proj.weight", "patch_embed.proj.weight"} & names else "resnet"


def _format(checkpoint: Checkpoint, options: Mapping[str, Any]) -> Format:
    """Finds out what the checkpoint is, by its config.json or else by its tensors."""
    config, tensors = checkpoint.config, checkpoint.tensors
    if config is not None and "model_type" in config:
        kind = config["model_type"]
        if kind == "bert":
            return _names_text.bert_format(config, tensors)
        if kind == "distilbert":
            return _names_text.distilbert_format(config, tensors)
        if kind == "vit":
            return _names_vit.hugging_face_format(config, tensors, options)
        msg = f"Its `model_type` is {kind!r}; supported are 'bert', 'distilbert' and 'vit'."
        raise ValueError(msg)
    architecture = (config or {}).get("architecture", "vit_base_patch16_224")
    if not isinstance(architecture, str) or not re.fullmatch(_TIMM, architecture):
        msg = (
            f"Its `architecture` is {architecture!r}; of timm's, resnet18, resnet34 and"
            " vit_*_patch* and deit_*_patch* (tiny, small, base, large) are supported."
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
        "Its tensors are those of no architecture that is supported without a Hugging Face"
        f" config.json beside them: they are named {_listed(list(tensors), 5)}."
    )
    raise ValueError(msg)


def _arrays(
    model: nnx.Module, form: Format, made_anew: tuple[str, ...], checkpoint: Checkpoint
) -> list[tuple[Any, jax.Array]]:
    """The checkpoint's arrays by the model's paths, but for the parts that are made anew."""
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
    wrong = {"missing": missing, "too many": extra, "of another shape or type": misshapen}
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
    """The tensor in our layout, or None if it has another number of axes."""
    try:
        array: np.ndarray = layout(tensor)
    except (ValueError, IndexError, TypeError):
        return None
    return array


def _listed(names: list[str], most: int = 20) -> str:
    """The names with commas, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
