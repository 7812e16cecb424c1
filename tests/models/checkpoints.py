"""Small checkpoints in the format of Hugging Face transformers."""

import json

import numpy as np
from safetensors.numpy import save_file


def write_vit(
    folder, *, image=32, channels=3, patch=8, width=32, depth=2, heads=4, outputs=10, seed=0
):
    """Writes a ViT with random weights.

    Args:
      folder: folder to create.
      image: side of the images.
      channels: channels of the images.
      patch, width, depth, heads: sizes of the ViT.
      outputs: outputs of the head; None for no head, in which case tensor names have no prefix.
      seed: seed of the weights.

    Returns:
      The folder, with config.json and model.safetensors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["ViTModel" if outputs is None else "ViTForImageClassification"],
        "attention_probs_dropout_prob": 0.0,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": width,
        "image_size": image,
        "intermediate_size": 2 * width,
        "layer_norm_eps": 1e-12,
        "model_type": "vit",
        "num_attention_heads": heads,
        "num_channels": channels,
        "num_hidden_layers": depth,
        "patch_size": patch,
        "qkv_bias": True,
    }
    if outputs is not None:
        config["id2label"] = {str(i): f"class {i}" for i in range(outputs)}
        config["label2id"] = {f"class {i}": i for i in range(outputs)}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    prefix = "" if outputs is None else "vit."
    embeddings = f"{prefix}embeddings"
    shapes = {
        f"{embeddings}.cls_token": (1, 1, width),
        f"{embeddings}.position_embeddings": (1, 1 + (image // patch) ** 2, width),
        f"{embeddings}.patch_embeddings.projection.weight": (width, channels, patch, patch),
        f"{embeddings}.patch_embeddings.projection.bias": (width,),
    }
    norms = [f"{prefix}layernorm"]
    dense = {} if outputs is None else {"classifier": (outputs, width)}
    for i in range(depth):
        layer = f"{prefix}encoder.layer.{i}"
        norms += [f"{layer}.layernorm_before", f"{layer}.layernorm_after"]
        for part in ("attention.query", "attention.key", "attention.value", "output.dense"):
            dense[f"{layer}.attention.{part}"] = (width, width)
        dense[f"{layer}.intermediate.dense"] = (2 * width, width)
        dense[f"{layer}.output.dense"] = (width, 2 * width)
    for name, shape in dense.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}

    rng = np.random.default_rng(seed)
    tensors = {
        name: rng.normal(scale=0.1, size=shape).astype(np.float32) for name, shape in shapes.items()
    }
    for name in norms:
        tensors[f"{name}.weight"] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
