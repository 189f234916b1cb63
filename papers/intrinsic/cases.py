"""The rows of the tables: settings, methods, and the learning rates that the tuning found."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

CLIENTS = {"mnist": 10_000, "cifar10": 5_000}
DIMS = {"mnist": (64, 256, 1024, 4096), "cifar10": (256, 4096)}
MODES = ("static", "time-varying", "k-subspace")
PARAMETERS = {"mnist": 101_770, "cifar10": 85_642}  # D of the two models
GRID = (0.03, 0.1, 0.3, 1.0)  # learning rates tried for every method; in subspaces times sqrt(D/d)
MORE = (("mnist", "local top-k 1%", 0.01), ("mnist", "fedavg, 10 a round", 0.01))
TUNED = 50  # rounds
EPOCH = 15  # rounds with the same matrices
PLAIN = ", no momentum"
LINKS = "links"  # the setting of the downlink question


@dataclass(frozen=True)
class Case:
    """One row."""

    name: str
    setting: str  # "mnist", "cifar10": FetchSGD's setting; "links": few clients who come back
    method: str
    settings: dict[str, str] = field(default_factory=dict)
    rate: str = ""  # the row whose tuned rate is used; "": its own
    stateless: bool = False  # without error feedback, as a client that never comes back cannot have any
    per_round: int = 100  # clients; on CIFAR-10 half as many
    rounds: int = 60  # 50 on CIFAR-10
    once: bool = False  # for the first seed only: a side question
    lr: float = 0.0

    @property
    def tuned(self) -> str:
        """The row whose rate this one has."""
        return self.rate or self.name


def subspaces(setting: str) -> list[Case]:
    """Static, time-varying and K-subspace, all at the rate that is best for static."""
    return [
        Case(
            f"{mode} {dim}",
            setting,
            "intrinsic",
            {"dim": str(dim), "mode": mode, "k": "4", "epoch": str(EPOCH), "momentum": "0.9"},
            rate=f"static {dim}",
        )
        for dim in DIMS[setting]
        for mode in MODES
    ]


def without_momentum() -> list[Case]:
    """Is it the momentum, which begins anew in every epoch? At 5, for steps as long, it diverges."""
    found = [case for case in subspaces("mnist") if case.settings["dim"] == "4096"]
    return [replace(c, name=f"{c.name}{PLAIN}", settings=c.settings | {"momentum": "0"}, lr=1.5) for c in found]


def rivals(setting: str) -> list[Case]:
    """FedAvg, FetchSGD and local top-k; on CIFAR-10 FedAvg alone."""
    found = [Case("fedavg", setting, "dense", {"momentum": "0.9"}, rounds=40)]
    if setting == "mnist":
        large = {"rows": "5", "columns": "2000", "k": "500"}
        found += [Case("fetchsgd 10,000", setting, "fetchsgd", large)]
        local = {"bits": "32", "momentum": "0.9", "down": "delta8"}
        found += [Case("local top-k 10%", setting, "topk", local | {"fraction": "0.1"}, stateless=True)]
        small = {"rows": "5", "columns": "400", "k": "100"}
        found += [Case("fetchsgd 2,000", setting, "fetchsgd", small, once=True)]
        found += [Case("local top-k 1%", setting, "topk", local | {"fraction": "0.01"}, stateless=True, once=True)]
        found += [Case("fedavg, 10 a round", setting, "dense", {"momentum": "0.9"}, per_round=10)]
    return found


def rows(setting: str) -> list[Case]:
    """All of FetchSGD's setting; about 1% of the clients in each round."""
    found = subspaces(setting) + rivals(setting)
    return found if setting == "mnist" else [replace(case, per_round=50, rounds=TUNED) for case in found]


def links() -> list[Case]:
    """FedAvg, LBGM and top-k, each with a dense downlink and with quantised differences."""
    methods = {"fedavg": ("dense", {}), "lbgm 0.2": ("lbgm", {"threshold": "0.2"}), "top-k 5%": ("topk", {})}
    return [
        Case(f"{name}, {down} down", LINKS, method, own | {"down": down}, per_round=10, rounds=25, lr=0.1)
        for name, (method, own) in methods.items()
        for down in ("dense", "delta8")
    ]


def cases() -> list[Case]:
    """All rows with their rates."""
    found = [case for setting in DIMS for case in rows(setting)]
    return (
        links()
        + without_momentum()
        + [replace(c, lr=RATES[c.setting][c.tuned]) for c in found if c.tuned in RATES[c.setting]]
    )


def tuning() -> list[Case]:
    """The grid of rates, then what its edges asked for, and FetchSGD's k."""
    found = {(case.setting, case.name): case for case in grid()}
    for setting, name, lr in MORE:
        like = next(case for case in found.values() if (case.setting, case.tuned) == (setting, name))
        found[setting, f"{name} at {lr:g}"] = replace(like, name=f"{name} at {lr:g}", lr=lr)
    middle = found["mnist", "fetchsgd 10,000 at 0.1"]
    for k in ("100", "2000"):
        name = f"fetchsgd 10,000, k {k}"
        found["mnist", name] = replace(middle, name=name, rate=name, settings=middle.settings | {"k": k})
    return list(found.values())


def grid() -> list[Case]:
    """Every rate for every method; modes share static's."""
    found = []
    for setting, size in PARAMETERS.items():
        for case in rows(setting):
            if case.tuned == case.name:
                times = (size / int(case.settings["dim"])) ** 0.5 if "dim" in case.settings else 1.0
                rates = [float(f"{rate * times:.2g}") for rate in GRID]
                short = replace(case, rounds=TUNED)
                found += [replace(short, name=f"{case.name} at {lr:g}", rate=case.name, lr=lr) for lr in rates]
    return found


RATES: dict[str, dict[str, float]] = {
    "mnist": {
        "static 64": 12,
        "static 256": 6,
        "static 1024": 3,
        "static 4096": 0.5,
        "fetchsgd 10,000": 0.1,
        "fetchsgd 2,000": 0.1,
        "local top-k 10%": 0.1,
        "local top-k 1%": 0.03,
        "fedavg, 10 a round": 0.01,
        "fedavg": 0.1,
    },
    "cifar10": {"static 256": 18, "static 4096": 1.4, "fedavg": 0.1},
}
