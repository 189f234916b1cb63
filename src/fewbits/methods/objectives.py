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
    """FedAvg whose clients are pulled to where their round began."""
    return wrap_method("fedprox", dense(down, momentum), objective=FedProx(mu))


def scaffold(lr: float = 1.0, down: str = "dense") -> Method:
    """SCAFFOLD, option II: control variates correct the clients' drift; they travel both ways in float32."""
    return wrap_method("scaffold", dense(down), optimizer=ServerSGD(lr=lr), objective=Scaffold())


def feddyn(alpha: float = 0.1, down: str = "dense") -> Method:
    """FedDyn: every client's linear term makes the fixed point that of the whole problem."""
    return wrap_method("feddyn", dense(down), optimizer=None, objective=FedDyn(alpha))


def fedadam(
    lr: float = 1e-2, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3, down: str = "dense"
) -> Method:
    """Adam at the server on the clients' mean update."""
    return wrap_method("fedadam", dense(down), optimizer=FedAdam(lr, beta1, beta2, tau))


def fedyogi(
    lr: float = 1e-2, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3, down: str = "dense"
) -> Method:
    """Yogi at the server on the clients' mean update."""
    return wrap_method("fedyogi", dense(down), optimizer=FedYogi(lr, beta1, beta2, tau))
