"""Sentences into tokens: BERT's word pieces, from a vocabulary file."""

import json
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tsam_jax.data._errors import DataError, reason, warn
from tsam_jax.data._files import read_text
from tsam_jax.data.splits import Records

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
TEXT_OPTIONS = ("vocab", "max_length", "lowercase", "pad_to_longest")
"""Options of every source of text: arguments of `text_records`."""

MAX_LENGTH = 2**16
"""Largest `max_length`: rows are padded to it in memory."""

_SAMPLE, _MOST_UNKNOWN = 1000, 0.2

MULTIPLE = 8
"""Lengths of padded sentences are rounded up to this."""


class Tokenizer(NamedTuple):
    """A tokenizer of sentences and pairs of sentences.

    Attributes:
      encode: columns of n sentences, one or two -> dict of "token_ids", "attention_mask" and
        "token_type_ids", shape (n, max_length), int32.
      longest: columns -> tokens of the longest row, before padding, at most max_length.
      unknown: columns -> fraction of the tokens that are [UNK].
      vocab_size: entries of the vocabulary.
    """

    encode: Callable[[Sequence[Sequence[str]]], dict[str, np.ndarray]]
    longest: Callable[[Sequence[Sequence[str]]], int]
    unknown: Callable[[Sequence[Sequence[str]]], float]
    vocab_size: int


def make_tokenizer(
    vocab: str | Path, *, max_length: int = 64, lowercase: bool | None = None
) -> Tokenizer:
    """Make a tokenizer from a vocabulary.

    A sentence becomes [CLS] a [SEP], a pair [CLS] a [SEP] b [SEP], with token types 0 up to the
    first [SEP] and 1 after it. A row that is too long loses tokens at the end of its longer
    sentence.

    Args:
      vocab: folder of a BERT or DistilBERT checkpoint, or its `vocab.txt` or `tokenizer.json`.
        `vocab.txt` has one token a line, with [PAD], [UNK], [CLS] and [SEP] among them; the number
        of a line, from 0, is the token's id. `tokenizer.json` must have the same vocabulary, and
        is used in full: normalizer, pre-tokenizer and added tokens.
      max_length: tokens of a row, the special ones included; rows are padded to it.
      lowercase: whether to lower-case and strip accents first, as for "uncased" checkpoints.
        Default: as in `tokenizer.json`, or `do_lower_case` of `tokenizer_config.json`; True
        without these files.

    Returns:
      The tokenizer.

    Raises:
      DataError: if there is no vocabulary, the tokenizer is not WordPiece, two files of the
        checkpoint contradict each other, or `max_length` leaves no room for a pair.

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
    if not 5 <= max_length <= MAX_LENGTH:
        msg = (
            f"`max_length` must be at least 5, for a pair and its special tokens, and at most"
            f" {MAX_LENGTH}, got {max_length}."
        )
        raise DataError(msg)
    tokenizer, entries = _load(Path(vocab), lowercase=lowercase)
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

    def unknown(columns: Sequence[Sequence[str]]) -> float:
        ids = np.concatenate([row.ids for row in rows(columns)])
        words = ids[~np.isin(ids, [entries["[CLS]"], entries["[SEP]"]])]
        return float(np.mean(words == entries["[UNK]"])) if len(words) else 0.0

    return Tokenizer(encode, longest, unknown, len(entries))


def _load(path: Path, *, lowercase: bool | None) -> tuple[Any, dict[str, int]]:
    """The library's tokenizer of a checkpoint, and token -> id."""
    from tokenizers import BertWordPieceTokenizer, normalizers

    text = path / "vocab.txt" if path.is_dir() else path
    whole, options = text.with_name("tokenizer.json"), text.with_name("tokenizer_config.json")
    if path.is_dir() and not text.is_file():
        text = whole
    if path.is_dir() and not text.is_file():
        msg = (
            f"{path}: has no vocab.txt and no tokenizer.json; name a folder that has one, or a"
            " vocabulary file."
        )
        raise DataError(msg)
    lower = lowercase
    if lowercase is None and options.is_file():
        lower = _read_object(options, " Give `lowercase` to ignore the file.").get("do_lower_case")
        lower = lower if isinstance(lower, bool) else None
    if not whole.is_file():
        entries = _read_vocabulary(text)
        return BertWordPieceTokenizer(entries, lowercase=lower is not False), entries
    tokenizer = _read_tokenizer(whole)
    if text != whole and _read_vocabulary(text) != tokenizer.get_vocab(with_added_tokens=False):
        msg = f"{text}: is not the vocabulary of {whole.name} beside it; keep the right one."
        raise DataError(msg)
    normalizer = tokenizer.normalizer
    lowers = normalizer is not None and normalizer.normalize_str("A") == "a"
    if lower not in {None, lowers}:
        if lowercase is None:
            case = "lower-cases" if lowers else "keeps case"
            msg = (
                f"{options}: has the `do_lower_case` {lower}, but {whole.name} beside it {case};"
                " give `lowercase`."
            )
            raise DataError(msg)
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    return tokenizer, tokenizer.get_vocab(with_added_tokens=True)


def _read_tokenizer(path: Path) -> Any:
    """The tokenizer of a tokenizer.json, without its padding, truncation and special tokens."""
    from tokenizers import Tokenizer, processors

    unused = dict.fromkeys(("padding", "truncation", "post_processor", "decoder"))
    try:
        tokenizer = Tokenizer.from_str(json.dumps({**_read_object(path), **unused}))
        entries = tokenizer.get_vocab(with_added_tokens=True)
    except DataError:
        raise
    except Exception as error:  # the library has no class of its own
        msg = f"{path}: is no tokenizer that can be read: {reason(error)}."
        raise DataError(msg) from error
    kind = type(tokenizer.model).__name__
    if kind != "WordPiece":
        msg = f"{path}: has a tokenizer of kind {kind}; only WordPiece, that of BERT, is supported."
        raise DataError(msg)
    _check_special(path, entries)
    if sorted(entries.values()) != list(range(len(entries))):
        msg = f"{path}: the ids of its {len(entries)} tokens are not 0 to {len(entries) - 1}."
        raise DataError(msg)
    ends = [(token, entries[token]) for token in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*ends)
    return tokenizer


def _read_object(path: Path, hint: str = "") -> dict[str, Any]:
    """A JSON object; {} for other JSON."""
    try:
        found = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        msg = f"{path}: is no JSON: {reason(error)}.{hint}"
        raise DataError(msg) from error
    return found if isinstance(found, dict) else {}


def _check_special(path: Path, tokens: Container[str]) -> None:
    missing = [token for token in SPECIAL if token not in tokens]
    if missing:
        msg = (
            f"{path}: is no vocabulary: {', '.join(missing)} missing. It must have one token a"
            " line, as the vocab.txt of a BERT or DistilBERT checkpoint."
        )
        raise DataError(msg)


def _read_vocabulary(path: Path) -> dict[str, int]:
    """Token -> id, of a file with one token a line."""
    lines = read_text(path).removesuffix("\n").split("\n")
    tokens = [line.removesuffix("\r") for line in lines]
    _check_special(path, tokens)
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
    """Make records of the parts of a text data set.

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
    some = [column[:_SAMPLE] for column in parts["train"].columns]
    share = tokenizer.unknown(some)
    if share > _MOST_UNKNOWN:
        warn(
            f"{vocab}: {100 * share:.0f} % of the tokens in the first {len(some[0])} training texts"
            " are unknown to this vocabulary; is it for their language and case?"
        )
    records = {part: _records(text, tokenizer) for part, text in parts.items()}
    return records, tokenizer.vocab_size


def _records(text: Text, tokenizer: Tokenizer) -> Records:
    def read(rows: np.ndarray) -> dict[str, np.ndarray]:
        return tokenizer.encode([[column[row] for row in rows] for column in text.columns])

    return Records(text.labels, read)
