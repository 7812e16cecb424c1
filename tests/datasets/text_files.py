"""Small text files that tests write."""

import gzip

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcd", "##s", "good", "film", '"', ","]


def write_vocab(folder, words=WORDS):
    path = folder / "vocab.txt"
    path.write_text("\n".join(words) + "\n")
    return path


def write_table(path, rows, separator="\t", end="\n"):
    text = "".join(separator.join(row) + end for row in rows)
    content = text.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path
