"""Strips the full golden records to what the tests read.

    python strip.py FOLDER_OF_FULL_RECORDS

The folder has tsam/*.npz and peers/*.npz, with keys `group/name` as README.md describes.
Written beside this script, bit for bit the same every time:

* problems.npz: `problem/data/*` and `problem/init/*`, which all records of a problem share;
* one archive a family of records: `record/array`, or `record/array/parameter`;
* index.json: family -> record -> hyperparameters.

A further family is one more line in FAMILIES.
"""

import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
TSAM = ("noise_raw", "uniform_u", "t_used", "loss2", "weights", "agg_grad", "params")
PEER = ("eval_loss", "final_grad", "params")

# family -> (pattern of the full records, arrays kept of each)
FAMILIES = {
    "tsam_mlp": ("tsam/mlp_*.npz", TSAM),
    "tsam_convbn": ("tsam/convbn_*.npz", TSAM),
    "tsam_quad": ("tsam/quad_*.npz", TSAM),
    "davda54_sam": ("peers/davda54_sam__sam_*.npz", PEER),
    "optax_sam": ("peers/optax_sam__*.npz", PEER),
    "tsamrepo_sam": ("peers/tsamrepo_sam__rho*.npz", PEER),
    "po_sam": ("peers/po_sam__[ar]*.npz", PEER),
    "davda54_asam": ("peers/davda54_sam__adaptive_*.npz", PEER),
    "samsung_asam": ("peers/samsung_asam__*.npz", PEER),
    "gsam": ("peers/gsam__*.npz", (*PEER, "lr_used", "rho_used")),
    "po_wsam": ("peers/po_wsam__coupled_*.npz", PEER),
    "fsam": ("peers/fsam__*.npz", (*PEER, "fsam_momentum")),
    "po_fsam": ("peers/po_fsam__*.npz", (*PEER, "fsam_momentum")),
    "xsam": ("peers/xsam__*.npz", (*PEER, "alpha_used", "alpha_losses", "theta_angle", "scale")),
    "rsam": ("peers/rsam__restored__*.npz", (*PEER, "noise_raw", "noise_applied")),
}


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def one_record_a_line(index: dict[str, dict[str, dict[str, object]]]) -> str:
    families = [
        f"{json.dumps(family)}: {{\n"
        + ",\n".join(f" {json.dumps(name)}: {json.dumps(meta)}" for name, meta in records.items())
        + "\n}"
        for family, records in index.items()
    ]
    return "{\n" + ",\n".join(families) + "\n}\n"


def main(source: Path) -> None:
    problems: dict[str, np.ndarray] = {}
    index: dict[str, dict[str, dict[str, object]]] = {}
    for family, (pattern, kept) in FAMILIES.items():
        archive: dict[str, np.ndarray] = {}
        index[family] = {}
        for path in sorted(source.glob(pattern)):
            record = load(path)
            problem = record["meta/problem"].item()
            index[family][path.stem] = {
                key.removeprefix("meta/"): value.item()
                for key, value in sorted(record.items())
                if key.startswith("meta/")
            }
            if record.get("data/c"):  # the constant of some records of XSAM, which shifts the loss
                index[family][path.stem]["c"] = record.pop("data/c").item()
            for full_key, value in record.items():
                # one record of ASAM, which goes by names, has its parameter renamed
                key = full_key.replace("/weight", "/theta") if problem == "quad" else full_key
                group = key.split("/")[0]
                if group in {"data", "init"}:
                    shared = problems.setdefault(f"{problem}/{key}", value)
                    np.testing.assert_array_equal(shared, value, err_msg=f"{path}: {key}")
                elif group in kept:
                    archive[f"{path.stem}/{key}"] = value
        np.savez_compressed(HERE / f"{family}.npz", **archive)
    np.savez_compressed(HERE / "problems.npz", **problems)
    (HERE / "index.json").write_text(one_record_a_line(index))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
