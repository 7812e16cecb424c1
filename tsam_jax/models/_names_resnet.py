"""Checkpoints of residual networks: torchvision, timm and the official TSAM code."""

import re
from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np

from tsam_jax.models import resnet, wide_resnet
from tsam_jax.models._names import Format, Names, batch_norm, convolution, dense


def resnet_format(tensors: Mapping[str, np.ndarray]) -> Format:
    """Format of a ResNet-18 or 34, identified by its tensors.

    The official code's CIFAR networks have tensors "shortcut" and "linear"; torchvision's have
    "downsample" and "fc".

    Args:
      tensors: the checkpoint's tensors.

    Returns:
      The format.

    Raises:
      ValueError: if the blocks or the stem are not supported.
    """
    if any(re.fullmatch(r"layer\d+\.\d+\.conv3\.weight", name) for name in tensors):
        msg = (
            "It has bottleneck blocks, as in ResNet-50 and deeper networks; only basic blocks"
            " (ResNet-18, ResNet-34) are supported."
        )
        raise ValueError(msg)
    width, channels, size = (*tensors["conv1.weight"].shape, 0, 0, 0)[:3]
    stems = {3: "cifar", 7: "imagenet"}
    if size not in stems:
        msg = f"Its stem has a convolution of size {size}; only sizes 3 and 7 are supported."
        raise ValueError(msg)
    blocks = _counts(r"layer(\d+)\.(\d+)\.conv1\.weight", tensors)
    official = "linear.weight" in tensors
    shortcut, head = ("shortcut", "linear") if official else ("downsample", "fc")
    options = {
        "blocks": blocks,
        "width": width,
        "stem": stems[size],
        "image_shape": (32, 32, channels) if size == 3 else (224, 224, channels),
    }
    names = resnet_names(blocks, shortcut=shortcut, head=head)
    return Format(resnet.build, options, names, "head", None, r".*\.num_batches_tracked")


def resnet_names(blocks: Collection[int], *, shortcut: str, head: str) -> Names:
    """Names of a ResNet's tensors."""
    names = convolution("conv", "conv1") | batch_norm("norm", "bn1") | dense("head", head)
    for s, count in enumerate(blocks):
        for i in range(count):
            ours, theirs = f"stages/{s}/{i}", f"layer{s + 1}.{i}"
            for k in (1, 2):
                names |= convolution(f"{ours}/conv{k}", f"{theirs}.conv{k}")
                names |= batch_norm(f"{ours}/norm{k}", f"{theirs}.bn{k}")
            if i == 0 and s > 0:
                names |= convolution(f"{ours}/shortcut/conv", f"{theirs}.{shortcut}.0")
                names |= batch_norm(f"{ours}/shortcut/norm", f"{theirs}.{shortcut}.1")
    return names


def wide_resnet_format(tensors: Mapping[str, np.ndarray]) -> Format:
    """Format of the official TSAM code's WideResNet, with sizes from its tensors."""
    units = _counts(r"f\.(\d+)_block\.block\.(\d+)\.block\.\d_convolution\.weight", tensors)[0]
    first = tensors.get("f.1_block.block.0.block.0_convolution.weight", np.zeros(16))
    options = {
        "depth": 6 * units + 4,
        "widening": max((*first.shape, 0)[0] // 16, 1),
        "image_shape": (32, 32, (*tensors["f.0_convolution.weight"].shape, 1, 1)[1]),
    }
    names = wide_resnet_names(units)
    return Format(wide_resnet.build, options, names, "head", None, r".*\.num_batches_tracked")


def wide_resnet_names(units: int) -> Names:
    """Names of a WideResNet's tensors in the official TSAM code."""
    names = convolution("conv", "f.0_convolution")
    names |= batch_norm("norm", "f.4_normalization") | dense("head", "f.8_classification")
    for g in range(3):
        for i in range(units):
            ours, theirs = f"groups/{g}/{i}", f"f.{g + 1}_block.block.{i}"
            parts = ["norm_act.0_normalization", "block.0_convolution", "block.1_normalization"]
            parts = [*parts, "block.4_convolution"]
            if i > 0:
                parts = [f"block.{k}" for k in ("0_normalization", "2_convolution")]
                parts += [f"block.{k}" for k in ("3_normalization", "6_convolution")]
            names |= batch_norm(f"{ours}/norm1", f"{theirs}.{parts[0]}")
            names |= convolution(f"{ours}/conv1", f"{theirs}.{parts[1]}")
            names |= batch_norm(f"{ours}/norm2", f"{theirs}.{parts[2]}")
            names |= convolution(f"{ours}/conv2", f"{theirs}.{parts[3]}")
            if i == 0:
                names |= convolution(f"{ours}/shortcut", f"{theirs}.downsample")
    return names


def _counts(pattern: str, names: Collection[str]) -> tuple[int, ...]:
    """Counts the blocks of each stage; `pattern` has two groups, stage (from 1) and block."""
    pairs = {m.groups() for m in map(re.compile(pattern).fullmatch, names) if m}
    found = Counter(stage for stage, _ in pairs)
    return tuple(found.get(str(s), 1) for s in range(1, max(len(found), 1) + 1))
