"""Tables of sentences: TSV without quotes, CSV with them; GLUE's own layouts."""

import gzip

import numpy as np
import pytest
from text_files import WORDS, write_table, write_vocab

from tsam_jax import data
from tsam_jax.data import DataError
from tsam_jax.data.glue import TASKS

HEADER = ["sentence", "label"]
ROWS = [[word, label] for word, label in zip("abcdabcd", "01010101", strict=True)]


@pytest.fixture
def vocab(tmp_path):
    return write_vocab(tmp_path)


def words(inputs):
    """Each row's tokens as text, without padding."""
    rows = zip(inputs["token_ids"], inputs["attention_mask"].sum(axis=1), strict=True)
    return [" ".join(WORDS[token] for token in row[:length]) for row, length in rows]


def load(path, vocab, **options):
    return data.load(f"table:{path}", vocab=vocab, **options)


@pytest.mark.parametrize("name", ["t.tsv", "t.tsv.gz", "t.csv", "t.csv.gz"])
def test_a_table_is_carved_into_parts(tmp_path, vocab, name):
    separator = "," if "csv" in name else "\t"
    path = write_table(tmp_path / name, [HEADER, *ROWS], separator)
    splits = load(path, vocab, validation=2, test=2)
    assert splits.kind == "text"
    assert splits.vocab_size == len(WORDS)
    assert splits.class_names == ("0", "1")
    assert [len(part.labels) for part in splits[:3]] == [4, 2, 2]
    expected = {"[CLS] a [SEP]": 0, "[CLS] b [SEP]": 1, "[CLS] c [SEP]": 0, "[CLS] d [SEP]": 1}
    for part in splits[:3]:
        assert [expected[row] for row in words(part.inputs)] == part.labels.tolist()
        assert part.labels.dtype == np.int32


def test_quotes_mean_nothing_in_tsv_and_hold_cells_together_in_csv(tmp_path, vocab):
    rows = [HEADER, ['"a', "0"], ['b"', "1"], ["a", "0"], ["b", "1"]]
    tsv = load(write_table(tmp_path / "t.tsv", rows), vocab, test=1, validation=1)
    assert sum(len(part.labels) for part in tsv[:3]) == 4
    path = tmp_path / "t.csv"
    path.write_text('sentence,label\n"a, b",0\n"c\nd",1\n"a ""b""",0\n')
    everything = data.open_splits(f"table:{path}", vocab=vocab, validation=1, test=1)
    rows = [words(part.read(np.array([0])))[0] for part in everything[:3]]
    assert sorted(rows) == ['[CLS] a " b " [SEP]', "[CLS] a , b [SEP]", "[CLS] c d [SEP]"]


def test_a_folder_of_tables_is_parts_and_columns_may_be_indices(tmp_path, vocab):
    folder = tmp_path / "set"
    for part, row in {"train": "ab", "dev": "bc", "test": "cd"}.items():
        write_table(folder / f"{part}.tsv", [["x", row[0], row[1], "yes"], ["x", "a", "b", "no"]])
    splits = load(folder, vocab, text=(1, 2), label=3, header=False)
    assert words(splits.test.inputs) == ["[CLS] c [SEP] d [SEP]", "[CLS] a [SEP] b [SEP]"]
    assert words(splits.validation.inputs)[0] == "[CLS] b [SEP] c [SEP]"
    assert splits.class_names == ("no", "yes")
    assert splits.test.labels.tolist() == [1, 0]


def test_dev_without_test_is_the_test_part(tmp_path, vocab):
    folder = tmp_path / "set"
    write_table(folder / "train.tsv", [HEADER, *ROWS])
    write_table(folder / "dev.tsv", [HEADER, ["d a", "1"]])
    splits = load(folder, vocab)
    assert words(splits.test.inputs) == ["[CLS] d a [SEP]"]
    assert [len(part.labels) for part in splits[:3]] == [7, 1, 1]


def test_classes_are_in_the_order_of_their_numbers_or_as_given(tmp_path, vocab):
    rows = [HEADER, *([word, label] for word, label in zip("abc", ["10", "9", "2"], strict=True))]
    path = write_table(tmp_path / "t.tsv", rows)
    assert load(path, vocab, test=1, validation=1).class_names == ("2", "9", "10")
    given = load(path, vocab, test=1, validation=1, classes=["9", "10", "2"])
    assert given.class_names == ("9", "10", "2")


def test_regression_has_numbers(tmp_path, vocab):
    rows = [HEADER, *([word, str(i / 2)] for i, word in enumerate("abcd"))]
    splits = load(write_table(tmp_path / "t.tsv", rows), vocab, test=1, regression=True)
    assert splits.num_classes is None
    assert splits.train.labels.dtype == np.float32
    for part in splits[:3]:
        index = ["abcd".index(row.split()[1]) for row in words(part.inputs)]
        assert (part.labels == np.array(index) / 2).all()


def test_windows_line_ends_and_byte_order_marks_are_not_data(tmp_path, vocab):
    path = write_table(tmp_path / "t.tsv", [HEADER, *ROWS], end="\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load(path, vocab).class_names == ("0", "1")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_blank_lines_at_the_end_are_not_data(tmp_path, vocab, end):
    path = write_table(tmp_path / "t.tsv", [HEADER, *ROWS, [], []], end=end)
    splits = load(path, vocab)
    assert sum(len(part.labels) for part in splits[:3]) == len(ROWS)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", r"t.tsv: has no rows"),
        (b"sentence\tlabel\n", r"t.tsv: has no rows"),
        (b"sentence\tlabel\na\t0\nb\n", r"t.tsv, line 3: must have 2 cells, got 1"),
        (b"sentence\tlabel\na\t0\nb\t1\tx\n", r"line 3: must have 2 cells, got 3"),
        (b"sentence\tlabel\na\t0\n\nb\t1\n", r"line 3: must have 2 cells, got 1"),
        (b"sentence\tlabel\na\t0\n\xe9\t1\n", r"t.tsv, line 3: byte 19 is not UTF-8"),
        (b"text\tlabel\na\t0\n", r"no column 'sentence'; it has 2 columns, named 'text', 'label'"),
    ],
)
def test_damaged_tables_are_refused(tmp_path, vocab, content, error):
    (tmp_path / "t.tsv").write_bytes(content)
    with pytest.raises(DataError, match=error):
        load(tmp_path / "t.tsv", vocab)


@pytest.mark.parametrize("cut", [5, 30])
def test_damaged_compression_is_refused(tmp_path, vocab, cut):
    (tmp_path / "t.tsv.gz").write_bytes(gzip.compress(b"sentence\tlabel\na\t0\n" * 9)[:cut])
    with pytest.raises(DataError, match=r"t.tsv.gz: cannot be read"):
        load(tmp_path / "t.tsv.gz", vocab)


def test_open_quotes_in_csv_are_refused(tmp_path, vocab):
    (tmp_path / "t.csv").write_text('sentence,label\n"a,0\nb,1\n')
    with pytest.raises(DataError, match=r"t.csv, line 3: cannot be read as CSV"):
        load(tmp_path / "t.csv", vocab)


def test_wrong_labels_and_columns_are_refused_with_their_row(tmp_path, vocab):
    path = write_table(tmp_path / "t.tsv", [HEADER, *ROWS, ["a", "maybe"]])
    with pytest.raises(DataError, match=r"line 10: label 'maybe' is unknown.*'0', '1'"):
        load(path, vocab, classes=["0", "1"])
    with pytest.raises(DataError, match=r"line 10: label 'maybe' must be a finite number"):
        load(path, vocab, regression=True)
    with pytest.raises(DataError, match="has no column '2'"):
        load(path, vocab, text=2)
    with pytest.raises(DataError, match="`text` must be one column, or two"):
        load(path, vocab, text=["sentence"] * 3)


@pytest.mark.parametrize("cell", ["", " ", "   "])
@pytest.mark.parametrize("name", ["t.tsv", "t.csv"])
def test_rows_without_a_label_are_left_out_and_counted(tmp_path, vocab, cell, name):
    rows = [HEADER, *ROWS, ["c", cell], ["d", cell]]
    path = write_table(tmp_path / name, rows, "," if "csv" in name else "\t")
    with pytest.warns(
        data.DataWarning, match=r"line 10: has no label; rows skipped for this: 2 of 10"
    ):
        splits = load(path, vocab)
    assert splits.class_names == ("0", "1")
    assert sum(len(part.labels) for part in splits[:3]) == 8


def test_blanks_around_labels_and_names_of_columns_mean_nothing(tmp_path, vocab):
    rows = [["sentence ", " label"], *([word, f" {label}  "] for word, label in ROWS)]
    splits = load(write_table(tmp_path / "t.csv", rows, ","), vocab)
    assert splits.class_names == ("0", "1")
    expected = {"[CLS] a [SEP]": 0, "[CLS] b [SEP]": 1, "[CLS] c [SEP]": 0, "[CLS] d [SEP]": 1}
    for part in splits[:3]:
        assert [expected[row] for row in words(part.inputs)] == part.labels.tolist()


@pytest.mark.parametrize("cell", ["nan", "NaN", "None", "NULL", "null", "N/A", "<NA>"])
def test_labels_that_may_be_missing_are_refused_unless_named(tmp_path, vocab, cell):
    path = write_table(tmp_path / "t.tsv", [HEADER, *ROWS, ["a", cell]])
    with pytest.raises(DataError, match=rf"line 10: label '{cell}' may mean a missing label"):
        load(path, vocab)
    with pytest.raises(DataError, match=rf"line 10: label '{cell}' must be a finite number"):
        load(path, vocab, regression=True)
    assert load(path, vocab, classes=["0", "1", cell]).num_classes == 3


@pytest.mark.parametrize(
    ("labels", "error"),
    [
        (["1", "1.0"], "the labels '1', '1.0' are the same number"),
        (["1", "01"], "the labels '01', '1' are the same number"),
        (["Pos", "pos"], "the labels 'Pos', 'pos' differ only in case"),
    ],
)
def test_two_spellings_of_a_class_are_refused_unless_named(tmp_path, vocab, labels, error):
    rows = [HEADER, *([word, labels[i % 2]] for i, word in enumerate("abcdabcd"))]
    path = write_table(tmp_path / "t.tsv", rows)
    with pytest.raises(DataError, match=error):
        load(path, vocab)
    assert load(path, vocab, classes=labels).class_names == tuple(labels)


def test_labels_that_all_differ_are_refused(tmp_path, vocab):
    path = write_table(tmp_path / "t.tsv", [HEADER, *(["a", str(i)] for i in range(20))])
    with pytest.raises(
        DataError, match="a different label in each of its 20 rows; is 'label' the column"
    ):
        load(path, vocab)
    assert load(path, vocab, regression=True).num_classes is None


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["0.5", "1", "-2e-1"], None),
        (["1.0", "0.0", "1.0"], ("0.0", "1.0")),
        (["-1", "1", "-1"], ("-1", "1")),
        (["0.5", "x", "1"], ("0.5", "1", "x")),
    ],
)
def test_regression_is_inferred_from_fractions(tmp_path, vocab, labels, classes):
    rows = [HEADER, *([word, labels[i % 3]] for i, word in enumerate("abcdabcd"))]
    splits = load(write_table(tmp_path / "t.tsv", rows), vocab)
    assert splits.num_classes == (None if classes is None else len(classes))
    assert splits.class_names == (classes or ())
    if classes is None:
        for part in splits[:3]:
            assert set(part.labels.tolist()) <= {0.5, 1.0, float(np.float32(-0.2))}


@pytest.mark.parametrize("label", ["1e300", "inf", "1_0", "0x1", "1,5", "\u0661"])
def test_numbers_that_are_none_are_refused(tmp_path, vocab, label):
    path = write_table(tmp_path / "t.tsv", [HEADER, *ROWS, ["a", label]])
    with pytest.raises(DataError, match=r"line 10: label .* must be a finite number"):
        load(path, vocab, regression=True)


def test_columns_with_one_name_are_told_by_index(tmp_path, vocab):
    rows = [["sentence", "label", "label ", "x", "x"], *([w, "no", c, "", ""] for w, c in ROWS)]
    path = write_table(tmp_path / "t.tsv", rows)
    with pytest.raises(DataError, match="has 2 columns named 'label', at indices 1, 2"):
        load(path, vocab)
    for label in (2, "2"):
        assert load(path, vocab, label=label).class_names == ("0", "1")


@pytest.mark.parametrize("delimiter", [";", "|", "tab", "\\t", "\t"])
def test_delimiters_are_an_option(tmp_path, vocab, delimiter):
    separator = "\t" if "t" in delimiter else delimiter
    path = write_table(tmp_path / "t.csv", [HEADER, *ROWS], separator)
    with pytest.raises(DataError, match=r"it has 1 column, .*pass `delimiter="):
        load(path, vocab)
    assert load(path, vocab, delimiter=delimiter).class_names == ("0", "1")


@pytest.mark.parametrize("delimiter", ["", "ab", "\n", '"'])
def test_what_is_no_delimiter_is_refused(tmp_path, vocab, delimiter):
    path = write_table(tmp_path / "t.csv", [HEADER, *ROWS], ",")
    with pytest.raises(DataError, match="`delimiter` must be one character or `tab`, got"):
        load(path, vocab, delimiter=delimiter)


@pytest.mark.parametrize("start", [b"", b"\xff\xfe"])
def test_utf_16_is_refused(tmp_path, vocab, start):
    (tmp_path / "t.tsv").write_bytes(start + "sentence\tlabel\na\t0\n".encode("utf-16-le"))
    with pytest.raises(DataError, match=r"t.tsv, line 1: (has a NUL|byte 0 is not UTF-8)"):
        load(tmp_path / "t.tsv", vocab)


def test_text_without_a_vocabulary_is_said(tmp_path):
    path = write_table(tmp_path / "t.tsv", [HEADER, *ROWS])
    write_glue(tmp_path, "RTE")
    for name in (f"table:{path}", "glue:RTE"):
        options = {"data_dir": tmp_path} if name == "glue:RTE" else {}
        with pytest.raises(DataError, match="`vocab` must name a vocabulary file for text"):
            data.load(name, **options)


def test_classes_and_regression_are_not_given_together(tmp_path, vocab):
    path = write_table(tmp_path / "t.tsv", [HEADER, *ROWS])
    with pytest.raises(DataError, match="`regression` exclude each other"):
        load(path, vocab, classes=["0", "1"], regression=True)


@pytest.mark.parametrize(
    ("train", "test"), [("Train.TSV", "TEST.tsv"), ("training_set.tsv", "testing.tsv")]
)
def test_tables_of_a_folder_have_the_usual_names_in_any_case(tmp_path, vocab, train, test):
    folder = tmp_path / "set"
    write_table(folder / train, [HEADER, *ROWS])
    write_table(folder / test, [HEADER, ["d a", "1"]])
    assert words(load(folder, vocab).test.inputs) == ["[CLS] d a [SEP]"]
    write_table(folder / "test_matched.tsv", [HEADER, ["d a", "1"]])
    with pytest.warns(data.DataWarning, match=r"skipped tables .*: test_matched.tsv\.$"):
        load(folder, vocab)


def test_a_folder_without_train_or_with_two_is_refused(tmp_path, vocab):
    with pytest.raises(DataError, match="must be a table, or a folder with a table"):
        load(tmp_path, vocab)
    write_table(tmp_path / "train.tsv", [HEADER, *ROWS])
    write_table(tmp_path / "train.csv", [HEADER, *ROWS], ",")
    with pytest.raises(DataError, match=r"has train.csv and train.tsv"):
        load(tmp_path, vocab)


# One row of each task as its official file has it, the header line first.
GLUE_LINES = {
    "CoLA": ("", "gj04\t{0}\t\ta b"),
    "SST-2": ("sentence\tlabel", "a b\t{0}"),
    "MRPC": ("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", '{0}\t1\t2\t" a\tb'),
    "STS-B": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "0\tx\tx\t2012\t1\tx\tx\ta\tb\t{0}",
    ),
    "QQP": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "1\t2\t3\ta\tb\t{0}"),
    "MNLI": (
        "index\tpromptID\tpairID\tgenre\tb1\tb2\tp1\tp2\tsentence1\tsentence2\tlabel1\tgold_label",
        "0\t1\t2\tx\tx\tx\tx\tx\ta\tb\tneutral\t{0}",
    ),
    "QNLI": ("index\tquestion\tsentence\tlabel", "0\ta\tb\t{0}"),
    "RTE": ("index\tsentence1\tsentence2\tlabel", "0\ta\tb\t{0}"),
    "WNLI": ("index\tsentence1\tsentence2\tlabel", "0\ta\tb\t{0}"),
}


def write_glue(root, task, train="train.tsv", dev="dev.tsv"):
    header, line = GLUE_LINES[task]
    labels = TASKS[task].classes or ("0.000", "2.500", "5.000")
    rows = [line.format(label) for label in labels]
    (root / task).mkdir()
    for name, some in ((train, rows * 2), (dev, rows)):
        lines = [*([header] if header else []), *some]
        write_table(root / task / name, [[line] for line in lines])


@pytest.mark.parametrize("task", TASKS)
def test_glue_tasks_are_read_in_their_layouts(tmp_path, vocab, task):
    write_glue(tmp_path, task)
    splits = data.load(f"glue:{task}", data_dir=tmp_path, vocab=vocab, max_length=8, validation=1)
    pair = {"CoLA": "a b", "SST-2": "a b", "MRPC": '" a [SEP] b'}.get(task, "a [SEP] b")
    assert set(words(splits.test.inputs)) == {f"[CLS] {pair} [SEP]"}
    expected = [0, 2.5, 5] if task == "STS-B" else list(range(len(TASKS[task].classes)))
    assert splits.test.labels.tolist() == expected
    assert splits.num_classes == (None if task == "STS-B" else len(expected))
    assert len(splits.class_names) == (splits.num_classes or 0)
    assert len(splits.train.labels) == 2 * len(expected) - 1


def test_the_numbers_of_glues_classes():
    assert TASKS["MNLI"].classes == ("entailment", "neutral", "contradiction")
    assert TASKS["RTE"].classes == TASKS["QNLI"].classes == ("entailment", "not_entailment")


def test_the_folder_above_glue_will_do(tmp_path, vocab):
    (tmp_path / "glue").mkdir()
    write_glue(tmp_path / "glue", "RTE")
    assert len(data.load("glue:RTE", data_dir=tmp_path, vocab=vocab).test.labels) == 2


def test_glue_samples_and_matched_files_are_found(tmp_path, vocab):
    write_glue(tmp_path, "MNLI", "train_sample.tsv.gz", "dev_matched.tsv")
    assert len(data.load("glue:mnli", data_dir=tmp_path, vocab=vocab).test.labels) == 3


@pytest.mark.parametrize("name", ["MNLI-mm", "mnli_mm", "MNLI-mismatched", "mnli_mismatched"])
def test_mismatched_mnli_has_its_own_test_part(tmp_path, vocab, name):
    write_glue(tmp_path, "MNLI", dev="dev_matched.tsv")
    header, line = GLUE_LINES["MNLI"]
    other = line.replace("\ta\tb\t", "\tc\td\t").format("neutral")
    write_table(tmp_path / "MNLI" / "dev_mismatched.tsv", [[header], [other]])
    splits = data.load(f"glue:{name}", data_dir=tmp_path, vocab=vocab)
    assert words(splits.test.inputs) == ["[CLS] c [SEP] d [SEP]"]
    assert splits.test.labels.tolist() == [1]
    matched = data.load("glue:MNLI", data_dir=tmp_path, vocab=vocab)
    assert words(matched.test.inputs) == ["[CLS] a [SEP] b [SEP]"] * 3
    (tmp_path / "MNLI" / "dev_mismatched.tsv").unlink()
    with pytest.raises(DataError, match=r"MNLI: must contain one of dev_mismatched\.tsv"):
        data.load(f"glue:{name}", data_dir=tmp_path, vocab=vocab)


def test_rows_of_qqp_that_are_too_short_are_left_out(tmp_path, vocab):
    write_glue(tmp_path, "QQP")
    with (tmp_path / "QQP" / "train.tsv").open("a") as file:
        file.write("9\t9\t9\tcut off\n")
    with pytest.warns(data.DataWarning, match=r"line 6: has too few cells; rows skipped.*: 1\."):
        splits = data.load("glue:QQP", data_dir=tmp_path, vocab=vocab)
    assert len(splits.train.labels) == 3


def test_glue_without_files_or_task_is_refused(tmp_path, vocab):
    with pytest.raises(DataError, match=r"RTE: must contain one of train.tsv"):
        data.load("glue:RTE", data_dir=tmp_path, vocab=vocab)
    with pytest.raises(DataError, match="not a GLUE task; the tasks are CoLA"):
        data.load("glue:RTX", data_dir=tmp_path, vocab=vocab)
    with pytest.raises(DataError, match="`data_dir` must be the folder"):
        data.load("glue:RTE", vocab=vocab)
