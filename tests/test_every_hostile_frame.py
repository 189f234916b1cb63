"""Every codec of the package obeys the laws of `fewbits.testing` against bytes that no encoder wrote."""

from every_codec import each_codec, each_law
from fewbits.testing import hostile_laws


@each_codec
@each_law([hostile_laws])
def test_obeys(law, codec):
    law(codec)
