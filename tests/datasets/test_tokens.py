"""Word pieces: ids, pairs, padding, truncation, and what is no vocabulary."""

import json

import numpy as np
import pytest
import tokenizers
from text_files import WORDS, write_vocab

from tsam_jax.data import DataError, DataWarning
from tsam_jax.data.tokens import Text, make_tokenizer, text_records

ID = {word: i for i, word in enumerate(WORDS)}


def ids(text):
    return [ID[word] for word in text.split()]


@pytest.fixture
def vocab(tmp_path):
    return write_vocab(tmp_path)


def test_a_sentence_is_framed_and_padded(vocab):
    tokens = make_tokenizer(vocab, max_length=8).encode([["Good films", "a"]])
    expected = ["[CLS] good film ##s [SEP] [PAD] [PAD] [PAD]", "[CLS] a [SEP]" + 5 * " [PAD]"]
    assert tokens["token_ids"].tolist() == [ids(row) for row in expected]
    assert tokens["attention_mask"].sum(axis=1).tolist() == [5, 3]
    assert tokens["attention_mask"][1].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert not tokens["token_type_ids"].any()
    assert {array.dtype for array in tokens.values()} == {np.dtype(np.int32)}


def test_a_pair_has_types_and_loses_the_end_of_its_longer_sentence(vocab):
    tokenizer = make_tokenizer(vocab, max_length=7)
    tokens = tokenizer.encode([["a b", "a b c d a"], ["c", "d"]])
    assert tokens["token_ids"].tolist() == [
        ids("[CLS] a b [SEP] c [SEP] [PAD]"),
        ids("[CLS] a b c [SEP] d [SEP]"),
    ]
    assert tokens["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 1, 1]]


def test_unknown_words_and_empty_sentences(vocab):
    tokens = make_tokenizer(vocab, max_length=5).encode([["zzz", ""]])
    assert tokens["token_ids"].tolist() == [
        ids("[CLS] [UNK] [SEP] [PAD] [PAD]"),
        ids("[CLS] [SEP] [PAD] [PAD] [PAD]"),
    ]


def test_cased_vocabularies_keep_case(vocab):
    tokens = make_tokenizer(vocab, max_length=5, lowercase=False).encode([["Good a"]])
    assert tokens["token_ids"].tolist() == [ids("[CLS] [UNK] a [SEP] [PAD]")]


@pytest.mark.parametrize("given", ["folder", "file"])
def test_a_checkpoints_folder_has_the_vocabulary_and_its_case(vocab, given):
    def case(**options):
        place = vocab.parent if given == "folder" else vocab
        tokens = make_tokenizer(place, max_length=5, **options).encode([["Good"]])["token_ids"]
        return "kept" if tokens[0, 1] == ID["[UNK]"] else "lowered"

    config = vocab.with_name("tokenizer_config.json")
    assert case() == "lowered"
    for content, found in {
        '{"do_lower_case": false}': "kept",
        '{"do_lower_case": true}': "lowered",
        '{"model_max_length": 512}': "lowered",
        "[]": "lowered",
    }.items():
        config.write_text(content)
        assert case() == found, content
        assert case(lowercase=True) == "lowered"
        assert case(lowercase=False) == "kept"
    config.write_text("{")
    with pytest.raises(DataError, match=r"tokenizer_config.json: is no JSON.*`lowercase`"):
        case()
    assert case(lowercase=False) == "kept"


def write_tokenizer(folder, normalizer=None, words=WORDS, model="WordPiece", **changes):
    """A tokenizer.json, as the library writes it."""
    entries = {word: i for i, word in enumerate(words)}
    made = getattr(tokenizers.models, model)
    made = made(entries, unk_token="[UNK]") if model == "WordPiece" else made()
    tokenizer = tokenizers.Tokenizer(made)
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.enable_padding(length=99)
    tokenizer.enable_truncation(2)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(tokenizer.to_str()), **changes}))
    return path


NORMALIZERS = {
    "BertNormalizer": (tokenizers.normalizers.BertNormalizer(lowercase=True), "good e"),
    "accents": (tokenizers.normalizers.BertNormalizer(strip_accents=False), "good é"),
    "cased": (tokenizers.normalizers.BertNormalizer(lowercase=False), "Good é"),
    "Lowercase": (tokenizers.normalizers.Lowercase(), "good é"),
    "Sequence": (
        tokenizers.normalizers.Sequence([
            tokenizers.normalizers.NFD(),
            tokenizers.normalizers.Lowercase(),
            tokenizers.normalizers.StripAccents(),
        ]),
        "good e",
    ),
    "none": (None, "Good é"),
}
LETTERS = [*WORDS, "Good", "e", "é"]


@pytest.mark.parametrize("vocabulary", ["vocab.txt", "tokenizer.json", "both"])
@pytest.mark.parametrize("case", NORMALIZERS)
def test_a_checkpoints_tokenizer_has_the_vocabulary_and_the_normalizer(tmp_path, case, vocabulary):
    normalizer, expected = NORMALIZERS[case]
    path = write_tokenizer(tmp_path, normalizer, LETTERS)
    if vocabulary != "tokenizer.json":
        write_vocab(tmp_path, LETTERS)
    place = {"vocab.txt": tmp_path / "vocab.txt", "tokenizer.json": path, "both": tmp_path}
    tokenizer = make_tokenizer(place[vocabulary], max_length=6)
    row = tokenizer.encode([["Good é"], ["a"]])["token_ids"][0]
    row = [LETTERS[i] for i in row]
    assert row == ["[CLS]", *expected.split(), "[SEP]", "a", "[SEP]"]
    assert tokenizer.vocab_size == len(LETTERS)
    kept = make_tokenizer(place[vocabulary], max_length=6, lowercase=False)
    assert LETTERS[kept.encode([["Good"]])["token_ids"][0, 1]] == "Good"


def test_added_tokens_are_of_the_vocabulary(tmp_path):
    added = {"id": len(WORDS), "content": "<x>", "special": False}
    added |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    write_tokenizer(tmp_path, added_tokens=[added])
    write_vocab(tmp_path)
    tokenizer = make_tokenizer(tmp_path, max_length=5)
    assert tokenizer.encode([["a <x>"]])["token_ids"][0, 2] == len(WORDS)
    assert tokenizer.vocab_size == len(WORDS) + 1


def test_files_of_a_checkpoint_that_contradict_each_other_are_refused(tmp_path):
    path = write_tokenizer(tmp_path, tokenizers.normalizers.Lowercase())
    write_vocab(tmp_path, WORDS[:-1])
    with pytest.raises(DataError, match=r"vocab.txt: is not the vocabulary of tokenizer.json besi"):
        make_tokenizer(tmp_path)
    write_vocab(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    for lower, said in ((False, "lower-cases"), (True, "keeps case")):
        config.write_text(json.dumps({"do_lower_case": lower}))
        with pytest.raises(DataError, match=f"`do_lower_case` {lower}, but tokenizer.*{said}"):
            make_tokenizer(tmp_path)
        for asked in (False, True):
            found = make_tokenizer(path, max_length=5, lowercase=asked).encode([["GOOD"]])
            assert WORDS[found["token_ids"][0, 1]] == ("good" if asked else "[UNK]")
        path = write_tokenizer(tmp_path)
    config.write_text('{"do_lower_case": false}')
    assert make_tokenizer(tmp_path).vocab_size == len(WORDS)


@pytest.mark.parametrize("kind", ["BPE", "Unigram", "WordLevel"])
def test_other_kinds_of_tokenizers_are_refused(tmp_path, kind):
    write_tokenizer(tmp_path, model=kind)
    with pytest.raises(DataError, match=f"tokenizer of kind {kind}; only WordPiece, that of BERT"):
        make_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "tokenizer.json: is no JSON"),
        ("[" * 100_000, "tokenizer.json: is no JSON"),
        ("{}", "is no tokenizer that can be read"),
        ('{"model": {"type": "WordPiece"}}', "is no tokenizer that can be read"),
    ],
)
def test_files_that_are_no_tokenizer_are_refused(tmp_path, content, words):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DataError, match=words):
        make_tokenizer(tmp_path)


def test_a_tokenizer_without_special_tokens_or_with_gaps_is_refused(tmp_path):
    path = write_tokenizer(tmp_path, words=["[UNK]", "a"])
    with pytest.raises(
        DataError, match=r"tokenizer.json: is no vocabulary: \[PAD\], \[CLS\], \[SE"
    ):
        make_tokenizer(path)
    found = json.loads(write_tokenizer(tmp_path).read_text())
    found["model"]["vocab"]["a"] = 2**31
    path.write_text(json.dumps(found))
    with pytest.raises(DataError, match="the ids of its 13 tokens are not 0 to 12"):
        make_tokenizer(path)


@pytest.mark.parametrize(("text", "percent"), [("x y a", 67), ("a b c d x", None), ("", None)])
def test_a_vocabulary_that_does_not_fit_the_text_is_noticed(vocab, text, percent):
    parts = {"train": Text([[text] * 3], np.zeros(3))}
    if percent is None:
        text_records(parts, vocab=vocab)
        return
    words = f"vocab.txt: {percent} % of the tokens in the first 3 training texts are unknown"
    with pytest.warns(DataWarning, match=words):
        text_records(parts, vocab=vocab)


def test_a_data_set_takes_the_folder(vocab):
    vocab.with_name("tokenizer_config.json").write_text('{"do_lower_case": false}')
    parts, size = records(vocab.parent, "Good good")
    assert parts["test"].read(np.array([0]))["token_ids"][0, :4].tolist() == ids(
        "[CLS] [UNK] good [SEP]"
    )
    assert size == len(WORDS)


def records(vocab, sentence, **options):
    parts = {
        "train": Text([["a", "b c"]], np.array([0, 1])),
        "test": Text([[sentence]], np.array([0])),
    }
    return text_records(parts, vocab=vocab, **options)


@pytest.mark.parametrize(("words", "length"), [(1, 8), (6, 8), (7, 16), (99, 24)])
def test_padding_to_the_longest_is_the_same_for_all_parts(vocab, words, length):
    parts, size = records(vocab, "a " * words, max_length=24, pad_to_longest=True)
    assert parts["train"].read(np.array([1]))["token_ids"].shape == (1, length)
    assert parts["test"].read(np.array([0]))["token_ids"].shape == (1, length)
    assert size == len(WORDS)


def test_rows_are_read_in_the_order_that_is_asked_for(vocab):
    train = records(vocab, "a")[0]["train"]
    tokens = train.read(np.array([1, 0, 1]))["token_ids"]
    assert tokens[:, 1].tolist() == [ID["b"], ID["a"], ID["b"]]
    assert tokens.shape == (3, 64)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"vocab.txt: is no vocabulary: \[PAD\], \[UNK\], \[CLS\], \[SEP\] missing"),
        (b'{"model": {}}', "one token a line"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb\na\n", "line 7: 'a' is on line 5 too"),
        (b"[PAD]\n\xff\n", "line 2: byte 6 is not UTF-8"),
    ],
)
def test_files_that_are_no_vocabulary_are_refused(tmp_path, content, words):
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(DataError, match=words):
        make_tokenizer(tmp_path / "vocab.txt")


def test_a_missing_vocabulary_and_no_room_are_refused(tmp_path, vocab):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: has no vocab.txt and no tokenizer"):
        make_tokenizer(tmp_path / "empty")
    with pytest.raises(DataError, match="no such file"):
        make_tokenizer(tmp_path / "nowhere.txt")
    with pytest.raises(DataError, match="`vocab` must name a vocabulary file"):
        records(None, "a")
    with pytest.raises(DataError, match="`max_length` must be at least 5"):
        make_tokenizer(vocab, max_length=4)
