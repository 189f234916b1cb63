"""Local objectives and server optimisers under dense frames; put factors over them with `fedpara+NAME`.

FedProx: Li et al., MLSys 2020. SCAFFOLD: Karimireddy et al., ICML 2020. FedDyn: Acar et al., ICLR 2021. FedAdam,
FedYogi: Reddi et al., ICLR 2021.
"""

from __future__ import annotations

from fewbits.learn.method import Method
from fewbits.learn.objectives import FedDyn, FedProx, Scaffold
from fewbits.learn.optimizers import FedAdam, FedYogi, ServerSGD
from fewbits.methods.dense import dense, wrap_method


def fedprox(mu: float = 0.1, down: str = "dense", momentum: float = 0.0) -> Method:
    """FedProx: a penalty keeps clients near the model that their round began with.

    Source: Li et al., FedProx, MLSys 2020.
    """
    return wrap_method("fedprox", dense(down, momentum), objective=FedProx(mu))


def scaffold(lr: float = 1.0, down: str = "dense") -> Method:
    """SCAFFOLD, option II: control variates correct client drift; they travel both ways in float32.

    Source: Karimireddy et al., SCAFFOLD, ICML 2020.
    """
    return wrap_method("scaffold", dense(down), optimizer=ServerSGD(lr=lr), objective=Scaffold())


def feddyn(alpha: float = 0.1, down: str = "dense") -> Method:
    """FedDyn: a linear term for each client; its fixed point is the optimum of the whole problem.

    Source: Acar et al., FedDyn, ICLR 2021.
    """
    return wrap_method("feddyn", dense(down), optimizer=None, objective=FedDyn(alpha))


def fedadam(
    lr: float = 1e-2, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3, down: str = "dense"
) -> Method:
    """FedAdam: the server takes Adam steps along the clients' mean update.

    Source: Reddi et al., FedOpt, ICLR 2021.
    """
    return wrap_method("fedadam", dense(down), optimizer=FedAdam(lr, beta1, beta2, tau))


def fedyogi(
    lr: float = 1e-2, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3, down: str = "dense"
) -> Method:
    """FedYogi: the server takes Yogi steps along the clients' mean update.

    Source: Reddi et al., FedOpt, ICLR 2021.
    """
    return wrap_method("fedyogi", dense(down), optimizer=FedYogi(lr, beta1, beta2, tau))
