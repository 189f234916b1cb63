"""`fewbits methods`, `fewbits data`, `fewbits models`."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from fewbits.data import NAMES as DATA
from fewbits.methods import METHODS
from fewbits.methods.catalogue import options
from fewbits.methods.gossip import GOSSIP
from fewbits.methods.gossip import options as gossip_options
from fewbits.models.build import MAKERS

PAPERS = {
    "dense": "FedAvg, McMahan et al. 2017",
    "fedpaq": "Reisizadeh et al. 2020",
    "topk": "Stich et al. 2018",
    "randk": "Konečný et al. 2016",
    "signsgd": "Karimireddy et al. 2019",
    "lbgm": "Azam et al. 2022",
    "lbgm+topk": "Azam et al. 2022",
    "lbgm+sign": "Azam et al. 2022",
    "predict": "ours, after Azam et al. 2022",
    "fedprox": "Li et al. 2020",
    "scaffold": "Karimireddy et al. 2020",
    "feddyn": "Acar et al. 2021",
    "fedadam": "Reddi et al. 2021",
    "fedyogi": "Reddi et al. 2021",
    "local": "",
    "fedpara": "Hyeon-Woo et al. 2022",
    "lowrank": "baseline of Hyeon-Woo et al. 2022",
    "pfedpara": "Hyeon-Woo et al. 2022",
    "fedper": "Arivazhagan et al. 2019",
    "intrinsic": "Wang and Melas-Kyriazi 2021",
}
GOSSIP_PAPERS = {
    "dsgd": "Lian et al. 2017",
    "choco": "Koloskova et al. 2019",
    "malcom": "Campbell et al. 2023",
    "deepsqueeze": "Tang et al. 2019",
}
SOURCES = {
    "digits": "1,797 images of 8x8; scikit-learn brings them, no folder needed",
    "mnist": "70,000 images of 28x28; train-*.parquet and test-*.parquet below --data-dir, or by the datasets library",
    "cifar10": "60,000 colour images of 32x32; parquet files, as for mnist",
    "shakespeare": "characters of plays; input.txt below --data-dir; a client may be a speaking part (--split natural)",
}


def methods() -> None:
    """List the methods, with a server and without, their options with defaults, and their papers."""
    table = _table("method", "what it does", "options (--set)", "paper")
    for name, make in METHODS.items():
        settings = "\n".join(f"{option}={default}" for option, default in options(name).items())
        table.add_row(name, _first(make), settings, PAPERS.get(name, ""))
    Console().print(table)
    table = _table("fewbits gossip", "what it does", "options (--set)", "paper")
    for name, make in GOSSIP.items():
        settings = "\n".join(f"{option}={default}" for option, default in gossip_options(name).items())
        table.add_row(name, _first(make), settings, GOSSIP_PAPERS[name])
    Console().print(table)


def data_sets() -> None:
    """List the data sets and where their files come from."""
    table = _table("data set", "what it is")
    for name in DATA:
        table.add_row(name, SOURCES.get(name, ""))
    Console().print(table)


def models() -> None:
    """List the models."""
    table = _table("model", "what it is")
    for name, make in MAKERS.items():
        table.add_row(name, _first(make))
    Console().print(table)


def _first(documented: object) -> str:
    return (documented.__doc__ or "").strip().split("\n")[0]


def _table(*names: str) -> Table:
    table = Table(header_style="bold", show_lines=len(names) > 2)
    for i, name in enumerate(names):
        table.add_column(name, style="bold" if i == 0 else "", no_wrap=i == 0)
    return table
