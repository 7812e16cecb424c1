"""Common names of the training, validation and test parts."""

import re

PARTS = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "valid", "val", "dev", "devel", "development"),
    "test": ("test", "testing", "tst"),
}
"""Part -> its names, in any case, with or without "set", as in `Training_Set`."""

_PART_OF = {
    word + end: part for part, words in PARTS.items() for word in words for end in ("", "set")
}
_WORDS = {part: "|".join(words) for part, words in PARTS.items()}
_LIKE = {
    part: re.compile(rf"(?:^|[^a-z])(?:{words})(?:set|s|data|images|imgs|[a-z])?(?:[^a-z]|$)")
    for part, words in _WORDS.items()
}


def part_of(name: str) -> str | None:
    """Returns the part that a folder or a file's stem is named after; None for other names."""
    return _PART_OF.get(re.sub(r"[-_ .]", "", name.lower()))


def like_part(name: str) -> str | None:
    """Returns the part that a name resembles, such as "train" for `seg_train` and `train2017`."""
    return next((part for part, like in _LIKE.items() if like.search(name.lower())), None)
