"""Defaults by model family, from scratch and fine-tuning, each with its source.

They apply where neither a flag, nor the setting, nor a recipe has a value.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple


class Family(NamedTuple):
    """Defaults: rho of SAM; t and rms, the noise per coordinate, of TSAM; where they are from."""

    name: str
    optimizer: Mapping[str, Any]
    epochs: int
    rho: float
    t: float
    rms: float
    source: str


_OPTIONS = ("base", "lr", "weight_decay", "schedule", "warmup", "clip", "batch_size")
_ROWS: Mapping[str, tuple[Any, ...]] = {  # the options, epochs, rho, t, rms and source
    "MLP, from scratch": ("adam", 1e-3, 0.0, "constant", 0.0, None, 64, 100, 0.05, 5.0, 0.006,
        "Adam: Kingma and Ba 2015; rho: Foret et al. 2021"),
    "ResNet, from scratch": ("sgd", 0.1, 5e-4, "cosine", 0.0, None, 128, 200, 0.05, 20.0, 0.006,
        "SGD: Zagoruyko and Komodakis 2016; rho, cosine: Foret et al. 2021"),
    "ResNet, fine-tuned": ("sgd", 0.01, 1e-4, "cosine", 0.0, None, 64, 20, 0.05, 5.0, 0.001,
        "SGD: Kornblith et al. 2019; rho: Foret et al. 2021"),
    "ViT, from scratch": ("adamw", 1e-3, 0.05, "cosine", 5.0, 1.0, 128, 200, 0.2, 20.0, 0.006,
        "AdamW: Touvron et al. 2021; rho: Chen et al. 2022"),
    "ViT, fine-tuned": ("sgd", 3e-3, 0.0, "cosine", 0.0, 1.0, 64, 20, 0.05, 5.0, 0.001,
        "SGD: Dosovitskiy et al. 2021; rho: Foret et al. 2021"),
    "BERT, from scratch": ("adamw", 1e-4, 0.01, "linear", 1.0, 1.0, 32, 10, 0.05, 1.0, 0.001,
        "AdamW: Devlin et al. 2019, A.2; rho: Bahri et al. 2022"),
    "BERT, fine-tuned": ("adamw", 5e-5, 0.01, "linear", 1.0, 1.0, 16, 3, 0.01, 1.0, 0.001,
        "AdamW, epochs: Devlin et al. 2019, A.3; rho: Shin et al. 2025, code (SST-2, QNLI)"),
}  # fmt: skip
_TSAM = "t: Li et al. 2025, CIFAR-100, DTD and the code; rms: its radius of 20 for ResNet-18"

FAMILIES: Mapping[tuple[str, bool], Family] = {
    (name.partition(",")[0].lower(), name.endswith("fine-tuned")): Family(
        name, dict(zip(_OPTIONS, options, strict=True)), epochs, rho, t, rms, f"{source}; {_TSAM}"
    )
    for name, (*options, epochs, rho, t, rms, source) in _ROWS.items()
}
"""(family, fine-tuned) -> defaults."""

_PREFIXES = {"resnet|wrn|wide": "resnet", "vit|deit": "vit", "bert|distilbert": "bert"}
MODELS: Mapping[str, str] = {"vector": "mlp", "image": "resnet18", "text": "bert-tiny"}
"""Kind of data -> the model where none is named."""


def family_of(architecture: str, *, fine_tuned: bool) -> Family:
    """Returns the family of an architecture: "resnet18-imagenet" and "wrn16-8" share one.

    Example:
      >>> family_of("wrn16-8", fine_tuned=False).name
      'ResNet, from scratch'
    """
    names = [name for start, name in _PREFIXES.items() if re.match(start, architecture)]
    name = names[0] if names else "mlp"
    return FAMILIES[name, fine_tuned and (name, fine_tuned) in FAMILIES]


def settings(family: Family) -> dict[str, str]:
    """Returns method -> the setting that its bare name means.

    Arguments other than rho, tilt and noise follow the paper of the method; s = 3 as in Li et al.
    2025. `tsam_hmc` has no portable radius and must be written out.

    Returns:
      A setting for each method but `tsam_hmc`.
    """
    rho, t, law = family.rho, family.t, f"sphere(rms={family.rms})"
    return {
        "erm": "erm()",
        "sam": f"sam(rho={rho})",
        "asam": f"asam(rho={10 * rho:g})",
        "esam2": f"esam2(rhos=({rho / 2:g}, {rho}, {2 * rho:g}))",
        "pgn": f"pgn(rho={rho}, alpha=0.7)",
        "wsam": f"wsam(rho={rho}, gamma=0.8)",
        "gsam": f"gsam(rho={rho}, alpha=0.1)",
        "looksam": f"looksam(rho={rho}, every=5, alpha=0.7)",
        "rsam": f"rsam(rho={rho}, gamma=0.01)",
        "vasso": f"vasso(rho={rho}, theta=0.4)",
        "fsam": f"fsam(rho={rho}, lmbda=0.9)",
        "xsam": f"xsam(rho={rho}, rho_max={2 * rho:g})",
        "tilted_sampling": f"tilted_sampling(t={t:g}, s=3, noise={law})",
        "tsam": f"tsam(t={t:g}, rho={2 * rho:g}, s=3, noise={law})",
        "shared_tsam": f"shared_tsam(t={t:g}, rho={rho}, s=3, noise={law})",
        "from_paper": f"from_paper(t={t:g}, s=3)",
    }
