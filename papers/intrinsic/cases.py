"""The rows of the tables: settings, methods, and the learning rates that the tuning found."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

CLIENTS = {"mnist": 10_000, "cifar10": 5_000}
DIMS = {"mnist": (64, 256, 1024, 4096, 8192), "cifar10": (256, 1024, 4096)}
MODES = ("static", "time-varying", "k-subspace")
CARRIED = ("restart", "project", "spend", "extend", "keep")  # what becomes of the momentum in a new matrix (central.py)
CARRY_DIMS = (1024, 4096, 8192)
OWN, OWN_DIMS = ", own rates", (4096, 8192)  # on MNIST, where the modes share static's rate
PLAIN = ", no momentum"
PARAMETERS = {"mnist": 101_770, "cifar10": 72_138}  # D of the two models
LADDER = (
    0.003,
    0.0055,
    0.01,
    0.017,
    0.03,
    0.055,
    0.1,
    0.17,
    0.3,
    0.55,
    1.0,
    1.7,
    3.0,
)  # learning rates; in subspaces times sqrt(D/d)
START = (4, 6, 8, 10)  # rungs tried first, for every method; in subspaces the rates are times sqrt(D/d)
LATE = 3  # evaluations that "accuracy" is the mean of
ROUNDS = 100  # on CIFAR-10
TUNED = {"mnist": 50, "cifar10": ROUNDS}
EPOCH = 15  # rounds with the same matrices
PAPER = {"local": "outside", "basis": "fastfood", "scale": "orthonormal"}
LINKS = "links"  # the setting of the downlink question


@dataclass(frozen=True)
class Case:
    """One row."""

    name: str
    setting: str  # "mnist", "cifar10": FetchSGD's setting; "links": few clients who come back
    method: str
    settings: dict[str, str] = field(default_factory=dict)
    stateless: bool = False  # without error feedback, as a client that never comes back cannot have any
    per_round: int = 100  # clients; on CIFAR-10 half as many
    rounds: int = 60  # ROUNDS on CIFAR-10
    lr: float = 0.0

    def at(self, rate: float) -> float:
        """The learning rate; in a subspace times sqrt(D/d)."""
        times = (PARAMETERS[self.setting] / int(self.settings["dim"])) ** 0.5 if "dim" in self.settings else 1.0
        return float(f"{rate * times:.2g}")


def subspaces(setting: str) -> list[Case]:
    """Static, time-varying and K-subspace."""
    return [
        Case(
            f"{mode} {dim}",
            setting,
            "intrinsic",
            {"dim": str(dim), "mode": mode, "k": "4", "epoch": str(EPOCH), "momentum": "0.9", **PAPER},
        )
        for dim in DIMS[setting]
        for mode in MODES
    ]


def own_rates() -> list[Case]:
    """Is it the rate, at which static is ahead?"""
    found = [case for case in subspaces("mnist") if int(case.settings["dim"]) in OWN_DIMS]
    return [replace(case, name=case.name + OWN) for case in found]


def without_momentum() -> list[Case]:
    """Is it the momentum, which begins anew in every epoch? At 5, for steps as long, it diverges."""
    found = [case for case in subspaces("mnist") if case.settings["dim"] == "4096"]
    return [replace(c, name=f"{c.name}{PLAIN}", settings=c.settings | {"momentum": "0"}, lr=1.5) for c in found]


def rivals(setting: str) -> list[Case]:
    """FedAvg, FetchSGD and local top-k; on MNIST also smaller ones of each."""
    large, local = {"rows": "5", "columns": "2000", "k": "500"}, {"bits": "32", "momentum": "0.9", "down": "delta8"}
    found = [
        Case("fedavg", setting, "dense", {"momentum": "0.9"}, rounds=40),
        Case("fetchsgd 10,000", setting, "fetchsgd", large),
        Case("local top-k 10%", setting, "topk", local | {"fraction": "0.1"}, stateless=True),
    ]
    if setting == "mnist":
        small = {"rows": "5", "columns": "400", "k": "100"}
        found += [Case("fetchsgd 2,000", setting, "fetchsgd", small)]
        found += [Case("local top-k 1%", setting, "topk", local | {"fraction": "0.01"}, stateless=True)]
        found += [Case("fedavg, 10 a round", setting, "dense", {"momentum": "0.9"}, per_round=10)]
    return found


def rows(setting: str) -> list[Case]:
    """All of FetchSGD's setting; about 1% of the clients in each round."""
    found = subspaces(setting) + rivals(setting)
    return found + own_rates() if setting == "mnist" else [replace(case, per_round=50, rounds=ROUNDS) for case in found]


def links() -> list[Case]:
    """FedAvg, LBGM and top-k, each with a dense downlink and with quantised differences."""
    methods = {"fedavg": ("dense", {}), "lbgm 0.2": ("lbgm", {"threshold": "0.2"}), "top-k 5%": ("topk", {})}
    return [
        Case(f"{name}, {down} down", LINKS, method, own | {"down": down}, per_round=10, rounds=25, lr=0.1)
        for name, (method, own) in methods.items()
        for down in ("dense", "delta8")
    ]


def cases() -> list[Case]:
    """All rows with their learning rates; 0: not found yet."""
    found = [case for setting in DIMS for case in rows(setting)]
    return links() + without_momentum() + [replace(case, lr=case.at(rate(case))) for case in found]


def rate(case: Case) -> float:
    """Its own; on MNIST that of static."""
    own = RATES[case.setting]
    shared = case.setting == "mnist" and case.method == "intrinsic" and not case.name.endswith(OWN)
    return own.get(f"static {case.settings['dim']}" if shared else case.name, 0.0)


def sketches() -> list[Case]:
    """FetchSGD's k, beside the rates: 500 is between these."""
    like = next(case for case in cases() if (case.setting, case.name) == ("mnist", "fetchsgd 10,000"))
    like = replace(like, rounds=TUNED["mnist"])
    return [replace(like, name=f"{like.name}, k {k}", settings=like.settings | {"k": k}) for k in ("100", "2000")]


def carrying() -> list[tuple[Case, str]]:
    """Static, and time-varying with what could become of its momentum, at static's rate and the next of the ladder."""
    found = []
    for case in subspaces("mnist"):
        ways = {"static": ("static",), "time-varying": CARRIED}.get(case.settings["mode"], ())
        if int(case.settings["dim"]) in CARRY_DIMS:
            rung = LADDER.index(rate(case))
            rates = LADDER[rung - 1 : rung + 3]
            found += [(replace(case, lr=case.at(each)), way) for each in rates for way in ways]
    return found


# Of the ladder; in subspaces times sqrt(D/d).
RATES: dict[str, dict[str, float]] = {
    "mnist": {  # of START alone; time-varying and K-subspace have static's, but for `own_rates`
        "static 4096, own rates": 0.17,
        "time-varying 4096, own rates": 0.3,
        "k-subspace 4096, own rates": 0.3,
        "static 8192, own rates": 0.17,
        "time-varying 8192, own rates": 0.1,
        "k-subspace 8192, own rates": 0.1,
        "static 64": 0.3,
        "static 256": 0.3,
        "static 1024": 0.3,
        "static 4096": 0.1,
        "static 8192": 0.1,
        "fetchsgd 10,000": 0.1,
        "fetchsgd 2,000": 0.1,
        "local top-k 10%": 0.1,
        "local top-k 1%": 0.03,
        "fedavg, 10 a round": 0.01,
        "fedavg": 0.1,
    },
    "cifar10": {
        "static 256": 0.1,
        "time-varying 256": 0.17,
        "k-subspace 256": 0.17,
        "static 1024": 0.3,
        "time-varying 1024": 0.17,
        "k-subspace 1024": 0.17,
        "static 4096": 0.17,
        "time-varying 4096": 0.17,
        "k-subspace 4096": 0.3,
        "fedavg": 0.1,
        "fetchsgd 10,000": 0.1,
        "local top-k 10%": 0.055,
    },
}
