"""Defaults by model family, from scratch and fine-tuning, each with its source.

They apply where neither a flag, nor the setting, nor a recipe has a value.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Family(NamedTuple):
    """Defaults of a model family.

    Attributes:
      name: in words.
      optimizer: values of `config.Optimizer`.
      epochs: length of training.
      rho: length of SAM's ascent step.
      t: tilt of TSAM, in units of 1 / loss.
      rms: noise of TSAM, root mean square per coordinate.
      source: where the values are from.
    """

    name: str
    optimizer: Mapping[str, Any]
    epochs: int
    rho: float
    t: float
    rms: float
    source: str


_TABLE = """
family | fine-tuned | base  | lr   | weight_decay | schedule | warmup | clip | batch_size | epochs | rho  | t  | rms
mlp    | no         | adam  | 1e-3 | 0            | constant | 0      | none | 64         | 100    | 0.05 | 5  | 0.006
resnet | no         | sgd   | 0.1  | 5e-4         | cosine   | 0      | none | 128        | 200    | 0.05 | 20 | 0.006
resnet | yes        | sgd   | 0.01 | 1e-4         | cosine   | 0      | none | 64         | 20     | 0.05 | 5  | 0.001
vit    | no         | adamw | 1e-3 | 0.05         | cosine   | 5      | 1    | 128        | 200    | 0.2  | 20 | 0.006
vit    | yes        | sgd   | 3e-3 | 0            | cosine   | 0      | 1    | 64         | 20     | 0.05 | 5  | 0.001
bert   | no         | adamw | 1e-4 | 0.01         | linear   | 1      | 1    | 32         | 10     | 0.05 | 1  | 0.001
bert   | yes        | adamw | 5e-5 | 0.01         | linear   | 1      | 1    | 16         | 3      | 0.05 | 1  | 0.001
"""  # noqa: E501 - a table
_SOURCES = {
    ("mlp", False): "Adam: Kingma and Ba 2015; rho: Foret et al. 2021",
    ("resnet", False): "SGD: Zagoruyko and Komodakis 2016; rho, cosine: Foret et al. 2021",
    ("resnet", True): "SGD: Kornblith et al. 2019; rho: Foret et al. 2021",
    ("vit", False): "AdamW: Touvron et al. 2021; rho: Chen et al. 2022",
    ("vit", True): "SGD: Dosovitskiy et al. 2021; rho: Foret et al. 2021",
    ("bert", False): "AdamW: Devlin et al. 2019, A.2; rho: Bahri et al. 2022",
    ("bert", True): "AdamW, epochs: Devlin et al. 2019, A.3; rho: Bahri et al. 2022",
}
_TSAM = "t: Li et al. 2025, CIFAR-100, DTD and the code; rms: its radius of 20 for ResNet-18"


def _read(table: str) -> dict[tuple[str, bool], Family]:
    heading, *lines = [[x.strip() for x in line.split("|")] for line in table.split("\n") if line]
    families = {}
    for line in lines:
        row: dict[str, Any] = dict(zip(heading, line, strict=True))
        for name in ("lr", "weight_decay", "warmup", "clip", "rho", "t", "rms"):
            row[name] = None if row[name] == "none" else float(row[name])
        key = row["family"], row["fine-tuned"] == "yes"
        family = {"mlp": "MLP", "resnet": "ResNet", "vit": "ViT", "bert": "BERT"}[key[0]]
        options = ("base", "lr", "weight_decay", "schedule", "warmup", "clip")
        families[key] = Family(
            f"{family}, {'fine-tuned' if key[1] else 'from scratch'}",
            {name: row[name] for name in options} | {"batch_size": int(row["batch_size"])},
            int(row["epochs"]),
            row["rho"],
            row["t"],
            row["rms"],
            f"{_SOURCES[key]}; {_TSAM}",
        )
    return families


FAMILIES: Mapping[tuple[str, bool], Family] = _read(_TABLE)
"""(family, fine-tuned) -> defaults."""

_PREFIXES = {
    "mlp": "mlp",
    "cnn": "mlp",
    "resnet": "resnet",
    "wrn": "resnet",
    "wide": "resnet",
    "vit": "vit",
    "deit": "vit",
    "bert": "bert",
    "distilbert": "bert",
}
MODELS: Mapping[str, str] = {"vector": "mlp", "image": "resnet18", "text": "bert-tiny"}
"""Kind of data -> the model where none is named."""


def family_of(architecture: str, *, fine_tuned: bool) -> Family:
    """Returns the family of an architecture: "resnet18-imagenet" and "wrn16-8" share one.

    Example:
      >>> family_of("wrn16-8", fine_tuned=False).name
      'ResNet, from scratch'
    """
    found = next((x for start, x in _PREFIXES.items() if architecture.startswith(start)), "mlp")
    return (
        FAMILIES[found, fine_tuned] if (found, fine_tuned) in FAMILIES else FAMILIES[found, False]
    )


def settings(family: Family) -> dict[str, str]:
    """Method -> the setting that its bare name means.

    Arguments other than rho, tilt and noise follow the paper of the method; s = 3 as in Li et al.
    2025. `tsam_hmc` has no portable radius and must be written out.
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
