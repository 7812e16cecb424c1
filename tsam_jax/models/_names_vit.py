"""Checkpoints of vision transformers: Hugging Face transformers, timm and torchvision."""

import math
import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from tsam_jax.models import vit
from tsam_jax.models._config import flag, integer, layers, number, only
from tsam_jax.models._names import (
    Format,
    Names,
    Source,
    dense,
    fused_attention,
    norm,
    patches,
    same,
)

Layout = Callable[[np.ndarray], np.ndarray]


def hugging_face_format(
    config: dict[str, Any], tensors: Collection[str], options: Mapping[str, Any]
) -> Format:
    """Format of a Hugging Face ViT; `options` may override the image size of its config.json."""
    only(config, "hidden_act", "gelu")
    flag(config, "qkv_bias", required=True)
    size, patch = integer(config, "image_size"), integer(config, "patch_size")
    shape = (size, size, integer(config, "num_channels", default=3))
    depth = layers(config, "num_hidden_layers", tensors, r"(?:vit\.)?encoder\.layer\.(\d+)\.")
    found = {
        "image_shape": shape,
        "patch": patch,
        "width": integer(config, "hidden_size"),
        "depth": depth,
        "heads": integer(config, "num_attention_heads"),
        "hidden": integer(config, "intermediate_size"),
        "dropout": number(config, "hidden_dropout_prob", default=0.0),
        "attention_dropout": number(config, "attention_probs_dropout_prob", default=0.0),
        "epsilon": number(config, "layer_norm_eps", default=1e-12),
    }
    prefix = "vit." if any(name.startswith("vit.") for name in tensors) else ""
    positions = _positions(shape, options.get("image_shape", shape), patch)
    names = hugging_face_names(depth, prefix, positions)
    ignored = rf"{prefix}pooler\..*|decoder\..*|{prefix}embeddings\.mask_token"
    return Format(vit.build, found, names, "head", None, ignored)


def hugging_face_names(depth: int, prefix: str = "vit.", positions: Layout = same) -> Names:
    """Names of ViT's tensors in Hugging Face transformers."""
    names = dense("head", "classifier") | norm("norm", f"{prefix}layernorm")
    names |= _embeddings(
        f"{prefix}embeddings.patch_embeddings.projection",
        f"{prefix}embeddings.cls_token",
        Source(f"{prefix}embeddings.position_embeddings", positions),
    )
    for i in range(depth):
        ours, theirs = f"layers/{i}", f"{prefix}encoder.layer.{i}"
        for part in ("query", "key", "value"):
            names |= dense(f"{ours}/attention/{part}", f"{theirs}.attention.attention.{part}")
        names |= dense(f"{ours}/attention/out", f"{theirs}.attention.output.dense")
        names |= norm(f"{ours}/attention_norm", f"{theirs}.layernorm_before")
        names |= dense(f"{ours}/feed_forward/up", f"{theirs}.intermediate.dense")
        names |= dense(f"{ours}/feed_forward/down", f"{theirs}.output.dense")
        names |= norm(f"{ours}/norm", f"{theirs}.layernorm_after")
    return names


def timm_format(tensors: Mapping[str, np.ndarray], options: Mapping[str, Any]) -> Format:
    """Format of a timm ViT, with sizes from its tensors."""
    found = _found(tensors, "patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight")
    depth = found["depth"] = _count(r"blocks\.(\d+)\..*", tensors)
    shape = found["image_shape"]
    positions = _positions(shape, options.get("image_shape", shape), found["patch"])
    return Format(vit.build, found, timm_names(depth, positions), "head", None, r"(?!)")


def timm_names(depth: int, positions: Layout = same) -> Names:
    """Names of ViT's tensors in timm."""
    names = dense("head", "head") | norm("norm", "norm")
    names |= _embeddings("patch_embed.proj", "cls_token", Source("pos_embed", positions))
    for i in range(depth):
        ours, theirs = f"layers/{i}", f"blocks.{i}"
        fused = f"{theirs}.attn.qkv"
        names |= fused_attention(f"{ours}/attention", f"{fused}.weight", f"{fused}.bias")
        names |= dense(f"{ours}/attention/out", f"{theirs}.attn.proj")
        names |= norm(f"{ours}/attention_norm", f"{theirs}.norm1")
        names |= dense(f"{ours}/feed_forward/up", f"{theirs}.mlp.fc1")
        names |= dense(f"{ours}/feed_forward/down", f"{theirs}.mlp.fc2")
        names |= norm(f"{ours}/norm", f"{theirs}.norm2")
    return names


def torchvision_format(tensors: Mapping[str, np.ndarray], options: Mapping[str, Any]) -> Format:
    """Format of a torchvision ViT, with sizes from its tensors."""
    hidden = "encoder.layers.encoder_layer_0.mlp.0.weight"
    found = _found(tensors, "conv_proj.weight", "encoder.pos_embedding", hidden)
    depth = found["depth"] = _count(r"encoder\.layers\.encoder_layer_(\d+)\..*", tensors)
    shape = found["image_shape"]
    positions = _positions(shape, options.get("image_shape", shape), found["patch"])
    return Format(vit.build, found, torchvision_names(depth, positions), "head", None, r"(?!)")


def torchvision_names(depth: int, positions: Layout = same) -> Names:
    """Names of ViT's tensors in torchvision."""
    names = dense("head", "heads.head") | norm("norm", "encoder.ln")
    source = Source("encoder.pos_embedding", positions)
    names |= _embeddings("conv_proj", "class_token", source)
    for i in range(depth):
        ours, theirs = f"layers/{i}", f"encoder.layers.encoder_layer_{i}"
        fused = f"{theirs}.self_attention.in_proj"
        names |= fused_attention(f"{ours}/attention", f"{fused}_weight", f"{fused}_bias")
        names |= dense(f"{ours}/attention/out", f"{theirs}.self_attention.out_proj")
        names |= norm(f"{ours}/attention_norm", f"{theirs}.ln_1")
        names |= dense(f"{ours}/feed_forward/up", f"{theirs}.mlp.0")
        names |= dense(f"{ours}/feed_forward/down", f"{theirs}.mlp.3")
        names |= norm(f"{ours}/norm", f"{theirs}.ln_2")
    return names


def _embeddings(projection: str, class_token: str, positions: Source) -> Names:
    return {
        "embeddings/patches/kernel": Source(f"{projection}.weight", patches),
        "embeddings/patches/bias": Source(f"{projection}.bias", same),
        "embeddings/class_token": Source(class_token, same),
        "embeddings/positions": positions,
    }


def _found(
    tensors: Mapping[str, np.ndarray], projection: str, positions: str, hidden: str
) -> dict[str, Any]:
    """Finds sizes from three tensors, assuming heads of 64 features as in ViTs up to L/16."""
    for name, rank in ((projection, 4), (positions, 3), (hidden, 2)):
        if name not in tensors or tensors[name].ndim != rank:
            msg = f"It must have a tensor `{name}` with {rank} axes."
            raise ValueError(msg)
    width, channels, patch, _ = tensors[projection].shape
    side = math.isqrt(tensors[positions].shape[1] - 1)
    return {
        "image_shape": (side * patch, side * patch, channels),
        "patch": patch,
        "width": width,
        "heads": max(width // 64, 1),
        "hidden": len(tensors[hidden]),
    }


def _count(pattern: str, names: Collection[str]) -> int:
    matches = map(re.compile(pattern).fullmatch, names)
    return max(len({m[1] for m in matches if m}), 1)


def _positions(old: tuple[int, ...], new: tuple[int, ...], patch: int) -> Layout:
    """Returns a layout that keeps positions, or interpolates them (bicubic) to another grid."""
    if tuple(old[:2]) == tuple(new[:2]):
        return same
    return partial(
        _interpolated,
        old=(old[0] // patch, old[1] // patch),
        new=(new[0] // patch, new[1] // patch),
    )


def _interpolated(x: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    width = x.shape[-1]
    grid = jax.image.resize(
        x[0, 1:].reshape(*old, width), (*new, width), "bicubic", antialias=False
    )
    return np.concatenate([x[:, :1], np.asarray(grid).reshape(1, -1, width)], 1)
