"""Encoded images into arrays."""

import io
import warnings
from collections.abc import Callable, Iterable

import numpy as np

from tsam_jax.data._errors import DataError


def read_images(
    rows: Iterable[int],
    content: Callable[[int], bytes],
    where: Callable[[int], str],
    size: int | None,
) -> np.ndarray:
    """Decodes images of one size.

    Args:
      rows: which images.
      content: row -> encoded image.
      where: row -> what errors call the image.
      size: side in pixels to which all images are resized; None to keep the size they have.

    Returns:
      Shape (n, height, width, 3), uint8.
    """
    return stack((decode(content(row), where(row)) for row in rows), rows, where, size)


def stack(
    images: Iterable[np.ndarray],
    rows: Iterable[int],
    where: Callable[[int], str],
    size: int | None,
) -> np.ndarray:
    """Stacks images of one size, or resizes them.

    Args:
      images: each of shape (height, width, channels), uint8.
      rows: the row of each image.
      where: row -> what errors call the image.
      size: as in `read_images`.

    Returns:
      Shape (n, height, width, channels), uint8.

    Raises:
      DataError: if the sizes differ.
    """
    stacked: list[np.ndarray] = []
    for row, image in zip(rows, images, strict=True):
        same = resize(image, size) if size is not None else image
        if stacked and same.shape != stacked[0].shape:
            msg = (
                f"{where(row)}: is {_shape(same)}, and images before it are {_shape(stacked[0])}."
                " Give `size=` a number of pixels to resize all images to."
            )
            raise DataError(msg)
        stacked.append(same)
    return np.stack(stacked)


def decode(content: bytes, where: str, *, mode: str = "RGB") -> np.ndarray:
    """Decodes one image.

    Args:
      content: encoded image, of any format that Pillow reads.
      where: what errors call the image.
      mode: "RGB", or "L" for one channel of grey.

    Returns:
      Shape (height, width, channels), uint8.

    Raises:
      DataError: if it is no image, or is cut off.
    """
    from PIL import Image

    if not content:
        msg = f"{where}: is empty."
        raise DataError(msg)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = np.asarray(Image.open(io.BytesIO(content)).convert(mode))
    except (OSError, ValueError, SyntaxError, EOFError, Warning) as error:
        msg = f"{where}: cannot be decoded as an image: {error}"
        raise DataError(msg) from error
    return image.reshape(*image.shape[:2], -1)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes an image to a square, bilinearly and with antialiasing.

    Args:
      image: shape (height, width, 3), or (height, width, 1); uint8.
      size: side in pixels, >= 1.

    Returns:
      Shape (size, size, channels), uint8. The sides' ratio is not kept, as in the official code's
      recipe for DTD.

    Raises:
      DataError: if `size` is less than 1.
    """
    from PIL import Image

    if size < 1:
        msg = f"`size` must be at least 1 pixel, got {size}."
        raise DataError(msg)
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    resized = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))
    return resized.reshape(size, size, image.shape[-1])


def _shape(image: np.ndarray) -> str:
    return " x ".join(map(str, image.shape))
