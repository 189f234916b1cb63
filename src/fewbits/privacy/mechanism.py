"""GaussianMechanism: clipping and noise for the update of a client."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fewbits import kernels
from fewbits.checks import check_number, check_whole
from fewbits.errors import LocalError
from fewbits.rng import Key

# A draw of Key.normal is one of 2^32 multiples of 2^-16. Beyond 4.4, where 5e-6 of the mass is, most multiples never
# occur, and the missing ones would reveal the value under the noise. The mean of four draws, times two, has no gaps.
DRAWS = 4
FRACTION = 2.0**16 * math.sqrt(DRAWS)  # multiples of 1 / FRACTION
LARGEST = 6.4 * math.sqrt(DRAWS)  # bound of a noise entry, in units of sigma C
BELOW_ONE = 1 - 2.0**-40  # rounding must not lift a clipped norm above C


@dataclass(frozen=True)
class GaussianMechanism:
    """Clip an update to a 2-norm and add Gaussian noise: the Gaussian mechanism.

    ``x -> x * min(1, C/|x|) + N(0, (sigma C)^2 I)``, with C = clip and sigma = noise_multiplier. One more client moves
    a sum of clipped updates by at most C; one client whose data are replaced, by at most 2C. Noise of sigma C in the
    sum makes it (epsilon, delta)-private; `epsilon` computes the pair. When each client adds all of the noise, each
    message is private (`local_epsilon`). `share` divides the noise among clients whose messages are only seen as a sum.

    Args:
        clip: C, the largest 2-norm of an update.
        noise_multiplier: sigma, the standard deviation of the noise per entry, in units of C.

    Raises:
        LocalError: an argument is out of range.

    Example:
        >>> mechanism = GaussianMechanism(clip=1.0, noise_multiplier=0.01)
        >>> noisy = mechanism.apply(torch.full((4,), 10.0), Key(1 << 200).fold("update", 0))
        >>> bool((noisy - 0.5).abs().max() < 0.13)
        True

    References:
        Dwork and Roth, The Algorithmic Foundations of Differential Privacy, 2014, appendix A. Difference: results are
        integer multiples of sigma C * 2^-17, and the clipped update is rounded towards zero to them, so that low bits
        reveal nothing of x (Mironov, On Significance of the Least Significant Bits, 2012). No noise entry exceeds
        12.8 sigma C.
    """

    clip: float  # C, 2-norm; smaller: less noise in total, more of the update is cut
    noise_multiplier: float  # sigma, in units of C; larger: more private, slower training

    def __post_init__(self) -> None:
        check_number("GaussianMechanism: clip", self.clip, "[1e-20, 1e20]")
        check_number("GaussianMechanism: noise_multiplier", self.noise_multiplier, "[1e-6, 1e6]")

    @property
    def largest(self) -> float:
        """Largest possible entry of a result; the right `clip` of a `ModularEncoding`."""
        return self.clip * (1 + LARGEST * self.noise_multiplier)

    def share(self, clients: int) -> GaussianMechanism:
        """Return the mechanism of one client whose messages are only seen in a sum: sigma / sqrt(clients).

        `clients` is the smallest number that may arrive: the noise of missing clients is absent from the sum.
        """
        check_whole("GaussianMechanism.share: clients", clients, 1)
        return replace(self, noise_multiplier=self.noise_multiplier / math.sqrt(clients))

    def apply(self, x: Tensor, key: Key) -> Tensor:
        """Clip x and add noise; the result has the shape and dtype of x.

        Args:
            x: all values that leave the client, as one tensor in the range of float32.
            key: a secret key, new for each x. A party that knows it can subtract the noise, and two updates under one
                key differ by no noise.

        Raises:
            LocalError: x is not finite.
        """
        values = x.detach().reshape(-1).cpu().to(torch.float32).numpy()
        norm = math.sqrt(kernels.dots.products(values, values)[0])
        if not math.isfinite(norm):
            raise LocalError(f"GaussianMechanism: expected finite values; got an update of norm {norm}")
        unit = self.clip * self.noise_multiplier / FRACTION
        shrink = min(1.0, self.clip * BELOW_ONE / norm) if norm else 1.0
        levels = torch.from_numpy(values).to(torch.float64).mul_(shrink).div_(unit).trunc_()
        for draw in range(DRAWS):
            levels += torch.from_numpy(key.fold("gaussian", draw).normal(len(values))).mul_(2.0**16)
        return levels.mul_(unit).to(x.dtype).reshape(x.shape).to(x.device)
