"""Decoding of images to arrays of pixels."""

import io
import numbers
import struct
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tsam_jax.data._errors import DataError, reason

MAX_PIXELS = 2**26
"""Maximum number of pixels, 67 million: more than cameras make, and 200 MB once decoded."""

BACKGROUND = (255, 255, 255)
"""Colour behind transparent pixels: white, as in a browser."""

EXCLUDED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow lists but cannot decode, or decodes by running another program."""

UNDECODED = {".heic", ".heif", ".hif"}
"""Suffixes of images that need a Pillow plugin; counted as images so that the error says so."""

_PNG = b"\x89PNG\r\n\x1a\n"
_ORIENTATION = 0x0112
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
"""EXIF orientation -> the Pillow `Transpose` that undoes it."""

_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


def image_suffixes() -> set[str]:
    """Returns the suffixes, in lower case, of files that count as images."""
    from PIL import Image

    known = Image.registered_extensions().items()  # loads the plugins
    formats = set(_formats())
    return {suffix.lower() for suffix, name in known if name in formats} | UNDECODED


def _formats() -> list[str]:
    from PIL import Image

    Image.init()
    return [name for name in Image.ID if name not in EXCLUDED]


def decode_image(content: bytes, where: str, *, mode: str = "RGB") -> np.ndarray:
    """Decodes an image as a viewer shows it, upright and opaque.

    Args:
      content: the file, in any format that Pillow reads; an animation gives its first frame.
      where: names the image in errors.
      mode: "RGB", or "L" for grey.

    Returns:
      Shape (height, width, channels), uint8. The EXIF orientation is applied, transparent pixels
      show `BACKGROUND`, and 16-bit grey levels are scaled to 8 bits.

    Raises:
      DataError: if the image cannot be decoded, has more than `MAX_PIXELS`, or has pixels of a
        type without a known range, such as floating point.
    """
    from PIL import Image

    if not content:
        msg = f"{where}: is empty."
        raise DataError(msg)
    try:
        image = Image.open(io.BytesIO(content), formats=_formats())
        _check_size(image.size, where)
        if image.format == "PNG":
            _check_png(content)
        image.load()
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))  # after `load`, which turns TIFFs
        image = _opaque(image, where).convert(mode)
        pixels = np.asarray(image if turn is None else image.transpose(turn))
    except DataError:
        raise
    except Exception as error:  # Pillow's plugins raise many types on damaged files
        heic = content[4:8] == b"ftyp" and "identify" in str(error)
        said = "HEIC needs the package pillow-heif, registered" if heic else _say(error)
        msg = f"{where}: cannot be decoded as an image: {said}."
        raise DataError(msg) from error
    return pixels.reshape(*pixels.shape[:2], -1)


def _say(error: Exception) -> str:
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # its message shows a memory address
        return "Pillow does not know its format"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"it has more than {MAX_PIXELS:,} pixels"
    return "it is truncated or damaged" if isinstance(error, struct.error) else reason(error)


def _check_png(content: bytes) -> None:
    """Raises ValueError for a chunk with a wrong checksum; Pillow skips the check of pixel data."""
    start, kind = len(_PNG), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, start)
        end = start + 8 + length
        if zlib.crc32(content[start + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            msg = f"the checksum of its chunk {kind!r} is wrong"
            raise ValueError(msg)
        start = end + 4


def _check_size(size: tuple[int, int], where: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        msg = f"{where}: must have at most {MAX_PIXELS:,} pixels, got {height} x {width}."
        raise DataError(msg)


def _opaque(image: Any, where: str) -> Any:
    """Converts to 8 bits per channel and puts the background behind transparent pixels."""
    from PIL import Image

    if image.mode in {"I", "F"} or image.mode.startswith("I;"):
        return _narrow(image, where)
    palette = image.mode == "P" and image.palette is not None and image.palette.mode == "RGBA"
    if not palette and "transparency" not in image.info and image.mode[-1] not in "Aa":
        return image
    if image.mode == "La":  # Pillow has no direct conversion to RGBA
        image = image.convert("LA")
    shown = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", shown.size, (*BACKGROUND, 255)), shown)


def _narrow(image: Any, where: str) -> Any:
    """Scales grey levels of up to 16 bits to 8 bits."""
    from PIL import Image

    # Pillow's readers of PNG and PPM scale to 16 bits in any mode; FITS is signed.
    known = {"PNG", "PPM"} if image.mode == "I" else {"PNG", "PPM", "TIFF", "JPEG2000"}
    if image.mode == "F" or image.format not in known:
        kind = {"F": "floating point", "I": "32-bit integers"}.get(image.mode, "16-bit integers")
        msg = (
            f"{where}: has pixels in {kind}, whose values for black and white are unknown;"
            " convert it to 8 or 16 bits."
        )
        raise DataError(msg)
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0] if image.format == "TIFF" else 16
    peak = 2**bits - 1
    levels = np.asarray(image).astype(np.int64)
    hidden = levels == image.info.get("transparency", -1)
    if levels.min() < 0 or levels.max() > peak:
        msg = f"{where}: has grey levels outside 0 to {peak}, the range of its {bits} bits."
        raise DataError(msg)
    if image.format == "TIFF" and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        levels = peak - levels
    grey = (levels * 255 + peak // 2) // peak
    grey[hidden] = BACKGROUND[0]
    return Image.fromarray(grey.astype(np.uint8))


def stack_images(
    images: Iterable[np.ndarray],
    rows: Iterable[int],
    where: Callable[[int], str],
    size: int | None,
) -> np.ndarray:
    """Stacks images of shape (height, width, channels), uint8, after resizing if `size` is given.

    Args:
      images: the images.
      rows: the row of each image.
      where: names a row in errors.
      size: side in pixels; None to keep the size, which must be the same for all images.

    Returns:
      Shape (n, height, width, channels), uint8.

    Raises:
      DataError: if the sizes differ.
    """
    check_side(size)
    stacked: list[np.ndarray] = []
    for row, image in zip(rows, images, strict=True):
        same = image if size is None else _resize(image, size)
        if stacked and same.shape != stacked[0].shape:
            shape, first = (" x ".join(map(str, found.shape)) for found in (same, stacked[0]))
            msg = (
                f"{where(row)}: is {shape}, but the first image is {first}."
                " Pass `size=`, in pixels, to resize all images."
            )
            raise DataError(msg)
        stacked.append(same)
    return np.stack(stacked)


def check_side(size: int | None) -> None:
    """Raises DataError unless `size` is None or a possible side of an image."""
    if size is None:
        return
    if (
        isinstance(size, bool)
        or not isinstance(size, numbers.Integral)
        or not 1 <= size <= MAX_PIXELS**0.5
    ):
        most = int(MAX_PIXELS**0.5)
        msg = f"`size` must be an integer from 1 to {most} pixels, got {size!r}."
        raise DataError(msg)


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes bilinearly to a square, ignoring the aspect ratio, as in the official DTD recipe."""
    from PIL import Image

    def squared(pixels: np.ndarray) -> np.ndarray:
        resized = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(resized)

    if image.shape[-1] == 3:
        return squared(image)
    channels = [squared(np.ascontiguousarray(image[..., i])) for i in range(image.shape[-1])]
    return np.stack(channels, axis=-1)
