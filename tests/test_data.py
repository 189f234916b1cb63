"""Data sets and partitions: nothing is used twice, nobody is empty, the key decides; no downloads."""

import io
import re
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fewbits.cli.app import app
from fewbits.data import NAMES, check_split, hold_out, load, partition, split_notes
from fewbits.data.digits import table
from fewbits.errors import LocalError
from fewbits.rng import Key

LABELS = np.repeat(np.arange(10), 60)
GROUPS = np.repeat(np.arange(30), 20)
SPLITS = ["iid", "dirichlet:0.1", "dirichlet:100", "classes:1", "classes:3", "classes:10", "natural"]


# --- partitions


@pytest.mark.parametrize("split", ["iid", "dirichlet:0.5", "natural"])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
def test_held_out_rows_are_each_clients_own_and_at_least_one_and_one_is_left(split, share):
    parts = partition(LABELS, split, 30, Key(3), GROUPS)
    parts = [part for part in parts if len(part) > 1]
    left, held = hold_out(parts, share, Key(0))
    for part, rest, taken in zip(parts, left, held, strict=True):
        assert len(rest) and len(taken) and rest.dtype == taken.dtype == np.int64
        assert np.array_equal(np.sort(np.concatenate([rest, taken])), part), "disjoint, and nothing is lost"
        assert (np.diff(rest) > 0).all() and (np.diff(taken) > 0).all()
        assert abs(len(taken) - share * len(part)) <= 1


def test_the_key_decides_what_is_held_out_of_a_client_whatever_the_others_have():
    parts = partition(LABELS, "iid", 5, Key(0))
    first, again, other = (hold_out(parts, 0.2, Key(seed)) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first[1], again[1], strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first[1], other[1], strict=True))
    fewer = hold_out([parts[0], parts[1][:7], *parts[2:]], 0.2, Key(0))
    assert all(np.array_equal(first[1][c], fewer[1][c]) for c in (0, 2, 3, 4))
    assert not np.array_equal(*(np.searchsorted(parts[c], first[1][c]) for c in (2, 3))), "each by a draw of its own"


@pytest.mark.parametrize("share", [0, 1, 1.5, -0.2, float("nan")])
def test_a_share_that_leaves_nothing_is_refused(share):
    with pytest.raises(LocalError, match=r"holdout must be a number in \(0, 1\), such as 0\.2; got"):
        hold_out([np.arange(5)], share, Key(0))


def test_a_client_of_one_example_has_none_to_hold_out():
    with pytest.raises(LocalError, match="holdout: client 1 has 1 example; to hold one out it needs two"):
        hold_out([np.arange(5), np.arange(1)], 0.2, Key(0))
    left, held = hold_out([np.arange(2)], 0.9, Key(0))
    assert len(left[0]) == len(held[0]) == 1


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("clients", [1, 7, 30])
def test_no_example_is_used_twice_and_nobody_is_empty(split, clients):
    if split.startswith("classes:") and int(split[8:]) * clients < 10:
        with pytest.raises(LocalError, match="leaves out"):
            partition(LABELS, split, clients, Key(0))
        return
    parts = partition(LABELS, split, clients, Key(0), GROUPS)
    used = np.concatenate(parts)
    assert len(parts) == clients
    assert len(np.unique(used)) == len(used)
    assert all(len(rows) and rows.dtype == np.int64 and (np.diff(rows) > 0).all() for rows in parts)
    assert used.min() >= 0
    assert used.max() < len(LABELS)


@pytest.mark.parametrize("split", SPLITS[:-1])
def test_the_key_decides(split):
    a, b, c = (np.concatenate(partition(torch.from_numpy(LABELS), split, 10, Key(s))).tolist() for s in (0, 0, 1))
    assert a == b
    assert a != c


@pytest.mark.parametrize("split", ["iid", "dirichlet:0.5", "classes:10"])
def test_these_splits_use_every_example(split):
    assert sum(map(len, partition(LABELS, split, 30, Key(0)))) == len(LABELS)


def test_iid_shares_are_equal():
    sizes = {len(rows) for rows in partition(LABELS, "iid", 7, Key(0))}
    assert sizes == {85, 86}


@pytest.mark.parametrize("k", [1, 3, 10])
def test_classes_gives_each_client_exactly_k_and_each_class_equally_many_holders(k):
    held = [np.unique(LABELS[rows]) for rows in partition(LABELS, f"classes:{k}", 20, Key(0))]
    assert {len(classes) for classes in held} == {k}
    assert set(np.bincount(np.concatenate(held))) == {2 * k}


def test_smaller_alpha_is_more_skewed():
    def largest_share(alpha: float) -> float:
        parts = partition(LABELS, f"dirichlet:{alpha}", 10, Key(0))
        return float(np.mean([np.bincount(LABELS[rows]).max() / len(rows) for rows in parts]))

    assert largest_share(100) < 0.2 < 0.4 < largest_share(0.1)


def test_dirichlet_fills_clients_that_drew_nothing():
    assert min(map(len, partition(LABELS, "dirichlet:0.001", 600, Key(0)))) == 1


def test_natural_clients_are_whole_groups_and_fewer_clients_are_a_choice_of_them():
    assert [GROUPS[rows].tolist() for rows in partition(LABELS, "natural", 30, Key(0), GROUPS)] == [
        [group] * 20 for group in range(30)
    ]
    chosen = [set(GROUPS[rows]) for rows in partition(LABELS, "natural", 5, Key(0), GROUPS)]
    assert all(len(groups) == 1 for groups in chosen)
    assert len(set.union(*chosen)) == 5


@pytest.mark.parametrize(
    "split", ["", "IID", "iid:3", "dirichlet", "dirichlet:x", "dirichlet:0", "dirichlet:nan", "classes:-1"]
)
def test_a_bad_split_lists_the_valid_forms(split):
    with pytest.raises(LocalError, match=r"dirichlet:A .* classes:K"):
        partition(LABELS, split, 3, Key(0))


@pytest.mark.parametrize(
    "split,clients,match",
    [("iid", 0, "clients"), ("iid", 601, "clients"), ("classes:11", 3, "10 classes"), ("classes:1.5", 3, "whole"),
     ("classes:10", 100, "60 examples for its 100"), ("natural", 3, "none"), ("natural", 31, "30 groups")],
)  # fmt: skip
def test_too_few_examples_classes_or_groups_are_sentences(split, clients, match):
    with pytest.raises(LocalError, match=match):
        partition(LABELS, split, clients, Key(0), GROUPS if clients == 31 else None)


@pytest.mark.parametrize("clients", [2, 5, 30])
@pytest.mark.parametrize("classes", [3, 7, 26])
def test_a_class_is_left_out_by_no_split_and_the_sentence_gives_numbers_that_do(classes, clients):
    labels = np.repeat(np.arange(classes) * 3, 40)
    for k in range(1, classes + 1):
        if k * clients >= classes:
            assert len(np.unique(labels[np.concatenate(partition(labels, f"classes:{k}", clients, Key(0)))])) == classes
            continue
        with pytest.raises(LocalError, match=f"leaves out {classes - k * clients} of {classes} classes") as refused:
            partition(labels, f"classes:{k}", clients, Key(0))
        more, larger = re.findall(r"give (\d+) clients or more, or classes:(\d+)", str(refused.value))[0]
        with pytest.raises(LocalError, match="leaves out"):
            check_split(f"classes:{k}", clients, classes)
        check_split(f"classes:{k}", int(more), classes)
        check_split(f"classes:{larger}", clients, classes)
        with pytest.raises(LocalError):
            check_split(f"classes:{k}", int(more) - 1, classes)


@pytest.mark.parametrize("alpha", ["1e-320", "1e-9", "1e-3", "1e9", "1.7e308"])
@pytest.mark.parametrize("clients", [1, 7, 600])
def test_extreme_dirichlet_draws_lose_no_example_and_leave_nobody_empty(alpha, clients):
    parts = partition(LABELS, f"dirichlet:{alpha}", clients, Key(0))
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(LABELS)))
    assert all(len(part) for part in parts)


def test_the_limits_of_dirichlet_are_one_client_per_class_and_equal_shares():
    few, many = (partition(LABELS, f"dirichlet:{alpha}", 6, Key(1)) for alpha in ("1e-320", "1.7e308"))
    assert all(60 in np.bincount(LABELS[part], minlength=10) or len(part) == 1 for part in few)
    assert {int(n) for part in many for n in np.bincount(LABELS[part], minlength=10)} == {10}


@pytest.mark.parametrize("split", ["dirichlet:0.5", "classes:3"])
@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (LABELS + 0.25, "class numbers as labels; got float64 such as 0.25"),
        (np.where(LABELS == 3, np.nan, LABELS), "class numbers as labels"),
        (LABELS - 1, "class numbers of 0 or more; got -1"),
        (torch.full((60,), -100), "0 or more; got -100"),
        (LABELS[:, None], r"one label per example; got labels of shape \(600, 1\)"),
        (LABELS.astype(str), "class numbers as labels"),
        (torch.randn(60, generator=torch.Generator().manual_seed(0)), "for other targets use iid or natural"),
    ],
)
def test_labels_that_are_no_class_numbers_are_refused(split, labels, said):
    with pytest.raises(LocalError, match=said):
        partition(labels, split, 5, Key(0))
    assert len(partition(labels, "iid", 5, Key(0))) == 5


@pytest.mark.parametrize("split", ["dirichlet:0.5", "classes:3"])
def test_whole_labels_of_any_kind_are_split_alike(split):
    expected = partition(LABELS, split, 5, Key(0))
    for labels in (LABELS.astype(np.uint8), LABELS.astype(np.float32), torch.from_numpy(LABELS).bfloat16()):
        assert all(np.array_equal(a, b) for a, b in zip(expected, partition(labels, split, 5, Key(0)), strict=True))


@pytest.mark.parametrize("given", [{"split": None}, {"split": 3}, {"clients": "3"}, {"clients": 2.5}, {"labels": 5}])
def test_arguments_of_another_kind_get_a_sentence(given):
    with pytest.raises(LocalError, match="partition: "):
        partition(**{"labels": LABELS, "split": "iid", "clients": 3, "key": Key(0)} | given)


def test_what_a_split_leaves_out_is_said_in_numbers():
    parts = partition(LABELS, "natural", 3, Key(0), GROUPS)
    assert split_notes(LABELS, "natural", partition(LABELS, "natural", 30, Key(0), GROUPS), GROUPS) == []
    (note,) = split_notes(torch.from_numpy(LABELS), "natural", parts, GROUPS)
    classes = 10 - len(np.unique(LABELS[np.concatenate(parts)]))
    assert note == (f"split natural leaves out 540 of 600 examples and {classes} of 10 classes and 27 of 30 groups")
    assert split_notes(LABELS, "iid", partition(LABELS, "iid", 7, Key(0))) == []
    (note,) = split_notes(LABELS, "dirichlet:1e-9", partition(LABELS, "dirichlet:1e-9", 40, Key(0)))
    assert re.fullmatch(r"split dirichlet:1e-9 gives \d+ of 40 clients one example alone", note)


def test_terminal_and_page_say_what_a_split_did(tmp_path):
    split = ["--data", "digits", "--model", "mlp", "--split", "dirichlet:1e-9", "--clients", "40"]
    done = CliRunner().invoke(app, ["train", *split, "--rounds", "1", "--processes", "1", "--out", str(tmp_path / "r")])
    assert done.exit_code == 0, done.output
    said = re.search(r"split dirichlet:1e-9 gives \d+ of 40 clients one\s+example alone", done.output)
    assert said and " ".join(said[0].split()) in (tmp_path / "r" / "report.html").read_text()


@pytest.mark.parametrize("command", [["train", "--out", "never"], ["plan"]])
def test_a_split_that_leaves_classes_out_is_refused_by_every_command(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*command, "--data", "digits", "--split", "classes:3", "--clients", "2"])
    assert done.exit_code, done.output
    assert "leaves out 4 of 10 classes; give 4 clients or more, or classes:5" in " ".join(done.output.split())
    assert not (tmp_path / "never").exists()


def test_sequence_targets_have_no_class_split():
    with pytest.raises(LocalError, match="one label"):
        partition(np.zeros((5, 80)), "classes:1", 2, Key(0))
    assert len(partition(np.zeros((5, 80)), "iid", 2, Key(0))) == 2


# --- digits


def test_digits_are_scikit_learns_wherever_its_file_is(monkeypatch):
    from sklearn.datasets import load_digits  # takes two seconds

    expected = np.column_stack(load_digits(return_X_y=True))
    assert np.array_equal(table(), expected)
    monkeypatch.setattr("fewbits.data.digits.FILE", "elsewhere")
    assert np.array_equal(table(), expected)


def test_digits_are_split_by_class_and_always_the_same():
    a, b = load("digits"), load("digits")
    assert torch.equal(a.test_x, b.test_x)
    assert a.shape == (1, 8, 8)
    assert len(a.train_x) + len(a.test_x) == 1797
    shares = torch.bincount(a.test_y) / (torch.bincount(a.test_y) + torch.bincount(a.train_y))
    assert bool(((shares - 0.2).abs() < 0.01).all())
    assert float(a.train_x.min()) == -1
    assert float(a.train_x.max()) == 1
    assert len(load("digits", limit=7).train_x) == 7


# --- images


def parquet(folder, name, pixels, labels, column="image", mode=None):
    cells = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image, mode).save(buffer, "PNG") if mode else Image.fromarray(image).save(buffer, "PNG")
        cells.append({"bytes": buffer.getvalue(), "path": "x.png"})
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({column: cells, "label": labels}), folder / name)


PIXELS = np.random.Generator(np.random.Philox(0)).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("below", [".", "cifar10", "cifar10/plain/data"])
def test_parquet_files_are_found_below_the_folder_and_decoded_exactly(tmp_path, below):
    parquet(tmp_path / below, "train-00000-of-00002.parquet", PIXELS[:2], [3, 4], "img")
    parquet(tmp_path / below, "train-00001-of-00002.parquet", PIXELS[2:4], [5, 6], "img")
    parquet(tmp_path / below, "test-00000-of-00001.parquet", PIXELS[4:], [7, 9], "img")
    data = load("cifar10", tmp_path)
    assert np.array_equal(data.train_x.permute(0, 2, 3, 1).numpy(), PIXELS[:4])
    assert data.train_x.is_contiguous(memory_format=torch.channels_last)
    assert (data.train_x.dtype, data.shape, data.classes) == (torch.uint8, (3, 32, 32), 10)
    assert data.train_y.tolist() == [3, 4, 5, 6]
    assert data.test_y.tolist() == [7, 9]
    few = load("cifar10", str(tmp_path), limit=3)
    assert torch.equal(few.train_x, data.train_x[:3])
    assert len(few.test_x) == 2


def test_grey_images_have_one_channel(tmp_path):
    grey = PIXELS[:2, :28, :28, 0].copy()
    for part in ("train", "test"):
        parquet(tmp_path, f"{part}-0.parquet", grey, [0, 1])
    assert np.array_equal(load("mnist", tmp_path).train_x[:, 0].numpy(), grey)


def test_without_a_folder_the_hub_is_asked_by_name(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        images = [Image.fromarray(image) for image in PIXELS]
        features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(10)})
        return datasets.Dataset.from_dict({"img": images, "label": [0, 1, 2, 3, 4, 5]}, features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = load("cifar10", limit=4)
    assert asked == [("uoft-cs/cifar10", "train"), ("uoft-cs/cifar10", "test")]
    assert np.array_equal(data.train_x.permute(0, 2, 3, 1).numpy(), PIXELS[:4])
    assert data.test_y.tolist() == [0, 1, 2, 3]


def test_missing_folders_and_files_say_what_was_looked_for(tmp_path):
    with pytest.raises(LocalError, match=r"no folder .*nowhere"):
        load("mnist", tmp_path / "nowhere")
    with pytest.raises(LocalError, match=r"train-\*\.parquet .*ylecun/mnist"):
        load("mnist", tmp_path)
    with pytest.raises(LocalError, match=r"input\.txt"):
        load("shakespeare", tmp_path)
    with pytest.raises(LocalError, match="data_dir"):
        load("shakespeare")


def test_foreign_files_are_sentences(tmp_path):
    parquet(tmp_path, "test-0.parquet", PIXELS, [0] * 6)
    good = tmp_path / "train-0.parquet"
    good.write_bytes(b"not parquet")
    with pytest.raises(LocalError, match="cannot be read"):
        load("cifar10", tmp_path)
    pq.write_table(pa.table({"text": ["a"], "label": [1]}), good)
    with pytest.raises(LocalError, match="image"):
        load("cifar10", tmp_path)
    pq.write_table(pa.table({"image": [{"bytes": b"xyz", "path": ""}], "label": [1]}), good)
    with pytest.raises(LocalError, match="row 0 is not an encoded image"):
        load("cifar10", tmp_path)
    parquet(tmp_path, "train-0.parquet", PIXELS[:, :16], [0] * 6)
    with pytest.raises(LocalError, match="should be"):
        load("cifar10", tmp_path)
    parquet(tmp_path, "train-0.parquet", PIXELS, [10] * 6)
    with pytest.raises(LocalError, match="labels"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("library,name", [("sklearn", "digits"), ("datasets", "mnist"), ("pyarrow", "cifar10")])
def test_a_missing_library_names_the_extra(monkeypatch, tmp_path, library, name):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(LocalError, match=r"pip install 'fewbits\[data\]'"):
        load(name, tmp_path if library == "pyarrow" else None)


def test_unknown_names_and_bad_limits_are_refused():
    with pytest.raises(LocalError, match=", ".join(NAMES)):
        load("imagenet")
    with pytest.raises(LocalError, match="limit"):
        load("digits", limit=0)


# --- shakespeare


def test_windows_stay_with_their_speaker_and_targets_are_the_next_character(tmp_path):
    long, other = "abcdefghij" * 90, "klmnopqrst" * 30
    text = f"Anna:\n{long[:450]}\n\nBob:\n{other}\n\nAnna:\n{long[450:]}\n\nPage:\nshort\n"
    (tmp_path / "plays").mkdir()
    (tmp_path / "plays" / "input.txt").write_text(text)
    data = load("shakespeare", tmp_path)
    alphabet = np.array(sorted(set(text)))
    assert data.classes == len(alphabet)
    assert torch.equal(data.train_x[:, 1:], data.train_y[:, :-1])
    assert data.groups is not None
    assert np.bincount(data.groups).tolist() == [10, 2]  # 11 and 3 windows, one of each held out
    assert len(data.test_x) == 2
    first = "".join(alphabet[data.train_x[0].numpy()])
    assert first == long[:80]
    for row, group in zip(data.train_x, data.groups, strict=True):
        assert set(alphabet[row.numpy()]) <= set((long, other)[group] + "\n")
    assert len(partition(data.train_y, "natural", 2, Key(0), data.groups)) == 2


def test_two_plays_are_ambiguous(tmp_path):
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "input.txt").write_text("A:\nb\n")
    with pytest.raises(LocalError, match="found 2"):
        load("shakespeare", tmp_path)
