"""Methods as text: options go last, and a text with options elsewhere is refused with its right spelling."""

import pytest

import fewbits as fb
from fewbits.methods import gossip
from fewbits.methods.catalogue import build, options
from fewbits.methods.text import read, read_all
from test_cli import call

MISPLACED = {
    "trimmed@trim=0.2+dense": "trimmed+dense@trim=0.2",
    "dp@noise=1+topk": "dp+topk@noise=1",
    "dp@noise=1 + topk": "dp+topk@noise=1",
    "dp@noise=1e+5+topk": "dp+topk@noise=1e+5",
    "dp@noise=1,clip=2+topk@fraction=0.1": "dp+topk@noise=1,clip=2,fraction=0.1",
    "trimmed@trim=0.2+dp@noise=1+topk": "trimmed+dp+topk@trim=0.2,noise=1",
    "dp@noise=1+topk,fraction=0.1": "dp+topk@noise=1,fraction=0.1",
    "fedper@private=fc*+topk": "fedper+topk@private=fc*",
    "trim=0.2@trimmed+dense": "trimmed+dense@trim=0.2",
    "fraction=0.1,bits=8@topk": "topk@fraction=0.1,bits=8",
    "topk@fraction=0.1@bits=8": "topk@fraction=0.1,bits=8",
}


@pytest.mark.parametrize("text", MISPLACED)
def test_options_before_a_layer_are_refused_with_the_right_spelling(text):
    with pytest.raises(fb.LocalError, match="options go last") as error:
        build(text)
    assert f"write {MISPLACED[text]!r}; got {text!r}" in str(error.value)


@pytest.mark.parametrize("text", MISPLACED)
def test_the_right_spelling_is_one_that_is_read(text):
    right = read(MISPLACED[text])
    assert str(right) == MISPLACED[text]
    assert set(right.settings) <= set(options(right.name))


@pytest.mark.parametrize("text", ["trimmed@trim=0.2+dense", "trim=0.2@trimmed+dense", "dp@noise=1,share=local+topk"])
@pytest.mark.parametrize("form", ["{}", "a={}", "dense,{}", "{},dense"])
def test_in_a_list_of_methods_too(form, text):
    if form == "a={}" and text.startswith("trim="):
        return  # a label before options: another mistake
    with pytest.raises(fb.LocalError, match=r"options go last, after all its layers: write '(trimmed|dp)\+"):
        read_all(form.format(text), options)


@pytest.mark.parametrize("text", ["dp@noise=1e+0", "fedper@private=fc*,out*", "dp+topk@noise=1.0"])
def test_options_in_their_place_are_read(text):
    assert str(read(text)) == text


def test_a_method_without_a_server_has_its_options_last_too():
    with pytest.raises(fb.LocalError, match=r"write 'malcom@mu=1e-05,bits=3'"):
        gossip.build("mu=1e-05,bits=3@malcom")


def test_the_commands_say_it(tmp_path):
    out = ["--out", tmp_path / "x"]
    for arguments in (["train", "--method"], ["compare", "--methods"], ["plan", "--method"]):
        more = [] if arguments[0] == "plan" else out
        text = call(*arguments, "trimmed@trim=0.2+dense", *more, code=2)
        assert "write 'trimmed+dense@trim=0.2'; got 'trimmed@trim=0.2+dense'" in text


LISTS = {  # a text of several methods, and what is read
    "a=topk@fraction=0.01,b=topk@fraction=0.05": ["a=topk@fraction=0.01", "b=topk@fraction=0.05"],
    "a=topk@fraction=0.01,bits=8,b=dense": ["a=topk@fraction=0.01,bits=8", "b=dense"],
    "dense,few=lbgm+topk@threshold=0.2,down=dense": ["dense", "few=lbgm+topk@threshold=0.2,down=dense"],
    "bits=topk@bits=8": ["bits=topk@bits=8"],
    "a=fedper@private=fc*,out*,b=topk": ["a=fedper@private=fc*,out*", "b=topk"],
}


@pytest.mark.parametrize("text", LISTS)
def test_a_comma_is_between_methods_options_and_parts_of_a_value(text):
    found = read_all(text, options)
    assert [one.full for one in found] == LISTS[text]
    for one in found:
        build(str(one))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a=tpk@fraction=0.01,b=topk", "unknown method 'tpk'; did you mean 'topk'"),
        ("a=topk@fraction=0.01,b=topkk@fraction=0.05", "unknown method 'topkk'; did you mean 'topk'"),
        ("a=topk,b=topk@fracton=0.05", "method 'topk' has no option 'fracton'; did you mean 'fraction'"),
        ("a=topk@fraction=0.01,bit=8", "has no option 'bit'; did you mean 'bits'"),
        ("dense,b=lbmg", "did you mean the method 'lbgm' with the label 'b'"),
        ("=topk", "the label before = is empty"),
        ("a=b=topk", "is an option without its method"),
        ("a=topk,a=dense", "each once; got a, a"),
    ],
)
def test_a_mistake_in_a_list_of_methods_names_the_nearest(tmp_path, text, said):
    assert said in call("compare", "--methods", text, "--out", tmp_path / "x", code=2)
    assert not (tmp_path / "x").exists()
