"""Flower without fewbits and without content: what a message costs that has nothing in it."""

import time

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

client_app = ClientApp()
server_app = ServerApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Nothing in, nothing out, after as long as training would take: an idle connection is closed after 5 s."""
    time.sleep(float(context.run_config["seconds"]))
    return Message(RecordDict(), reply_to=message)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Ask every node, and ask again when all have answered."""
    nodes: list[int] = []
    while len(nodes) < int(context.run_config["nodes"]):
        time.sleep(1)
        nodes = sorted(grid.get_node_ids())
    for _ in range(int(context.run_config["rounds"])):
        asks = [Message(RecordDict(), node, "train") for node in nodes]
        print(len(list(grid.send_and_receive(asks, timeout=120))), "answers")
