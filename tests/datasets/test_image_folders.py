"""Images in folders and archives: what is read, as what part, and what is refused."""

import gzip
import io
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from tsam_jax import data
from tsam_jax.data import DataError, _files


def png(value, size=(4, 4), mode="RGB", kind="PNG"):
    file = io.BytesIO()
    Image.new(mode, size, (value,) * 3 if mode == "RGB" else value).save(file, kind)
    return file.getvalue()


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return f"folder:{root}"


def images(part, classes="ab", per_class=5, first=0):
    return {
        f"{part}{name}/{i}.png": png(first + 10 * k + i)
        for k, name in enumerate(classes)
        for i in range(per_class)
    }


def pixels(examples):
    return sorted(examples.inputs[:, 0, 0, 0].tolist())


def test_class_folders_are_carved_into_parts(tmp_path):
    splits = data.load(write(tmp_path, images("")), validation=2, test=3)
    assert splits.class_names == ("a", "b")
    assert splits.num_classes == 2
    assert splits.kind == "image"
    assert splits.train.inputs.shape == (5, 4, 4, 3)
    assert splits.train.inputs.dtype == np.uint8
    assert splits.train.labels.dtype == np.int32
    for part in splits[:3]:
        assert (part.inputs[:, 0, 0, 0] // 10 == part.labels).all()
    everything = sum((pixels(part) for part in splits[:3]), [])  # noqa: RUF017  # three short lists
    assert sorted(everything) == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]


def test_folders_of_parts_are_the_parts(tmp_path):
    files = images("train/") | images("val/", first=100) | images("test/", first=200)
    splits = data.load(write(tmp_path, files))
    assert [len(part.labels) for part in splits[:3]] == [10, 10, 10]
    assert [pixels(part)[0] for part in splits[:3]] == [0, 100, 200]


def test_val_without_test_is_the_test_part(tmp_path):
    files = images("train/") | images("val/", first=100)
    splits = data.load(write(tmp_path, files), validation=2)
    assert pixels(splits.test)[0] == 100
    assert len(splits.validation.labels) == 2


def test_a_zip_archive_is_read_like_its_folder(tmp_path):
    folder = data.load(write(tmp_path / "here", images("")), test=3)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name, content in images("").items():
            archive.writestr(f"top/{name}", content)
        archive.writestr("__MACOSX/top/a/._0.png", b"rubbish")
    zipped = data.load(f"folder:{tmp_path / 'all.zip'}", test=3)
    assert (zipped.train.inputs == folder.train.inputs).all()


def test_statistics_are_those_of_the_training_part(tmp_path):
    splits = data.load(write(tmp_path, images("")), validation=2, test=3)
    assert splits.mean == pytest.approx([splits.train.inputs.mean() / 255] * 3)
    assert len(splits.std) == 3


def test_grey_and_palette_images_become_rgb(tmp_path):
    files = images("") | {"a/grey.png": png(77, mode="L"), "b/palette.gif": png(99, kind="GIF")}
    splits = data.load(write(tmp_path, files), validation=1, test=1)
    inputs = np.concatenate([part.inputs for part in splits[:3]])
    assert inputs.shape == (12, 4, 4, 3)
    labels = np.concatenate([part.labels for part in splits[:3]])
    for value, label in ((77, 0), (99, 1)):
        [found] = np.nonzero((inputs == value).all(axis=(1, 2, 3)))
        assert labels[found].tolist() == [label]


def test_hidden_files_and_notes_are_passed_over(tmp_path):
    files = images("") | {".DS_Store": b"x", "a/._0.png": b"x", "a/notes.txt": b"x"}
    with pytest.warns(data.DataWarning, match=r"skipped 1 of 11 files .*\(1 \.txt\)\.$"):
        splits = data.load(write(tmp_path, files), test=3, validation=3)
    assert len(splits.train.labels) == 4


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a/bad.png": b""}, "a/bad.png: is empty"),
        ({"a/bad.png": b"no image"}, "a/bad.png: cannot be decoded"),
        ({"a/bad.png": png(1, (64, 64))[:60]}, "a/bad.png: cannot be decoded"),
        ({"z.png": png(1)}, "z.png: must be in the folder of a class"),
        ({"b/wide.png": png(1, (5, 4))}, r"is 4 x (5|4) x 3, but .* is 4 x (4|5) x 3.*`size=`"),
    ],
)
def test_files_that_are_no_images_of_one_size_are_refused(tmp_path, files, words):
    with pytest.raises(DataError, match=words):
        data.load(write(tmp_path, images("") | files))


def test_size_resizes_all_images(tmp_path):
    files = images("") | {"b/wide.png": png(200, (9, 5))}
    splits = data.load(write(tmp_path, files), size=3, test=1, validation=1)
    assert splits.train.inputs.shape[1:] == (3, 3, 3)
    with pytest.raises(DataError, match="`size` must be an integer from 1 to 8192"):
        data.load(f"folder:{tmp_path}", size=0)


def test_a_class_that_is_not_in_train_is_refused(tmp_path):
    files = images("train/") | images("test/", classes="ac")
    with pytest.raises(DataError, match=r"test/c/0.png: label 'c' is unknown; the classes are"):
        data.load(write(tmp_path, files))


def test_a_folder_beside_train_that_is_no_part_is_refused(tmp_path):
    with pytest.raises(DataError, match="'extra' is next to the training folder"):
        data.load(write(tmp_path, images("train/") | images("extra/")))


def test_what_has_no_classes_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such folder or zip"):
        data.load(f"folder:{tmp_path / 'nowhere'}")
    with pytest.raises(DataError, match="is empty"):
        data.load(write(tmp_path, {}))
    with pytest.raises(DataError, match="at least two classes"):
        data.load(write(tmp_path, images("", classes="a")))


def test_corrupt_archives_are_refused(tmp_path):
    (tmp_path / "bad.zip").write_bytes(b"PK rubbish")
    with pytest.raises(DataError, match=r"bad.zip: cannot be read as a zip archive"):
        data.load(f"folder:{tmp_path / 'bad.zip'}")
    path = tmp_path / "damaged.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in images("").items():
            archive.writestr(name, content)
    content = bytearray(path.read_bytes())
    content[50] ^= 255  # in the first image
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged.zip, a/0.png: cannot be read from the archive"):
        data.load(f"folder:{path}")


def save(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def shown(tmp_path, content, suffix="png"):
    """The one image of class a, as it is read."""
    side = Image.open(io.BytesIO(content)).size
    others = {f"b/{i}.png": png(i, side) for i in range(2)}
    splits = data.load(write(tmp_path, {f"a/0.{suffix}": content, **others}), validation=1, test=1)
    (found,) = (part.inputs[part.labels == 0][0] for part in splits[:3] if 0 in part.labels)
    return found


RAMP = np.arange(36, dtype=np.uint8).reshape(6, 6) * 7
COLOURS = np.stack([RAMP, RAMP.T, 255 - RAMP], axis=-1)

# Orientation -> where the first row and column of the stored image are shown (the EXIF standard).
TURNS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: np.rot90(x, 2),
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", TURNS)
def test_the_orientation_of_exif_is_applied(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    content = save(Image.fromarray(COLOURS), kind, exif=exif, **options)
    assert (shown(tmp_path, content, kind.lower()) == TURNS[orientation](COLOURS)).all()


def test_16_bits_with_an_orientation_are_scaled_and_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = save(Image.fromarray(RAMP.astype(np.uint16) * 257), exif=exif)
    assert (shown(tmp_path, content) == TURNS[6](RAMP)[..., None]).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_grey_levels_of_16_bits_are_scaled(tmp_path, kind):
    levels = np.array([[0, 257, 20_000, 40_000, 65_535]], np.uint16)
    content = save(Image.fromarray(levels), kind)
    assert shown(tmp_path, content, "pgm" if kind == "PPM" else "tif")[0].tolist() == [
        [v] * 3 for v in (0, 1, 78, 156, 255)
    ]


def test_white_is_zero_in_some_tiffs(tmp_path):
    levels = np.array([[0, 20_000, 65_535]], np.uint16)
    content = save(Image.fromarray(levels), "TIFF", tiffinfo={262: 0})
    assert shown(tmp_path, content, "tif")[0, :, 0].tolist() == [255, 177, 0]


@pytest.mark.parametrize(("peak", "half"), [(100, 50), (1000, 500), (4095, 2048), (255, 128)])
def test_pgm_has_its_own_white(tmp_path, peak, half):
    content = b"P2 3 1 %d\n0 %d %d\n" % (peak, half, peak)
    assert shown(tmp_path, content, "pgm")[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.ones((2, 2), np.float32), "pixels in floating point, whose values for black"),
        (np.ones((2, 2), np.int32), "pixels in 32-bit integers, whose values for black"),
    ],
)
def test_pixels_without_a_known_range_are_refused(tmp_path, pixels, words):
    content = save(Image.fromarray(pixels), "TIFF")
    with pytest.raises(DataError, match=rf"a/0.tif: has {words}"):
        shown(tmp_path, content, "tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "L", "I;16"])
def test_transparent_pixels_are_white(tmp_path, mode):
    if mode == "RGBA":
        content = save(Image.fromarray(np.array([[[9, 9, 9, 0], [9, 8, 7, 255]]], np.uint8)))
        expected = [[255] * 3, [9, 8, 7]]
    elif mode == "LA":
        content = save(Image.fromarray(np.array([[[9, 0], [9, 255], [0, 51]]], np.uint8), "LA"))
        expected = [[255] * 3, [9] * 3, [204] * 3]
    elif mode in {"P", "PA"}:
        image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
        image.putpalette([9, 9, 9, 1, 2, 3])
        content = save(image, transparency=0 if mode == "P" else bytes([0, 255]))
        expected = [[255] * 3, [1, 2, 3]]
    else:
        dtype = np.uint8 if mode == "L" else np.uint16
        content = save(Image.fromarray(np.array([[0, 5, 9]], dtype)), transparency=5)
        expected = [[0] * 3, [255] * 3, [9 if mode == "L" else 0] * 3]
    assert shown(tmp_path, content)[0].tolist() == expected


def chunk(kind, content):
    size, code = len(content).to_bytes(4, "big"), zlib.crc32(kind + content).to_bytes(4, "big")
    return size + kind + content + code


def bomb(width, height):
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (bomb(8193, 8193), "must have at most 67,108,864 pixels, got 8193 x 8193"),
        (bomb(20_000, 20_000), "more than 67,108,864 pixels"),
        (bomb(2**31 - 1, 2**31 - 1), "more than 67,108,864 pixels|cannot be decoded"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC needs the package pillow-heif"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\n", "Pillow does not know its format"),
        (png(1)[:-4] + b"abcd", r"checksum of its chunk b'IEND' is wrong"),
        (png(1)[:-12], "cannot be decoded as an image"),
        (b"II*\0\x08\0\0\0", "cannot be decoded as an image"),
    ],
)
def test_bombs_and_damaged_images_are_one_sentence(tmp_path, content, words):
    with pytest.raises(DataError, match=rf"a/bad.png: .*({words})") as caught:
        data.load(write(tmp_path, images("") | {"a/bad.png": content}))
    assert len(str(caught.value).replace(str(tmp_path), "")) < 200


def test_a_change_of_any_byte_of_a_png_is_noticed(tmp_path):
    content = png(7, (3, 3))
    for position in range(8, len(content)):
        changed = bytearray(content)
        changed[position] ^= 16
        with pytest.raises(DataError, match=r"cannot be decoded|must have at most"):
            data.load(write(tmp_path, {"a/0.png": bytes(changed), **images("", "b", 2)}))


@pytest.mark.parametrize("damage", ["password", "method", "size", "twice", "windows"])
def test_odd_archives(tmp_path, damage):
    path = tmp_path / "odd.zip"
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        for name, content in images("").items():
            archive.writestr(name.replace("/", "\\") if damage == "windows" else name, content)
        if damage == "twice":
            archive.writestr("a/0.png", png(3))
    content = bytearray(path.read_bytes())
    central = content.index(b"PK\x01\x02")
    if damage == "password":
        content[6] |= 1
        content[central + 8] |= 1
    elif damage == "method":
        content[8] = content[central + 10] = 77
    elif damage == "size":
        content[central + 24 : central + 28] = (2**32 - 2).to_bytes(4, "little")
    path.write_bytes(content)
    if damage == "windows":
        assert data.load(f"folder:{path}").class_names == ("a", "b")
        return
    words = {"password": "encrypted", "method": "compression", "size": "size", "twice": "twice"}
    with pytest.raises(DataError, match=rf"odd.zip, a/0.png: .*{words[damage]}"):
        data.load(f"folder:{path}")


def test_members_and_texts_are_read_with_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(_files.read_file, "__defaults__", (40,))
    monkeypatch.setattr(_files.read_stream, "__defaults__", (40,))
    monkeypatch.setattr(_files, "MAX_TEXT", 40)
    folder = write(tmp_path / "here", images(""))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name, content in images("").items():
            archive.writestr(name, content)
    (tmp_path / "t.tsv.gz").write_bytes(gzip.compress(b"a" * 1000))
    for name in (folder, f"folder:{tmp_path / 'all.zip'}", f"table:{tmp_path / 't.tsv.gz'}"):
        with pytest.raises(DataError, match="larger than 0 MiB, the limit for"):
            data.load(name)


@pytest.mark.parametrize("train", ["Train", "TRAINING", "training_set", "Training Set", "trainset"])
@pytest.mark.parametrize("val", ["Val", "valid", "validation_set", "DEV"])
@pytest.mark.parametrize("test", ["Test", "testing", "test-set"])
def test_parts_have_any_of_the_usual_names(tmp_path, train, val, test):
    files = images(f"{train}/", per_class=2)
    files |= images(f"{val}/", first=100, per_class=1) | images(f"{test}/", first=200, per_class=1)
    splits = data.load(write(tmp_path, files))
    assert splits.class_names == ("a", "b")
    assert [pixels(part)[0] for part in splits[:3]] == [0, 100, 200]


@pytest.mark.parametrize("names", [("control", "test"), ("dev", "prod"), ("car", "train")])
def test_a_class_may_be_called_like_a_part(tmp_path, names):
    files = {f"{name}/{i}.png": png(i) for name in names for i in range(4)}
    if "test" in names:
        files |= {f"test/{day}/{i}.png": png(i) for day in ("monday", "friday") for i in range(3)}
    splits = data.load(write(tmp_path, files))
    assert splits.class_names == names
    assert sum(len(part.labels) for part in splits[:3]) == len(files)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["train2017/a/0", "val2017/a/0"], "look like parts"),
        (["seg_train/a/0", "seg_test/a/0"], "look like parts"),
        (["trainA/0", "testA/0"], "look like parts"),
        (["train/0", "test/0"], "look like parts"),
        (["val/a/0", "test/a/0"], "look like parts"),
        (["a/train/0", "b/train/0", "a/test/0", "b/test/0"], "move the parts to the top"),
        (["train/a/0", "Training/b/0"], "Training, train all name the train part"),
        (["train/a/0", "train/b/0", "val/a/0", "dev/a/0"], "dev, val all name the validation"),
        (["train/a/0", "train/b/0", "test/0"], "test/0.png: must be in the folder of a class"),
        (["train/a/0", "train/b/0", "more/a/0"], "'more' is next to the training folder"),
    ],
)
def test_folders_that_seem_to_be_parts_are_refused(tmp_path, names, words):
    with pytest.raises(DataError, match=words):
        data.load(write(tmp_path, {f"{name}.png": png(1) for name in names}))


def test_parts_of_different_sizes_are_refused(tmp_path):
    files = images("train/") | {f"test/{c}/0.png": png(1, (5, 5)) for c in "ab"}
    with pytest.raises(DataError, match=r"test part has inputs of shape \(5, 5, 3\).*`size=`"):
        data.load(write(tmp_path, files))
    assert data.load(f"folder:{tmp_path}", size=4).test.inputs.shape == (2, 4, 4, 3)


def test_links_are_followed_and_loops_are_refused(tmp_path):
    write(tmp_path / "store", images(""))
    view = tmp_path / "view"
    view.mkdir()
    for name in "ab":
        (view / name).symlink_to(tmp_path / "store" / name)
    plain = data.load(f"folder:{tmp_path / 'store'}")
    assert (data.load(f"folder:{view}").train.inputs == plain.train.inputs).all()
    (view / "c").mkdir()
    (view / "c" / "up").symlink_to(view)
    with pytest.raises(DataError, match=r"c/up: the link points to a parent folder"):
        data.load(f"folder:{view}")
    (view / "c" / "up").unlink()
    (view / "c" / "0.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"c/0.png: is a broken link or not"):
        data.load(f"folder:{view}")


def test_every_format_of_pillow_is_read(tmp_path):
    image, kinds = Image.fromarray(COLOURS), {"jfif": "JPEG", "HEIC": "JPEG", "tga": "TGA"}
    kinds |= {"qoi": "QOI", "pcx": "PCX", "ppm": "PPM", "TIF": "TIFF", "jp2": "JPEG2000"}
    files = {f"{k}/{i}.{k}": save(image, v) for k, v in kinds.items() for i in range(2)}
    splits = data.load(write(tmp_path, files))
    assert splits.class_names == tuple(sorted(kinds))


def test_what_is_left_out_is_counted(tmp_path):
    files = images("") | {f"raw/{i}.cr2": b"x" for i in range(3)} | {"a/LICENSE": b"x"}
    name = write(tmp_path, files)
    (tmp_path / "empty").mkdir()
    words = r"skipped 4 of 14 files .*\(3 \.cr2, 1 no suffix\); folders .*: 2 \(empty, raw\)"
    with pytest.warns(data.DataWarning, match=words):
        assert data.load(name).class_names == ("a", "b")


def test_16_bits_of_a_format_without_a_known_range_are_refused(tmp_path):
    cards = ["SIMPLE  =                    T", "BITPIX  =                   16"]
    cards += ["NAXIS   =                    2", "NAXIS1  =                    2"]
    cards += ["NAXIS2  =                    2", "END"]
    header = "".join(card.ljust(80) for card in cards).ljust(2880).encode()
    with pytest.raises(DataError, match=r"a/0.fits: has pixels in 16-bit integers, whose values"):
        data.load(write(tmp_path, {"a/0.fits": header + bytes(2880), **images("", "b", 3)}))
