"""quickstart.py with two lines changed: what travels is frames of fewbits, counted both ways.

python examples/flower/quickstart_fewbits.py
"""

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from sklearn.datasets import load_digits
from torch import nn

import fewbits.flower

CLIENTS, ROUNDS = 10, 10


def load(client: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A tenth of the training images, or with client = -1 the test images."""
    digits = load_digits()
    x, y = torch.tensor(digits.data / 8 - 1, dtype=torch.float32), torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    rows = order[1500:] if client < 0 else order[client:1500:CLIENTS]
    return x[rows], y[rows]


def build() -> nn.Module:
    """26,122 parameters."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


client_app = ClientApp(mods=[fewbits.flower.mod("lbgm+topk")])


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """One epoch on the client's own images."""
    model = build()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    x, y = load(int(context.node_config["partition-id"]))
    optimizer = torch.optim.SGD(model.parameters(), lr=message.content["config"]["lr"])
    generator = torch.Generator().manual_seed(int(message.content["config"]["server-round"]))
    for rows in torch.randperm(len(x), generator=generator).split(10):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
    metrics = MetricRecord({"num-examples": len(x), "train-loss": float(loss)})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)


def judge(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """Accuracy on images that no client has."""
    model = build()
    model.load_state_dict(arrays.to_torch_state_dict())
    x, y = load(-1)
    with torch.no_grad():
        return MetricRecord({"accuracy": float((model(x).argmax(1) == y).float().mean())})


server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """FedAvg over all clients."""
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS)
    strategy = fewbits.flower.compress(strategy, method="lbgm+topk", downlink="delta8")
    arrays, config = ArrayRecord(build().state_dict()), ConfigRecord({"lr": 0.1})
    result = strategy.start(grid, arrays, ROUNDS, train_config=config, evaluate_fn=judge)
    print("accuracy", result.evaluate_metrics_serverapp[ROUNDS]["accuracy"])
    print("bytes of frames", strategy.run_store.ledger.frame_bytes)


if __name__ == "__main__":
    run_simulation(server_app, client_app, CLIENTS, backend_config={"client_resources": {"num_cpus": 1}})
