"""Odd and broken data files of every kind, for `tests/fuzz.py`."""

import dataclasses
import gzip
import io
import json
import os
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image
from tokenizers import BertWordPieceTokenizer

from tsam_jax import data
from tsam_jax.data import DataError

LONGEST = 300
"""Characters of a clear refusal, without the temporary folder in it."""


@dataclasses.dataclass
class Case:
    """A data set and what is expected of it.

    Attributes:
      what: names the case in failures.
      name: what `open_splits` gets.
      good: the expected examples, as pairs of a class (or number) and an input; None if it must
        be refused.
      may_refuse: whether a refusal will do as well.
      options: of `open_splits`.
      loose: whether only the form is checked, because damage to plain bytes cannot be noticed.
      tolerance: largest difference of entries.
    """

    what: str
    name: str
    good: list | None
    may_refuse: bool = False
    options: dict = dataclasses.field(default_factory=dict)
    loose: bool = False
    tolerance: float = 0.0


def examples_of(splits):
    found = []
    for part in splits[:3]:
        inputs = part.inputs
        if isinstance(inputs, dict):
            lengths = inputs["attention_mask"].sum(axis=1)
            inputs = [ids[:n] for ids, n in zip(inputs["token_ids"], lengths, strict=True)]
        for label, one in zip(part.labels, inputs, strict=True):
            name = splits.class_names[label] if splits.class_names else label.item()
            found.append((name, np.asarray(one)))
    return found


def is_same(found, good, tolerance):
    """Whether the examples are the expected ones, in any order."""
    if len(found) != len(good):
        return False
    left = list(found)
    for name, one in good:
        one = np.asarray(one)
        for i, (other_name, other) in enumerate(left):
            same = other_name == name and other.shape == one.shape
            if same and np.abs(other.astype(float) - one).max(initial=0) <= tolerance:
                del left[i]
                break
        else:
            return False
    return True


def judge(case, root):
    """The outcome of a case, and what it said."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            splits = data.read_splits(data.open_splits(case.name, **case.options))
    except DataError as error:
        said = str(error)
        short = said.replace(str(root), "")
        if len(short) > LONGEST or "\n" in said or not said.endswith("."):
            return "traceback", f"unclear, {len(short)} characters: {said}"
        good = case.good is not None and not case.may_refuse
        return ("refused though good" if good else "refused clearly"), said
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"
    if case.loose:
        return "right", ""
    if case.good is None:
        return "silently wrong", f"was read: {[(n, x.shape) for n, x in examples_of(splits)][:4]}"
    found = examples_of(splits)
    right = is_same(found, case.good, case.tolerance)
    return ("right" if right else "silently wrong"), "" if right else f"{found[:6]}"


# ---- images ----


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def plain(value, side=6):
    return np.full((side, side, 3), value, np.uint8)


def png(value, side=6):
    return encode(Image.fromarray(plain(value, side)))


def put(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def two_classes(names=("a", "b"), count=3, prefix=""):
    files = {
        f"{prefix}{name}/{i}.png": (name, 20 * k + i)
        for k, name in enumerate(names)
        for i in range(count)
    }
    contents = {path: png(value) for path, (_, value) in files.items()}
    return contents, [(name, plain(value)) for name, value in files.values()]


def turned(array, orientation):
    """The array as a viewer shows it, by the table in the standard of EXIF."""
    return {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: x[::-1].swapaxes(0, 1),
        7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
        8: lambda x: x[:, ::-1].swapaxes(0, 1),
    }[orientation](array)


def chunk(kind, content):
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def bomb(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(99)))
        + chunk(b"IEND", b"")
    )


def an_image(rng):
    """(what, suffix, content, expected array or None, tolerance)."""
    x = rng.integers(0, 256, (6, 6, 3), np.uint8)
    choice = rng.integers(16)
    if choice == 0:
        orientation = int(rng.integers(1, 9))
        exif = Image.Exif()
        exif[0x0112] = orientation
        kind = rng.choice(["PNG", "TIFF", "WEBP", "JPEG"])
        if kind == "JPEG":  # constant blocks of 8 pixels, less what the code loses
            x = np.kron(rng.integers(0, 256, (1, 2, 3), np.uint8), np.ones((6, 3, 1), np.uint8))
            x[:] = np.where(np.arange(6)[None, :, None] < 3, 40, 200)
        options = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}, "JPEG": {"quality": 100}}[
            kind
        ]
        content = encode(Image.fromarray(x), kind, exif=exif, **options)
        tolerance = 12 if kind == "JPEG" else 0
        return (
            f"orientation {orientation} {kind}",
            kind.lower(),
            content,
            turned(x, orientation),
            tolerance,
        )
    if choice == 1:
        wide = rng.integers(0, 65536, (6, 6), dtype=np.uint16)
        kind = rng.choice(["PNG", "TIFF", "PPM", "JPEG2000"])
        options = {"irreversible": False} if kind == "JPEG2000" else {}
        content = encode(Image.fromarray(wide), kind, **options)
        suffix = {"PPM": "pgm", "JPEG2000": "jp2"}.get(kind, kind.lower())
        return f"16 bits {kind}", suffix, content, np.repeat(wide[..., None] / 257, 3, 2), 1
    if choice == 2:
        mode = rng.choice(["F", "I"])
        pixels = (
            rng.random((6, 6)).astype(np.float32)
            if mode == "F"
            else np.int32(rng.integers(-9, 1 << 20, (6, 6)))
        )
        return f"mode {mode}", "tiff", encode(Image.fromarray(pixels), "TIFF"), None, 0
    if choice == 3:
        alpha = rng.choice([0, 128, 255], (6, 6, 1)).astype(np.uint8)
        rgba = np.concatenate([x, alpha], axis=-1)
        kind = rng.choice(["PNG", "TIFF", "WEBP"])
        options = {"WEBP": {"lossless": True, "exact": True}}.get(kind, {})
        share = alpha / 255
        shown = x * share + 255 * (1 - share)
        return (
            f"alpha {kind}",
            kind.lower(),
            encode(Image.fromarray(rgba), kind, **options),
            shown,
            1,
        )
    if choice == 4:
        grey = x[..., 0]
        hidden = int(grey[0, 0])
        shown = np.where(grey == hidden, 255, grey)
        content = encode(Image.fromarray(grey), "PNG", transparency=hidden)
        return "transparent grey", "png", content, np.repeat(shown[..., None], 3, 2), 0
    if choice == 5:
        la = np.stack([x[..., 0], np.where(x[..., 1] > 99, 255, 0).astype(np.uint8)], axis=-1)
        shown = np.where(la[..., 1] == 255, la[..., 0], 255)
        return "LA", "png", encode(Image.fromarray(la, "LA")), np.repeat(shown[..., None], 3, 2), 0
    if choice == 6:
        indices = rng.integers(0, 4, (6, 6), np.uint8)
        palette = rng.integers(0, 256, (4, 3), np.uint8)
        image = Image.fromarray(indices, "P")
        image.putpalette(palette.tobytes())
        content = encode(image, "PNG", transparency=bytes([255, 0, 255, 255]))
        shown = palette.copy()
        shown[1] = 255
        return "palette with alpha", "png", content, shown[indices], 0
    if choice == 7:
        bits = rng.integers(0, 2, (6, 6)).astype(bool)
        return (
            "1 bit",
            "png",
            encode(Image.fromarray(bits)),
            np.repeat(bits[..., None] * 255, 3, 2),
            0,
        )
    if choice == 8:
        kind, suffix = list(
            {
                "BMP": "bmp",
                "PPM": "ppm",
                "TGA": "tga",
                "PNG": "jfif",
                "TIFF": "TIF",
                "QOI": "qoi",
                "ICNS": "png",
            }.items()
        )[rng.integers(6)]
        return f"{kind} as .{suffix}", suffix, encode(Image.fromarray(x), kind), x, 0
    if choice == 9:
        content = encode(Image.fromarray(x))
        return "cut png", "png", content[: rng.integers(0, len(content) - 20)], None, 0
    if choice == 10:
        content = bytearray(encode(Image.fromarray(x)))
        content[rng.integers(8, len(content) - 12)] ^= int(rng.integers(1, 256))
        return "changed png", "png", bytes(content), x, "may"
    if choice == 11:
        side = int(rng.choice([9000, 60000, 2**31 - 1]))
        return f"bomb {side}", "png", bomb(side, side), None, 0
    if choice == 12:
        content = rng.choice([
            b"",
            b"text",
            b"GIF89a",
            b"\xff\xd8\xff\xe0",
            b"\0\0\0\x18ftypheic" + bytes(40),
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\n",
            b"RIFF\x24\0\0\0WEBPVP8 ",
            b"II*\0\x08\0\0\0",
        ])
        return (
            f"rubbish {bytes(content)[:8]}",
            rng.choice(["png", "jpg", "heic", "webp"]),
            bytes(content),
            None,
            0,
        )
    if choice == 13:
        wide = rng.integers(0, 65536, (6, 6), dtype=np.uint16)
        content = encode(Image.fromarray(wide), "TIFF", tiffinfo={262: 0})
        return (
            "16 bits, white is zero",
            "tif",
            content,
            np.repeat((65535 - wide)[..., None] / 257, 3, 2),
            1,
        )
    if choice == 14:
        peak = int(rng.choice([100, 1000, 4095]))
        levels = rng.integers(0, peak + 1, (6, 6))
        body = " ".join(map(str, levels.ravel())).encode()
        return (
            f"plain pgm to {peak}",
            "pgm",
            b"P2 6 6 %d\n" % peak + body + b"\n",
            np.repeat(levels[..., None] * 255 / peak, 3, 2),
            1,
        )
    cmyk = Image.fromarray(x).convert("CMYK")
    return "CMYK", "tif", encode(cmyk, "TIFF"), x, 2


def images(rng, root):
    contents, good = two_classes()
    what, suffix, content, shown, tolerance = an_image(rng)
    may = tolerance == "may"
    put(root, contents | {f"a/odd.{suffix}": content})
    expected = None if shown is None else [*good, ("a", shown)]
    return Case(what, f"folder:{root}", expected, may, tolerance=0 if may else tolerance)


# ---- archives ----


def archives(rng, root):
    contents, good = two_classes()
    path = root / "set.zip"
    top = rng.choice(["", "top/", "./", "train/"])
    method = rng.choice([
        zipfile.ZIP_STORED,
        zipfile.ZIP_DEFLATED,
        zipfile.ZIP_BZIP2,
        zipfile.ZIP_LZMA,
    ])
    choice = rng.integers(10)
    windows = choice == 0
    with zipfile.ZipFile(path, "w", compression=int(method)) as archive:
        for name, content in contents.items():
            archive.writestr((top + name).replace("/", "\\") if windows else top + name, content)
        if choice == 1:
            archive.writestr("__MACOSX/a/._0.png", b"x")
            archive.writestr(f"{top}a/Thumbs.db", b"x")
        if choice == 2:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                archive.writestr(f"{top}a/0.png", png(9))
        if choice == 3:
            archive.writestr(f"{top}notes.txt", b"x")
    raw = bytearray(path.read_bytes())
    central = raw.index(b"PK\x01\x02")
    may, expected, loose = False, good, False
    if choice == 2:
        expected = None
    elif choice == 4:  # encrypted, says the flag
        raw[6] |= 1
        raw[central + 8] |= 1
        expected = None
    elif choice == 5:  # an unknown method
        raw[8:10] = raw[central + 10 : central + 12] = struct.pack(
            "<H", int(rng.choice([1, 6, 77, 98]))
        )
        expected = None
    elif choice == 6:  # an absurd size
        raw[22:26] = raw[central + 24 : central + 28] = struct.pack("<I", 0xFFFFFFF0)
        expected = None
    elif choice == 7:
        raw = raw[: rng.integers(0, len(raw) - 22)]
        expected = None
    elif choice == 8:
        for _ in range(int(rng.integers(1, 4))):
            raw[rng.integers(len(raw))] ^= int(rng.integers(1, 256))
        may, loose = True, True  # a name, or which files there are, has no checksum
    elif choice == 9:
        raw = bytearray(rng.bytes(int(rng.integers(0, 200))))
        expected = None
    path.write_bytes(bytes(raw))
    return Case(f"zip {choice} {top} {method}", f"folder:{path}", expected, may, loose=loose)


# ---- folders ----

TRAIN = ("train", "Train", "TRAIN", "training", "training_set", "Training Set", "train-set")
VAL = ("val", "Val", "valid", "validation", "dev", "valid_set", "VALIDATION")
TEST = ("test", "Test", "testing", "test_set", "TestSet")


def folders(rng, root):
    choice = rng.integers(13)
    if choice <= 1:
        groups = [rng.choice(TRAIN), *([rng.choice(VAL)] if choice else []), rng.choice(TEST)]
        contents, good = {}, []
        for group in groups:
            some, expected = two_classes(
                prefix=f"{group}/", names=("test", "b") if rng.random() < 0.3 else ("a", "b")
            )
            contents |= some
            good += expected
        classes = {name for name, _ in good}
        put(root, contents)
        mixed = len(classes) > 2
        return Case(
            f"parts {groups}",
            f"folder:{root}",
            good,
            may_refuse=mixed or {"test", "a"} <= classes,
        )
    if choice == 2:
        names = ("test", "control") if rng.random() < 0.5 else ("dev", "prod")
        contents, good = two_classes(names)
        put(root, contents)
        return Case(f"classes {names}", f"folder:{root}", good)
    if choice == 3:
        store = root / "store"
        contents, good = two_classes()
        put(store, contents)
        view = root / "view"
        view.mkdir()
        for name in "ab":
            (view / name).symlink_to(store / name)
        return Case("linked classes", f"folder:{view}", good)
    if choice == 4:
        contents, _ = two_classes()
        put(root, contents)
        (root / "a" / "loop").symlink_to(root / rng.choice([".", "a"]))
        return Case("loop", f"folder:{root}", None)
    if choice == 5:
        contents, _ = two_classes()
        put(root, contents)
        (root / "a" / "9.png").symlink_to(root / "nowhere.png")
        return Case("broken link", f"folder:{root}", None)
    if choice == 6:
        tops = [
            ("train2017", "val2017"),
            ("seg_train", "seg_test"),
            ("trainA", "testA"),
            ("Train_images", "test images"),
        ][rng.integers(4)]
        contents = {}
        for top in tops:
            contents |= two_classes(prefix=f"{top}/")[0]
        put(root, contents)
        return Case(f"like parts {tops}", f"folder:{root}", None)
    if choice == 7:
        for part in ("train", "test"):
            for i in range(3):
                put(root, {f"{part}/{i}.png": png(i)})
        return Case("parts without classes", f"folder:{root}", None)
    if choice == 8:
        contents, good = two_classes()
        put(
            root,
            contents
            | {"a/x.txt": b"x", "notes/y.md": b"y", ".DS_Store": b"z", "b/desktop.ini": b""},
        )
        return Case("notes", f"folder:{root}", good)
    if choice == 9:
        contents = {}
        for part in ("train", "test"):
            for name in "ab":
                contents |= {f"{name}/{part}/{i}.png": png(i) for i in range(2)}
        put(root, contents)
        return Case("parts below classes", f"folder:{root}", None)
    if choice == 10:
        contents, _ = two_classes()
        put(root, contents)
        os.mkfifo(root / "a" / "9.png")
        return Case("pipe", f"folder:{root}", None)
    if choice == 11:
        contents = {**two_classes(prefix="train/")[0], **two_classes(prefix="Training/")[0]}
        put(root, contents)
        return Case("two training folders", f"folder:{root}", None)
    contents, _ = two_classes()
    other = png(7, side=9)
    put(
        root,
        {f"train/{k}": v for k, v in contents.items()}
        | {f"test/{k[0]}/0.png": other for k in contents},
    )
    return Case("other sizes in test", f"folder:{root}", None)


# ---- npz ----


def arrays(rng, root):
    path = root / "set.npz"
    n = 12
    x = rng.integers(0, 256, (n, 5, 6, 3), np.uint8)
    labels = np.arange(n) % 3
    dtype = rng.choice([np.uint8, np.int64, np.uint64, ">i2"])
    kept = {"train_images": x, "train_labels": labels.astype(dtype)}
    good = [(int(c), i) for c, i in zip(labels, x, strict=True)]
    choice = int(rng.integers(22))
    expected, tolerance, may, loose = None, 0.0, False, False
    options = {}
    if choice == 0:
        expected = good
        if rng.random() < 0.5:
            names = rng.choice([np.array(["x", "y", "z"]), np.array([b"x", b"y", b"z"])])
            kept["class_names"] = names
            expected = [("xyz"[c], i) for c, i in good]
    elif choice == 1:
        bad = rng.choice([2.0**32 + 1, 1e9, 2.0**40, -1])
        kept["train_labels"] = labels.astype(np.int64)
        kept["train_labels"][3] = int(bad)
    elif choice == 2:
        kept["train_labels"] = np.where(
            np.arange(n) == 4, rng.choice([1e300, np.nan, -np.inf]), labels + 0.5
        )
    elif choice == 3:
        kept["train_images"] = x.astype(rng.choice([np.float32, np.float64]))
    elif choice == 4:
        kept["train_images"] = x / 255 - rng.choice([0.5, 1.0])
    elif choice == 5:
        kept["train_images"] = x / 255
        expected, tolerance = [(c, i / 255) for c, i in good], 1e-6
    elif choice == 6:
        kept["train_images"] = np.moveaxis(x, -1, 1)
        expected = good
    elif choice == 7:
        kept["train_images"] = np.moveaxis(x[..., :1], -1, 1)
        expected = [(c, i[..., :1]) for c, i in good]
    elif choice == 8:
        kept["train_images"] = rng.integers(0, 256, (n, 16, 32, 32), np.uint8)
    elif choice == 9:
        key = rng.choice(["train_images", "train_labels", "class_names"])
        kept[key] = np.array(3) if key != "class_names" else np.array("x")
    elif choice == 10:
        kept |= {"test_images": x[:3, :4], "test_labels": labels[:3]}
    elif choice == 11:
        kept["train_images"] = x.astype(rng.choice([np.int32, np.uint16, np.complex64, bool]))
    elif choice == 12:
        kept["class_names"] = [
            np.array(["x", "x", "y"]),
            np.array(["x", "y"]),
            np.zeros((3, 2)),
            np.array([1.5, 2, 3]),
        ][rng.integers(4)]
    elif choice == 13:
        kept["train_labels"] = [
            labels[:5],
            np.zeros((n, 3), int),
            labels.astype(str),
            labels.astype(object),
            labels.astype(complex),
        ][rng.integers(5)]
    elif choice == 14:
        inputs = rng.normal(size=(n, 4)) * rng.choice([1, 1e30])
        kept["train_images"] = inputs
        expected, tolerance = (
            [(c, v) for (c, _), v in zip(good, inputs.astype(np.float32), strict=True)],
            0,
        )
    elif choice == 15:
        inputs = rng.normal(size=(n, 4))
        inputs[2, 1] = rng.choice([np.nan, np.inf, 1e300])
        kept["train_images"] = inputs
    elif choice == 16:
        targets = rng.normal(size=n)
        kept["train_labels"] = targets
        expected = [(float(np.float32(t)), i) for t, i in zip(targets, x, strict=True)]
    elif choice == 17:
        files = [np.frombuffer(png(i), np.uint8) for i in range(n)]
        offsets = np.cumsum([0, *map(len, files)])
        damage = int(rng.integers(5))
        if damage == 1:
            offsets[rng.integers(n)] += 10**6
        elif damage == 2:
            offsets = offsets.astype(float)
        elif damage == 3:
            offsets = np.array(3)
        elif damage == 4:
            offsets = offsets.astype(np.uint64)
            offsets[2] = 2**64 - 1
        kept = {
            "train_jpeg": np.concatenate(files),
            "train_offsets": offsets,
            "train_labels": labels,
        }
        expected = [(int(c), plain(i)) for i, c in enumerate(labels)] if damage == 0 else None
    elif choice == 18:
        options = {"size": [0, -1, 10**9, True, 2.5, "3"][rng.integers(6)]}
    elif choice == 19:
        kept["extra"] = np.array([{"a": 1}], object)  # ignored: not read
        expected = good
    np.savez(path, **kept)
    raw = bytearray(path.read_bytes())
    if choice == 20:
        path.write_bytes(bytes(raw[: rng.integers(0, len(raw) - 100)]))
    elif choice == 21:
        raw[rng.integers(len(raw))] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(raw))
        may = loose = True
        expected = good
    return Case(
        f"npz {choice} {sorted(kept)}", f"npz:{path}", expected, may, options, loose, tolerance
    )


# ---- tables ----

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh", "good", "film"]


def ids(sentence):
    return np.array([2, *(WORDS.index(word) for word in sentence.split()), 3])


def tables(rng, root):
    vocab = root / "vocab.txt"
    vocab.write_text("\n".join(WORDS))
    options = {"vocab": vocab, "max_length": 12}
    tab = rng.random() < 0.5
    sep, suffix = ("\t", "tsv") if tab else (",", "csv")
    rows = [
        (" ".join(rng.choice(list("abcdefgh"), rng.integers(1, 5))), "pos" if i % 2 else "neg")
        for i in range(14)
    ]
    header = ["sentence", "label"]
    lines = [list(row) for row in rows]
    end = rng.choice(["\n", "\r\n"])
    bom, tail, may, loose = b"", "", False, False
    good = [(label, ids(text)) for text, label in rows]
    choice = int(rng.integers(24))
    row = int(rng.integers(14))
    if choice == 0:
        tail = str(end) * int(rng.integers(1, 3))
    elif choice == 1:
        lines[row][1] = rng.choice(["", " ", "   "])
        del good[row]
    elif choice == 2:
        lines[row][1] = f"  {lines[row][1]} "
    elif choice == 3:
        lines[row][1] = rng.choice(["nan", "NaN", "None", "NULL", "N/A", "null"])
        good = None
    elif choice == 4:
        header = ["sentence", "label", rng.choice(["label", "sentence", " label"])]
        lines = [[*line, "x"] for line in lines]
        good = None
    elif choice == 5:
        header = [" sentence", " label "]
    elif choice == 6:
        header = rng.choice([
            ["text", "label"],
            ["sentence", "class"],
            ["Sentence", "Label"],
        ]).tolist()
        good = None
    elif choice == 7:
        header = ["x", "y"]
        options |= {"text": rng.choice(["x", "0"]), "label": rng.choice(["y", "1"])}
    elif choice == 8:
        sep = rng.choice([";", "|"])
        options["delimiter"] = sep
    elif choice == 9:
        sep = ";"
        good = None
    elif choice == 10:
        options["delimiter"] = rng.choice(["", "ab", "\n", '"'])
        good = None
    elif choice == 11:
        numbers = [f"{v:.3f}" for v in rng.normal(size=14)]
        lines = [[line[0], v] for line, v in zip(lines, numbers, strict=True)]
        good = [(float(np.float32(v)), ids(t)) for (t, _), v in zip(rows, numbers, strict=True)]
    elif choice == 12:
        lines = [[line[0], f"{i / 4}"] for i, line in enumerate(lines)]
        lines[row][1] = rng.choice(["1e300", "inf", "nan", "x", "1_0", "0x1"])
        options["regression"] = True
        good = None
    elif choice == 13:
        lines[row].append("more")
        good = None
    elif choice == 14:
        del lines[row][1]
        good = None
    elif choice == 15:
        bom = b"\xef\xbb\xbf"
    elif choice == 16:
        lines = [[line[0], str(i % 3 + 8)] for i, line in enumerate(lines)]
        good = [(line[1], ids(line[0])) for line in lines]
    elif choice == 17:
        lines = [[line[0], str(i % 3)] for i, line in enumerate(lines)]
        lines[row][1] = lines[row][1] + rng.choice([".0", ".00"])
        good = None
    elif choice == 18:
        lines[row][1] = lines[row][1].upper()
        good = None
    text = "".join(str(sep).join(line) + str(end) for line in [header, *lines]) + tail
    raw = bom + text.encode()
    name = f"t.{suffix}"
    if choice == 19:
        raw = rng.choice([0, 1]) * b"\xff\xfe" + text.encode("utf-16-le")
        good = None
    elif choice == 20:
        name = f"t.{suffix}.gz"
        raw = gzip.compress(raw)
        if rng.random() < 0.7:
            raw = raw[: rng.integers(0, len(raw) - 1)] if rng.random() < 0.5 else b"x" + raw
            good = None
    elif choice == 21:
        position = rng.integers(len(raw))
        raw = raw[:position] + bytes([int(rng.integers(256))]) + raw[position + 1 :]
        may = loose = True
    elif choice == 22:
        options.pop("vocab")
        good = None
    elif choice == 23:
        name = rng.choice(["Train.", "TRAIN.", "training_set."]) + suffix
        put(root, {f"d/{name}": raw, f"d/Test.{suffix}": raw})
        return Case(f"folder with {name}", f"table:{root / 'd'}", good * 2, options=options)
    (root / name).write_bytes(raw)
    return Case(
        f"table {choice} {suffix} {header}", f"table:{root / name}", good, may, options, loose
    )


# ---- CIFAR ----


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def pickles(rng, root):
    mark = root / "executed"
    files, good = {}, []
    protocol = int(rng.integers(0, 6))
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        x = rng.integers(0, 256, (2, 3, 32, 32), np.uint8)
        labels = [int(v) for v in rng.integers(0, 10, 2)]
        good += [(f"n{c}", image.transpose(1, 2, 0)) for c, image in zip(labels, x, strict=True)]
        files[name] = {b"data": x.reshape(2, -1), b"labels": labels, b"batch_label": b"%d" % i}
    files["batches.meta"] = {b"label_names": [b"n%d" % i for i in range(10)]}
    choice = int(rng.integers(10))
    target = str(rng.choice(list(files)))
    contents = {name: pickle.dumps(file, protocol) for name, file in files.items()}
    loose = may = False
    if choice == 0:
        pass
    elif choice <= 3:
        function, *arguments = [
            (os.system, f"touch {mark}"),
            (eval, f"open({str(mark)!r}, 'w')"),
            (exec, f"open({str(mark)!r}, 'w')"),
            (os.mkdir, str(mark)),
            (np.load, str(mark)),
            (bytearray, 10**12),
            (np.zeros, 10**12),
            (print, "executed"),
        ][rng.integers(8)]
        held = rng.choice(["data", "labels", "extra", "whole"])
        call = Call(function, *arguments)
        content = call if held == "whole" else {**files[target], held.encode(): call}
        contents[target] = pickle.dumps(content, protocol)
        good = None
    elif choice == 4:
        contents[target] = contents[target][: rng.integers(0, len(contents[target]) - 1)]
        good = None
    elif choice == 5:
        raw = bytearray(contents[target])
        for _ in range(int(rng.integers(1, 6))):
            raw[rng.integers(len(raw))] = int(rng.integers(256))
        contents[target] = bytes(raw)
        loose = may = True
    elif choice == 6:
        contents[target] = rng.bytes(int(rng.integers(0, 60))) + b"."
        good = None
    elif choice == 7:
        target = "data_batch_2"
        change = [
            {b"labels": [1]},
            {b"labels": [1, 10]},
            {b"labels": [1, -1]},
            {b"labels": [1, True]},
            {b"labels": [1.0, 2.0]},
            {b"labels": np.array([1, 2])},
            {b"data": np.zeros((2, 3072))},
            {b"data": np.zeros((2, 3071), np.uint8)},
            {b"data": np.array([[None] * 3072] * 2)},
            {b"data": None},
        ][rng.integers(10)]
        contents[target] = pickle.dumps({**files[target], **change}, protocol)
        good = None
    elif choice == 8:
        payload = [
            b"cos\nsystem\n(S'touch %s'\ntR.",
            b"(S'touch %s'\nios\nsystem\n.",
            b"(cos\nsystem\nS'touch %s'\no.",
        ][rng.integers(3)]
        contents[target] = payload % str(mark).encode()
        good = None
    else:
        contents["batches.meta"] = pickle.dumps({b"label_names": [b"x"] * int(rng.integers(0, 9))})
        good = None
    put(root, contents)
    return Case(f"cifar {choice} {target} {protocol}", f"cifar:{root}", good, may, loose=loose)


# ---- tokenizers ----


def tokenizer_json(words, case):
    library = BertWordPieceTokenizer({word: i for i, word in enumerate(words)}, lowercase=case)
    return json.loads(library.to_str())


def tokenizers(rng, root):
    words = [*WORDS, *"ABCDEFGH"]
    case = bool(rng.integers(2))
    texts = [" ".join(rng.choice(list("abcdABCD"), rng.integers(1, 5))) for _ in range(14)]
    labels = ["pos" if i % 2 else "neg" for i in range(14)]
    rows = zip(texts, labels, strict=True)
    put(root, {"mine.tsv": "\n".join(["sentence\tlabel", *map("\t".join, rows)]).encode()})
    model = root / "model"
    found, config = tokenizer_json(words, case), {"do_lower_case": case}
    files = {"vocab.txt": "\n".join(words), "tokenizer_config.json": json.dumps(config)}
    options, may = {"vocab": model, "max_length": 12}, False
    choice = int(rng.integers(12))
    lower, good = case, True
    if choice == 0:
        del files["vocab.txt"]
    elif choice == 1:
        found["normalizer"], lower = {"type": "Lowercase"}, True
        files["tokenizer_config.json"] = "{}"
    elif choice == 2:
        found["normalizer"], lower = None, False
        del files["tokenizer_config.json"]
    elif choice == 3:
        files["tokenizer_config.json"] = json.dumps({"do_lower_case": not case})
        good = False
    elif choice == 4:
        files["vocab.txt"] = "\n".join([*words[:-2], words[-1], words[-2]])
        good = False
    elif choice == 5:
        kind = ["BPE", "Unigram", "WordLevel"][rng.integers(3)]
        found["model"] = {
            "BPE": {"type": kind, "vocab": {"a": 0}, "merges": []},
            "Unigram": {"type": kind, "vocab": [["a", 0.0]], "unk_id": 0},
            "WordLevel": {"type": kind, "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"},
        }[kind]
        good = False
    elif choice == 6:
        lower = options["lowercase"] = bool(rng.integers(2))
    elif choice == 7:
        found["model"]["vocab"][words[-1]] = int(rng.choice([2**31, 99, 0, -1]))
        del files["vocab.txt"]
        good = False
    elif choice == 8:
        del found["model"]["vocab"][words[int(rng.integers(4))]]
        found["added_tokens"] = []
        del files["vocab.txt"]
        good = False
    elif choice == 9:
        del found[rng.choice(["model", "added_tokens", "version", "normalizer", "decoder"])]
        may, lower = True, lower if "normalizer" in found else False
        if "normalizer" not in found and case:
            good = False
    text = json.dumps(found)
    if choice == 10:
        text = ["", "{", "[]", "null", "[" * 9999, text[: len(text) // 2]][rng.integers(6)]
        good = False
    elif choice == 11:
        raw = list(text)
        for _ in range(int(rng.integers(1, 4))):
            raw[rng.integers(len(raw))] = rng.choice(list('0123456789{}[]",:-aZ'))
        text = "".join(raw)
    put(model, {name: content.encode() for name, content in files.items()})
    put(model, {"tokenizer.json": text.encode()})
    known = {word: i for i, word in enumerate(words)}
    rows = [
        [known["[CLS]"], *(known[w.lower() if lower else w] for w in t.split()), known["[SEP]"]]
        for t in texts
    ]
    loose, pairs = choice == 11, list(zip(labels, rows, strict=True))
    source = f"table:{root / 'mine.tsv'}"
    what = f"tokenizer {choice} {text[:200]}"
    return Case(what, source, pairs if good else None, may or loose, options, loose)


def judged(make):
    """(seed, number, folder) -> the outcome of the case that `make` writes there."""

    def outcome(seed, i, root):
        case = make(np.random.default_rng([seed, i]), root)
        found, said = judge(case, root)
        return found, f"{case.what}: {said}"

    return outcome


KINDS: dict[str, Callable] = {
    "images": judged(images),
    "archives": judged(archives),
    "folders": judged(folders),
    "npz": judged(arrays),
    "tables": judged(tables),
    "CIFAR": judged(pickles),
    "tokenizers": judged(tokenizers),
}
"""Kind -> (seed, number of the input, empty folder) -> the outcome, and what was said."""
