"""Tables and LEAF's files as data sets: read as they are, split among clients, and refused in sentences."""

import json

import numpy as np
import pytest
import torch

import fewbits as fb
from fewbits import data, models
from test_cli import call

pytest.importorskip("pyarrow")
TINY = ("--model", "charlstm", "--clients", "1", "--rounds", "1", "--processes", "1")
PEOPLE = "age,city,member,income\n" + "".join(
    f"{20 + i % 30},{('Ulm', 'Bern', 'Graz')[i % 3]},{'true' if i % 2 else 'false'},{'high' if i % 3 else 'low'}\n"
    for i in range(100)
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "people.csv").write_text(PEOPLE)
    return tmp_path


def test_a_csv_table_is_features_and_classes(folder):
    found = data.load("people.csv@label=income,group=member")
    assert found.train_x.shape == (80, 4) and found.test_x.shape == (20, 4)  # age and three cities
    assert found.classes == 2 and found.train_y[:3].tolist() == [1, 0, 0]  # "high", "low" in their order
    assert found.train_x[:, 0].mean().abs() < 1e-6 and abs(found.train_x[:, 0].std(correction=0) - 1) < 1e-6
    assert found.train_x[:3, 1:].tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]  # Bern, Graz, Ulm
    assert found.groups is not None and np.bincount(found.groups).tolist() == [40, 40]
    assert data.data_info("people.csv@label=income").shape == (6 - 1,)


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_columns_apart_by_another_character_hold_the_same(mark, folder):
    text = PEOPLE.replace("city", '"the city, or town"').replace(",", mark).replace(f"city{mark} or", "city, or")
    (folder / "other.csv").write_text(text, encoding="utf-8-sig")
    one, other = data.load("people.csv@label=income"), data.load("other.csv@label=income")
    assert torch.equal(one.train_x, other.train_x) and torch.equal(one.test_y, other.test_y)
    with pytest.raises(fb.LocalError, match="unknown column 'incom'; did you mean 'income'"):
        data.load("other.csv@label=incom")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has an empty first line; the first line of a CSV file names its columns"),
        ("\n\n", "has an empty first line"),
        ("x" * 200_000, "names no columns: field larger"),
        ("age;income\n", "has the columns age, income, and no row"),
        (
            "age;income\n" + "1,5;high\n2;low\n" * 9,
            "'age' has numbers with a comma, such as '1,5'; write them with a dec",
        ),
        ("age;income\n" + "1,5e-3;high\n2;low\n" * 9, "'age' has numbers with a comma, such as '1,5e-3'"),
        ("age,income\n" + "15,high\n?,low\n" * 9, "'age' has numbers, such as '15', and '[?]'; leave missing ones"),
        ("age,income\n" + "15,high\ninf,low\n" * 9, "'age' has values beyond 1e[+]100, or infinite ones"),
    ],
)
def test_what_makes_no_table_is_said(text, said, folder):
    (folder / "bad.csv").write_text(text)
    with pytest.raises(fb.LocalError, match=said):
        data.load("bad.csv@label=income")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (PEOPLE.encode("utf-16"), "is not UTF-8"),
        (PEOPLE.replace("city", "größe").encode("latin-1"), "is not UTF-8"),
        (PEOPLE.replace("Ulm", "Köln").encode("latin-1"), "is not UTF-8: see column 'city'"),
    ],
)
def test_another_encoding_is_said(content, said, folder):
    (folder / "bad.csv").write_bytes(content)
    with pytest.raises(fb.LocalError, match=said):
        data.load("bad.csv@label=income")


def test_parquet_holds_the_same_and_a_test_file_is_scaled_by_the_training_rows(folder):
    import pyarrow.csv
    import pyarrow.parquet

    rows = pyarrow.csv.read_csv(folder / "people.csv")
    pyarrow.parquet.write_table(rows, folder / "people.parquet")
    one, other = data.load("people.csv@label=income"), data.load("people.parquet@label=income", folder)
    assert torch.equal(one.train_x, other.train_x) and torch.equal(one.test_y, other.test_y)
    (folder / "test.csv").write_text("age,city,member,income\n,Oslo,true,low\n")
    found = data.load("people.csv@label=income,test=test.csv")
    assert len(found.train_x) == 100 and found.test_x[0].tolist()[:4] == [0, 0, 0, 0]  # unknown: the mean, and no city
    assert found.test_y.tolist() == [1]


def test_a_table_is_trained_on_and_resumed_from_another_folder(folder, tmp_path, monkeypatch):
    call("train", "--data", "people.csv@label=income", "--clients", "4", "--rounds", "8", "--lr", "0.3", "--out", "run")
    figures = json.loads((folder / "run/summary.json").read_text())
    assert figures["accuracy"] == 1.0
    printed = call("export", "run", "--merged", "plain.safetensors")
    exec(printed.split("it loads by")[1], names := {})
    assert names["model"](data.load("people.csv@label=income").test_x).shape == (20, 2)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    call("train", "--resume", "../run", "--rounds", "9")
    more = ("--data", "people.csv@label=income,group=city", "--data-dir", "..", "--split", "natural")
    call("train", *more, "--clients", "3", "--rounds", "1", "--out", "natural")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("people.csv", "a table needs the column of its labels: FILE@label=COLUMN"),
        ("people.csv@label=incme", "unknown column 'incme'; did you mean 'income'"),
        ("people.csv@lable=income", "unknown option of a table 'lable'; did you mean 'label'"),
        ("people.csv@label=income,group=town", "unknown column 'town'"),
        ("nobody.csv@label=x", "there is no file /"),
        ("gap.csv@label=b", "column 'b' has rows without a label"),
        ("one.csv@label=b", "column 'b' has 1 different labels"),
        ("many.csv@label=b", "column 'a' has 120 different texts, more than 100"),
        ("many.csv@label=a", "column 'a' has 150 different labels; classes are 2 to 100"),
        ("prices.csv@label=b", "column 'b' has 2.5, which is no class; for numbers to predict write target=COLUMN"),
        ("few.csv@label=b", "few.csv has 2 rows"),
        ("people.csv@label=income,test=few.csv", "few.csv: unknown column 'age'"),
        ("torn.csv@label=a", "torn.csv cannot be read as csv"),
        ("torn.parquet@label=a", "torn.parquet cannot be read as parquet"),
        ("alone.csv@label=a", "has no column for features beside a"),
        ("twice.csv@label=b", "2 columns are called 'a'"),
    ],
)
def test_a_mistake_with_a_table_is_a_sentence(folder, text, said):
    files = {
        "gap.csv": "a,b\n1,x\n2,\n3,y\n" * 3,
        "one.csv": "a,b\n1,x\n2,x\n",
        "prices.csv": "a,b\n" + "1,1\n2,2.5\n3,2\n" * 9,
        "many.csv": "a,b\n" + "".join(f"w{i},{i % 2}\n" for i in range(150)),
        "few.csv": "a,b\n1,x\n2,y\n",
        "torn.csv": "a,b\n1\n2,3,4\n",
        "torn.parquet": "PAR1",
        "alone.csv": "a\n1\n2\n" * 5,
        "twice.csv": "a,a,b\n1,1,2\n" + "1,1,3\n" * 9,
    }
    for name, content in files.items():
        (folder / name).write_text(content)
    assert said in call("train", "--data", text, "--out", "run", code=2)
    assert not (folder / "run").exists()


def hub(monkeypatch, **parts):
    """Let the datasets library give these splits for any name."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict(parts))


def rows_of(count, seed):
    draw = np.random.default_rng(seed)
    return {"size": draw.normal(size=count).tolist(), "kind": [i % 3 for i in range(count)], "note": ["x"] * count}


def test_a_data_set_of_the_hub_goes_by_its_label_column(folder, monkeypatch):
    datasets = pytest.importorskip("datasets")
    train, test = (datasets.Dataset.from_dict(rows_of(count, count)) for count in (30, 6))
    hub(monkeypatch, train=train, validation=test)
    found = data.load("owner/name@label=kind,test=validation")
    assert found.train_x.shape == (30, 2) and found.test_x.shape == (6, 2) and found.classes == 3
    assert data.load("owner/name@label=kind").test_x.shape == (6, 2)  # there is no split test: every fifth row
    call("train", "--data", "owner/name@label=kind", "--clients", "3", "--rounds", "1", "--out", "run")
    with pytest.raises(fb.LocalError, match="unknown split 'validatoin'; did you mean 'validation'"):
        data.load("owner/name@label=kind,test=validatoin")
    hub(monkeypatch, test=test)
    with pytest.raises(fb.LocalError, match="owner/name has no split train; it has test"):
        data.load("owner/name@label=kind")


def test_images_of_the_hub_become_pixels(monkeypatch):
    datasets = pytest.importorskip("datasets")
    image = pytest.importorskip("PIL.Image")
    grey = np.random.default_rng(0).integers(0, 256, (10, 6, 5), dtype=np.uint8)

    def part(pictures, **more):
        kinds = {"picture": datasets.Image(), "class": datasets.ClassLabel(2)}
        kinds |= {name: datasets.Value("int64") for name in more}
        columns = {"picture": [image.fromarray(x) for x in pictures], "class": [i % 2 for i in range(len(pictures))]}
        return datasets.Dataset.from_dict(columns | more, datasets.Features(kinds))

    hub(monkeypatch, train=part(grey), test=part(grey[:4]))
    found = data.load("owner/name@label=class")
    assert torch.equal(found.train_x[:, 0], torch.from_numpy(grey)) and found.test_x.shape == (4, 1, 6, 5)
    hub(monkeypatch, train=part([grey[0], grey[1, :5], *grey[2:]]))
    with pytest.raises(fb.LocalError, match=r"picture row 1 should be \(6, 5\) uint8, as the first; got \(5, 5\)"):
        data.load("owner/name@label=class")
    hub(monkeypatch, train=part(grey, width=[5] * 10))
    with pytest.raises(fb.LocalError, match="'picture' has images, so it must be the only one"):
        data.load("owner/name@label=class")


def test_a_data_set_that_cannot_be_fetched_is_named(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load_dataset(name):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(fb.LocalError, match="owner/name could not be fetched: ConnectionError: no network"):
        data.load("owner/name@label=x")


def written(folder, part, users, x, y):
    (folder / part).mkdir(parents=True)
    of = {user: {"x": x(number), "y": y(number)} for number, user in enumerate(users)}
    content = {"users": users, "num_samples": [len(one["x"]) for one in of.values()], "user_data": of}
    (folder / part / "all_data_0.json").write_text(json.dumps(content))


def test_femnist_is_read_by_writer(tmp_path):
    for part in ("train", "test"):
        written(
            tmp_path / "data", part, ["f1", "f2"], lambda n: [[n / 2] * 784] * (n + 1), lambda n: [n + 60] * (n + 1)
        )
    found = data.load("femnist", tmp_path)
    assert found.train_x.shape == (3, 1, 28, 28) and found.train_x[:, 0, 0, 0].tolist() == [-1, 0, 0]
    assert found.train_y.tolist() == [60, 61, 61] and found.groups.tolist() == [0, 1, 1] and found.classes == 62
    more = ("--clients", "2", "--split", "natural", "--rounds", "1", "--out", tmp_path / "run")
    call("train", "--data", "femnist", "--data-dir", tmp_path, "--model", "mlp", *more)


def test_leafs_plays_count_the_last_letter_alone(tmp_path):
    for part in ("train", "test"):
        written(tmp_path, part, ["ROMEO"], lambda n: ["a" * 80, "b" * 80], lambda n: ["b", "a"])
    found = data.load("leaf-shakespeare", tmp_path)
    assert found.train_x.shape == (2, 80) and found.classes == 80
    assert set(found.train_y[:, :-1].flatten().tolist()) == {-100}
    assert found.train_y[0, -1] == found.train_x[1, 0]
    assert models.build("charlstm", found, fb.Key(0))(found.train_x).shape == (2, 80, 80)
    call("train", "--data", "leaf-shakespeare", "--data-dir", tmp_path, *TINY, "--out", tmp_path / "run")
    figures = json.loads((tmp_path / "run/metrics.jsonl").read_text())
    assert figures["accuracy"] in (0, 0.5, 1)  # of two letters


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "should be LEAF's: an object with a list `users`"),
        ('{"users": ["u"], "user_data": {}}', "user 'u' should have lists x and y of one length"),
        ('{"users": ["u"], "user_data": {"u": {"x": [[0]], "y": [1]}}}', "user 'u': x should be 784 numbers"),
        ('{"users": ["u"], "user_data": {"u": {"x": [[[1], 0]], "y": [1]}}}', "user 'u': "),
        ('{"users": [], "user_data": {}}', "have no examples"),
    ],
)
def test_a_damaged_file_of_leafs_is_named(tmp_path, content, said):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/a.json").write_text(content)
    with pytest.raises(fb.LocalError, match=said):
        data.load("femnist", tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(fb.LocalError, match=r"there is no train/\*.json below"):
        data.load("leaf-shakespeare", tmp_path / "elsewhere")
