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

    Args:
        mu: weight of mu/2 |w - start|^2, 0 or more.
        down: the server's way to the clients, by name: dense, fp16, delta8, delta4, sparse, changes, own8, own4,
            own2 or own1.
        momentum: of the server's step, in [0, 1).

    Example:
        >>> fedprox(mu=0.01).objective
        FedProx(mu=0.01)

    Source: Li et al., FedProx, MLSys 2020.
    """
    return wrap_method("fedprox", dense(down, momentum), objective=FedProx(mu))


def scaffold(lr: float = 1.0, down: str = "dense") -> Method:
    """SCAFFOLD, option II: control variates correct client drift; they travel both ways in float32.

    Args:
        lr: the server's rate.
        down: the server's way to the clients, by name: dense, fp16, delta8, delta4, sparse, changes, own8, own4,
            own2 or own1.

    Example:
        >>> scaffold().objective
        Scaffold()

    Source: Karimireddy et al., SCAFFOLD, ICML 2020.
    """
    return wrap_method("scaffold", dense(down), optimizer=ServerSGD(lr=lr), objective=Scaffold())


def feddyn(alpha: float = 0.1, down: str = "dense") -> Method:
    """FedDyn: a linear term for each client; its fixed point is the optimum of the whole problem.

    Args:
        alpha: weight of the penalty, above 0; both halves of the algorithm have it.
        down: the server's way to the clients, by name: dense, fp16, delta8, delta4, sparse, changes, own8, own4,
            own2 or own1.

    Example:
        >>> feddyn().server_optimizer
        FedDynServer(alpha=0.1)

    Source: Acar et al., FedDyn, ICLR 2021.
    """
    return wrap_method("feddyn", dense(down), optimizer=None, objective=FedDyn(alpha))


def fedadam(
    lr: float = 1e-2, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3, down: str = "dense"
) -> Method:
    """FedAdam: the server takes Adam steps along the clients' mean update.

    Args:
        lr: the server's rate.
        beta1: decay of the mean of updates, in [0, 1).
        beta2: of the mean of their squares, in [0, 1).
        tau: adaptivity, in the unit of an update.
        down: the server's way to the clients, by name: dense, fp16, delta8, delta4, sparse, changes, own8, own4,
            own2 or own1.

    Example:
        >>> fedadam(lr=0.03).optimizer.lr
        0.03

    Source: Reddi et al., FedOpt, ICLR 2021.
    """
    return wrap_method("fedadam", dense(down), optimizer=FedAdam(lr, beta1, beta2, tau))


def fedyogi(
    lr: float = 1e-2, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3, down: str = "dense"
) -> Method:
    """FedYogi: the server takes Yogi steps along the clients' mean update.

    Args:
        lr: the server's rate.
        beta1: decay of the mean of updates, in [0, 1).
        beta2: of the mean of their squares, in [0, 1).
        tau: adaptivity, in the unit of an update.
        down: the server's way to the clients, by name: dense, fp16, delta8, delta4, sparse, changes, own8, own4,
            own2 or own1.

    Example:
        >>> fedyogi(lr=0.03).optimizer.lr
        0.03

    Source: Reddi et al., FedOpt, ICLR 2021.
    """
    return wrap_method("fedyogi", dense(down), optimizer=FedYogi(lr, beta1, beta2, tau))
