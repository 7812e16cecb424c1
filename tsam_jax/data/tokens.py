"""Sentences into tokens: BERT's word pieces, from a vocabulary file."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tsam_jax.data._errors import DataError, reason
from tsam_jax.data._files import read_text
from tsam_jax.data.splits import Records

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
TEXT_OPTIONS = ("vocab", "max_length", "lowercase", "pad_to_longest")
"""Options of every source of text: arguments of `text_records`."""

MAX_LENGTH = 2**16
"""Largest `max_length`: rows are padded to it in memory."""

MULTIPLE = 8
"""Lengths of padded sentences are rounded up to this."""


class Tokenizer(NamedTuple):
    """A tokenizer of sentences and pairs of sentences.

    Attributes:
      encode: columns of n sentences, one or two -> dict of "token_ids", "attention_mask" and
        "token_type_ids", shape (n, max_length), int32.
      longest: columns -> tokens of the longest row, before padding, at most max_length.
      vocab_size: entries of the vocabulary.
    """

    encode: Callable[[Sequence[Sequence[str]]], dict[str, np.ndarray]]
    longest: Callable[[Sequence[Sequence[str]]], int]
    vocab_size: int


def make_tokenizer(
    vocab: str | Path, *, max_length: int = 64, lowercase: bool | None = None
) -> Tokenizer:
    """Makes a tokenizer from a vocabulary.

    A sentence becomes [CLS] a [SEP], a pair [CLS] a [SEP] b [SEP], with token types 0 up to the
    first [SEP] and 1 after it. A row that is too long loses tokens at the end of its longer
    sentence.

    Args:
      vocab: the `vocab.txt` of a BERT or DistilBERT checkpoint, or the checkpoint's folder. The
        file has one token a line, with [PAD], [UNK], [CLS] and [SEP] among them; the number of
        a line, from 0, is the token's id.
      max_length: tokens of a row, the special ones included; rows are padded to it.
      lowercase: lower-case and strip accents first, as for "uncased" checkpoints. None for the
        `do_lower_case` of tokenizer_config.json beside the vocabulary; True without that file.

    Returns:
      The tokenizer.

    Raises:
      DataError: if there is no vocabulary, or `max_length` leaves no room for a pair.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = Path(folder, "vocab.txt")
      ...     size = path.write_text("[PAD] [UNK] [CLS] [SEP] good film ##s".replace(" ", chr(10)))
      ...     tokenizer = make_tokenizer(path, max_length=6)
      >>> tokenizer.encode([["Good films"]])["token_ids"].tolist()
      [[2, 4, 5, 6, 3, 0]]

    Source: Devlin et al., "BERT", arXiv:1810.04805; word pieces by the `tokenizers` library. The
    official TSAM code has max_length 64.
    """
    import tokenizers

    if not 5 <= max_length <= MAX_LENGTH:
        msg = (
            f"`max_length` must be at least 5, for a pair and its special tokens, and at most"
            f" {MAX_LENGTH}, got {max_length}."
        )
        raise DataError(msg)
    path = _find_vocabulary(Path(vocab))
    entries = _read_vocabulary(path)
    if lowercase is None:
        lowercase = _lowercase_of(path.with_name("tokenizer_config.json"))
    tokenizer = tokenizers.BertWordPieceTokenizer(entries, lowercase=lowercase)
    tokenizer.enable_truncation(max_length)

    def rows(columns: Sequence[Sequence[str]]) -> list[Any]:
        pairs = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
        return list(tokenizer.encode_batch(pairs))

    def encode(columns: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
        encoded = rows(columns)
        shape = (len(encoded), max_length)
        ids = np.full(shape, entries["[PAD]"], np.int32)
        mask, types = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        for i, row in enumerate(encoded):
            ids[i, : len(row.ids)] = row.ids
            mask[i, : len(row.ids)] = 1
            types[i, : len(row.ids)] = row.type_ids
        return {"token_ids": ids, "attention_mask": mask, "token_type_ids": types}

    def longest(columns: Sequence[Sequence[str]]) -> int:
        return max(len(row.ids) for row in rows(columns))

    return Tokenizer(encode, longest, len(entries))


def _find_vocabulary(path: Path) -> Path:
    if not path.is_dir():
        return path
    if not (path / "vocab.txt").is_file():
        msg = f"{path}: has no vocab.txt; name a folder that has one, or a vocabulary file."
        raise DataError(msg)
    return path / "vocab.txt"


def _lowercase_of(path: Path) -> bool:
    """Whether a checkpoint's tokenizer_config.json, if there is one, asks for lower case."""
    if not path.is_file():
        return True
    try:
        options = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        msg = f"{path}: is no JSON: {reason(error)}. Give `lowercase` to ignore the file."
        raise DataError(msg) from error
    return not isinstance(options, dict) or options.get("do_lower_case") is not False


def _read_vocabulary(path: Path) -> dict[str, int]:
    """Token -> id, of a file with one token a line."""
    lines = read_text(path).removesuffix("\n").split("\n")
    tokens = [line.removesuffix("\r") for line in lines]
    missing = [token for token in SPECIAL if token not in tokens]
    if missing:
        msg = (
            f"{path}: is no vocabulary: {', '.join(missing)} missing. It must have one token a"
            " line, as the vocab.txt of a BERT or DistilBERT checkpoint."
        )
        raise DataError(msg)
    ids: dict[str, int] = {}
    for i, token in enumerate(tokens):
        if token in ids:
            first = ids[token] + 1
            msg = f"{path}, line {i + 1}: {token!r} is on line {first} too; this is no vocabulary."
            raise DataError(msg)
        ids[token] = i
    return ids


class Text(NamedTuple):
    """Sentences and labels of one part, before they are tokens.

    Attributes:
      columns: one or two columns of n sentences.
      labels: shape (n,).
    """

    columns: Sequence[Sequence[str]]
    labels: np.ndarray


def text_records(
    parts: Mapping[str, Text],
    *,
    vocab: str | Path | None = None,
    max_length: int = 64,
    lowercase: bool | None = None,
    pad_to_longest: bool = False,
) -> tuple[dict[str, Records], int]:
    """Makes records of the parts of a text data set.

    Args:
      parts: part -> its sentences and labels.
      vocab: as in `make_tokenizer`.
      max_length: as in `make_tokenizer`.
      lowercase: as in `make_tokenizer`.
      pad_to_longest: pad to the longest row of all parts instead, rounded up to a multiple of 8,
        where that is shorter; tokenises everything once more.

    Returns:
      The records of each part, and the size of the vocabulary.

    Raises:
      DataError: if there is no vocabulary.
    """
    if vocab is None:
        msg = (
            "`vocab` must name a vocabulary file for text: the vocab.txt of a BERT or DistilBERT"
            " checkpoint, or the checkpoint's folder."
        )
        raise DataError(msg)
    tokenizer = make_tokenizer(vocab, max_length=max_length, lowercase=lowercase)
    if pad_to_longest:
        longest = max(tokenizer.longest(part.columns) for part in parts.values())
        length = max(min(-(-longest // MULTIPLE) * MULTIPLE, max_length), 5)
        tokenizer = make_tokenizer(vocab, max_length=length, lowercase=lowercase)
    records = {part: _records(text, tokenizer) for part, text in parts.items()}
    return records, tokenizer.vocab_size


def _records(text: Text, tokenizer: Tokenizer) -> Records:
    def read(rows: np.ndarray) -> dict[str, np.ndarray]:
        return tokenizer.encode([[column[row] for row in rows] for column in text.columns])

    return Records(text.labels, read)
