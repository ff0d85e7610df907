"""Tables as pandas, Excel, R and NumPy write them: every example once, and nothing taken for what it is not."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest

from dlsim.problems.data import load

RNG = np.random.default_rng(0)
FLOATS = RNG.standard_normal((60, 4))
INTS = RNG.integers(0, 9, (60, 5))
NAMES = np.repeat(["setosa", "versicolor", "virginica"], 20)
CLASSES = np.repeat([0, 1, 2], 20)


def written(tmp_path, text, name="a.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(path, **options):
    with pytest.raises(ValueError) as error:
        load(path, **options)
    text = str(error.value)
    assert "\n" not in text and re.match(r"^\w+: .+ must be .+, got .+\.", text)
    return text


def inputs_in_order(d):
    """All inputs, training and test, sorted by their first feature."""
    both = np.concatenate([d.inputs, d.test_inputs])
    return both[np.argsort(both[:, 0])]


FRAMES = {
    "names": (pd.DataFrame(FLOATS, columns=list("abcd")).assign(species=NAMES), FLOATS),
    "no names": (pd.DataFrame(FLOATS).assign(species=NAMES), FLOATS),
    "no names, one input": (pd.DataFrame(FLOATS[:, :1]).assign(species=NAMES), FLOATS[:, :1]),
    "no names, all numbers": (pd.DataFrame(np.c_[FLOATS, CLASSES]), FLOATS),
    "no names, whole numbers": (pd.DataFrame(np.c_[INTS, CLASSES]), INTS),
    "no names, whole numbers and a text": (pd.DataFrame(INTS).assign(species=NAMES), INTS),
    "no names, one input and a class": (pd.DataFrame({0: FLOATS[:, 0], 1: CLASSES}), FLOATS[:, :1]),
    "years": (pd.DataFrame(FLOATS[:, :3], columns=[2019, 2020, 2021]).assign(species=NAMES), FLOATS[:, :3]),
}


@pytest.mark.parametrize("order", ["as it is", "shuffled"])
@pytest.mark.parametrize("index", [False, True])
@pytest.mark.parametrize("frame", FRAMES)
def test_what_pandas_writes_is_read_with_and_without_its_index(tmp_path, frame, index, order):
    table, inputs = FRAMES[frame]
    table = table if order == "as it is" else table.sample(frac=1, random_state=1)
    d = load(written(tmp_path, table.to_csv(index=index)))
    assert len(d.labels) + len(d.test_labels) == 60 and d.num_classes == 3
    wanted = inputs.astype(np.float32)
    np.testing.assert_array_equal(np.sort(inputs_in_order(d), axis=0), np.sort(wanted, axis=0))
    np.testing.assert_array_equal(np.bincount(d.labels), [16, 16, 16])
    assert set(d.columns) == ({"index"} if index else set())
    if index and order == "as it is" and inputs is FLOATS:
        np.testing.assert_array_equal(d.inputs, wanted[d.columns["index"]])


@pytest.mark.parametrize("frame", FRAMES)
def test_without_a_head_every_row_is_an_example(tmp_path, frame):
    table, inputs = FRAMES[frame]
    d = load(written(tmp_path, table.to_csv(index=False, header=False)))
    assert len(d.labels) + len(d.test_labels) == 60 and d.inputs.shape[1] == inputs.shape[1]


@pytest.mark.parametrize("text", ["0,1\n1,0\n2,1\n3,0\n4,1\n5,0\n6,0\n", "0,1,2\n3,1,0\n4,1,2\n5,5,0\n3,3,2\n"])
def test_a_head_that_nobody_can_tell_is_asked_for(tmp_path, text):
    path, num = written(tmp_path, text), text.count("\n")
    assert "header=True or header=False, got the first row '0,1" in refused(path)
    for header in (True, False):
        d = load(path, header=header, regression=True)
        assert len(d.labels) + len(d.test_labels) == num - header
    with pytest.raises(ValueError, match=r"load: header must be True, False or None, got 'yes'"):
        load(path, header="yes")


def test_a_name_asked_for_makes_the_first_row_a_head(tmp_path):
    text = "user,kind\n" + "\n".join(f"u{i % 3},{'ab'[i % 2]}" for i in range(12))
    path = written(tmp_path, "\n".join(f"{line},{i if i else 'x'}" for i, line in enumerate(text.splitlines())))
    d = load(path, label="kind", columns=["user"])
    assert d.num_classes == 2 and set(d.columns["user"]) == {"u0", "u1", "u2"} and d.inputs.shape[1] == 1


ROWS = [f"{i * 0.5},{i},{'cat' if i % 2 else 'dog'}" for i in range(12)]


@pytest.mark.parametrize("gap", ["", "?", "NA", "None", " ", "nan", "NaN", "<NA>", "null", "n/a"])
def test_a_gap_is_refused_with_its_row_and_column(tmp_path, gap):
    head = "x,user,kind"
    for column, row in (("kind", f"3,4,{gap}"), ("x", f"{gap},4,cat"), ("user", f"3,{gap},cat")):
        text = refused(written(tmp_path, "\n".join([head, *ROWS, row])), columns=["user"])
        assert f"in row 14, column '{column}'" in text and repr(gap.strip()) in text


def test_a_gap_among_measures_makes_no_classes(tmp_path):
    lines = ["a,y", *(f"{i},{i * 0.37}" for i in range(54))]
    assert load(written(tmp_path, "\n".join(lines))).num_classes == 0
    assert "'' in row 56, column 'y'" in refused(written(tmp_path, "\n".join([*lines, "3,"])))
    text = refused(written(tmp_path, "\n".join([*lines, "3,unknown"])))
    assert "all numbers or all text, got 'unknown' in row 56, column 'y' among numbers" in text
    assert "got 4 in row 13 (separated by commas)" in refused(written(tmp_path, "\n".join([*ROWS, "3,4,cat,"])))
    assert "nothing in any row of column 3" in refused(written(tmp_path, "\n".join(f"{row}," for row in ROWS)))


def test_numbers_keep_their_value_as_labels_and_as_users(tmp_path):
    lines = ["a,user,y", *(f"{i * 0.5},{(7 * i) % 12},{i % 12}" for i in range(48))]
    d = load(written(tmp_path, "\n".join(lines)), columns=["user"])
    assert d.num_classes == 12 and d.columns["user"].dtype == np.int64
    ids = (d.inputs[:, 0] * 2).astype(int)
    np.testing.assert_array_equal(d.labels, ids % 12)
    np.testing.assert_array_equal(d.columns["user"], 7 * ids % 12)


@pytest.mark.parametrize("separator", [";", "\t", "|", ", "])
def test_separators_and_encodings(tmp_path, separator):
    plain = load(written(tmp_path, "\n".join(["a,b,kind", *ROWS]), "plain.csv"))
    text = "\r\n".join(["a,b,kind", *ROWS]).replace(",", separator)
    for made in (text.encode("utf-8-sig"), text.encode("utf-16"), f"# made by hand, on monday\n\n{text}".encode()):
        d = load(written(tmp_path, made, "b.tsv"))
        np.testing.assert_array_equal(d.inputs, plain.inputs)
        np.testing.assert_array_equal(d.labels, plain.labels)


def test_other_ways_of_writing(tmp_path):
    path = written(tmp_path, "# a,b,y\n" + "\n".join(ROWS))  # as np.savetxt writes a head
    d = load(path, label="b", columns=["y"], regression=True)
    assert set(d.columns["y"]) == {"cat", "dog"}
    d = load(written(tmp_path, "sep=;\n" + "\n".join(["a;b;y", *ROWS]).replace(",", ";")))  # as Excel says it
    assert len(d.labels) + len(d.test_labels) == 12
    letters = "\n".join(f"{i},{'éè'[i % 2]}" for i in range(12)).encode("latin-1")
    assert load(written(tmp_path, letters)).num_classes == 2  # two letters, not one that cannot be read
    named = load(written(tmp_path, '"height, m",y\n' + "\n".join(f"{i / 7},{i % 2}" for i in range(12))))
    assert named.inputs.shape[1] == 1


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (b"a;b;y\n1,5;2,5;0\n1,25;2,5;1\n3,5;2,5;0\n", "Write points for commas"),
        (b"1 2 3\n4 5 6\n", "got one column ('1 2 3')"),
        (b"PK\x03\x04....", "a spreadsheet"),
        ("a,b\n1,2\n".encode("utf-16-le"), "zero bytes"),
        (b"", "no rows"),
        (b"# nothing\n", "no rows"),
        (b"a,a,y\n1,2,0\n1,2,1\n", "'a' twice"),
        (b"?,2.5,cat\n1.5,2.5,cat\n2.5,3.5,dog\n", "got '?' in row 1, column '0'"),
        (b"a,b,y\n1_000,2,0\n1,2,1\n", "'1_000' in row 2, column 'a'"),
        (b"a,b,y\n1,cat,0\n1,dog,1\n", "'cat' in row 2, column 'b'"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, contents, reason):
    assert reason in refused(written(tmp_path, contents))


def test_row_numbers_as_an_input_are_said(tmp_path):
    table = pd.DataFrame(FLOATS).assign(species=NAMES)
    with pytest.warns(
        UserWarning, match=r"column '0' counts the rows and is taken as an input; .*columns=\['0'\]"
    ) as said:
        load(written(tmp_path, table.to_csv(header=False)))
    assert said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(tmp_path / "a.csv", columns=["0"]).inputs.shape[1] == 4
