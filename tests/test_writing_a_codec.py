"""The example in docs/writing-a-codec.md is a codec like any other: it obeys every law, alone and in stacks."""

import re
from pathlib import Path

import pytest

from every_codec import as_codecs, laws
from fewbits.codecs import Delta, ErrorFeedback, LookBack, Sign, chain
from fewbits.errors import LocalError

PAGE = Path(__file__).parents[1] / "docs" / "writing-a-codec.md"


def example() -> type:
    """The class of the page's first block."""
    block = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None
    names: dict[str, object] = {"__name__": "page"}
    exec(block[1], names)
    centre = names["Centre"]
    assert isinstance(centre, type)
    return centre


Centre = example()
ALONE = [codec for one in Centre.examples() for codec in as_codecs(one)]
STACKS = [chain(Centre(), Sign()), ErrorFeedback(chain(Centre(), Sign())), LookBack(Centre()), Delta(Centre())]


@pytest.mark.parametrize("law", laws(), ids=lambda law: law.__name__)
@pytest.mark.parametrize("codec", [*ALONE, STACKS[0]], ids=repr)
def test_the_example_obeys(law, codec):
    law(codec)


@pytest.mark.parametrize("law", [law for law in laws() if "repr" not in law.__name__], ids=lambda law: law.__name__)
@pytest.mark.parametrize("codec", STACKS[1:], ids=repr)  # their repr names a class that only this page knows
def test_stacks_of_the_example_obey(law, codec):
    law(codec)


def test_the_example_refuses_what_it_should():
    with pytest.raises(LocalError, match="keep"):
        Centre(keep=2)
