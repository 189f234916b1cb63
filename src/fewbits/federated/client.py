"""Client: one client of a federation in a loop that you own: bundles in, frames out."""

from __future__ import annotations

from torch import nn

from fewbits.checks import check_bytes, check_number, check_whole
from fewbits.errors import LocalError, WireError
from fewbits.federated.client_core import ClientCore
from fewbits.federated.exchange import Build
from fewbits.federated.round_secrets import RoundSecrets
from fewbits.learn.flat_model import FlatModel
from fewbits.learn.local import Correction
from fewbits.learn.method import Method
from fewbits.learn.module_checks import check_module
from fewbits.links import Sender, Subscription
from fewbits.links.bundle import pack, unpack
from fewbits.methods import named
from fewbits.privacy.pairwise_masking import cut_sentence
from fewbits.privacy.secure_sum import ClientEnd
from fewbits.rng import Key

PARTS: tuple[str, ...] = ("up", "state", "down", "down_before")  # of a dumped client
BEFORE: tuple[str, ...] = PARTS[:2]  # changed by a frame; stored twice while one is unsettled


class Client:
    """A client in a loop that you own: `receive` a bundle, train `model` however you like, `reply` with a frame.

    After `receive` the model holds the public weights. Private ones (pFedPara's second halves, FedPer's layers) are as
    this client's last training left them. The reply is start - end, encoded. The next bundle says whether it arrived.
    If it did not, the client rolls back. If the server lost its end of the link, the next reply is a key frame.

    Args:
        model: any module, trained in place; the method prepares factored and private parts.
        method: the server's, as text (`"lbgm+topk"`) or a Method.
        key: this client's secret, different from every other client's. It draws dithers, dp noise and roundings.
        number: its place among the clients, from 0. Masks and k-subspaces need the true one.
        common: everybody's key, the server's `common`.
        build: makes the initial model from a key; needed when the server has a SharedInit.

    Raises:
        LocalError: the method does not fit the model.

    Example:
        >>> import torch, fewbits as fb
        >>> server = fb.Server(torch.nn.Linear(2, 1), "topk@fraction=0.5", fb.Key(0))
        >>> client = fb.Client(torch.nn.Linear(2, 1), "topk@fraction=0.5", fb.Key(1))
        >>> client.receive(server.bundle(0))
        >>> with torch.no_grad():
        ...     _ = client.model.weight.add_(1.0)  # train
        >>> _ = server.accept(0, client.reply(), weight=10)
        >>> server.step()
    """

    def __init__(
        self,
        model: nn.Module,
        method: str | Method,
        key: Key,
        number: int = 0,
        common: Key = Key(0),
        build: Build | None = None,
    ) -> None:
        method = named(method)
        if not isinstance(key, Key) or not isinstance(common, Key):
            raise LocalError(f"Client: key and common must be Keys, such as Key(0); got {key!r} and {common!r}")
        check_whole("Client: number", number, 0, numpy=True)
        if not isinstance(model, nn.Module):
            raise LocalError(f"Client: model must be a torch module; got {type(model).__name__}")
        check_module(model)
        if build is not None and not callable(build):
            raise LocalError(f"Client: build must be a function that makes a model from a key; got {build!r}")
        method.prepare(model, common.fold("factor"))
        self._model = model
        self._core = ClientCore(FlatModel(model), method, key, number, common, build)
        self._secrets = RoundSecrets(self._core)

    @property
    def flat(self) -> FlatModel:
        """The model in one buffer, as `LocalSGD.train` takes it."""
        return self._core.model

    @property
    def model(self) -> nn.Module:
        """The module to train, in place; make optimisers after the Client, since a method may replace parameters."""
        return self._model

    @property
    def up(self) -> Sender:
        """The sending end of the uplink."""
        return self._core.up

    @property
    def down(self) -> Subscription:
        """The receiving end of the downlink."""
        return self._core.down

    @property
    def notes(self) -> list[str]:
        """Sentences about tensors that training changed and that do not travel, and about what masks cut last."""
        cut = self._core.cut
        return [*self._core.remarks, *([cut_sentence(cut)] if cut else [])]

    def receive(self, bundle: bytes) -> None:
        """Take the server's bundle: settle the last reply and load the model.

        Raises:
            WireError: the bytes are damaged or of another method.
            DesyncError: the bundle does not lead on from what this client holds.
        """
        check_bytes("Client.receive", bundle)
        self._core.model.attach()  # takes replaced tensors over, or says which it cannot take
        self._core.receive(bundle)
        self._core.acknowledge(self._core.down.ack)
        self._core.start()
        self._secrets.begin(self.down.version)

    def reset_downlink(self) -> None:
        """Forget the public model, after the server was restored from an older checkpoint.

        Call `Server.reset_downlink`, too. The next bundle is one for first contact.
        """
        self._core.down.load(None)

    @property
    def secure(self) -> ClientEnd:
        """Under masks: this client's end of the secure sum of the round that the last bundle began.

        Its secrets serve one round: a version that comes again, from a server that was restored, has none.
        """
        self._check_received("secure")
        return self._secrets.secure(self.down.version)

    @property
    def correction(self) -> Correction | None:
        """What the objective adds to gradients, for `LocalSGD.train(correct=...)`; None: no term."""
        self._check_received("correction")
        return self._core.correction

    def reply(self, steps: int = 0, lr: float = 0.0, clients: tuple[int, ...] = ()) -> bytes:
        """The frame with what training changed.

        Args:
            steps: local steps taken, and `lr` their size; SCAFFOLD needs both.
            clients: the numbers of all clients of this round; dp with share=central needs them.

        Raises:
            LocalError: a tensor is not finite (it is named), or steps, lr or clients are missing.
        """
        core = self._core
        self._check_received("reply")
        check_whole("Client.reply: steps", steps, 0, numpy=True)
        check_number("Client.reply: lr", lr, "[0, inf)", numpy=True)
        core.rollback()
        trained = core.finish(steps, lr)
        self._secrets.check(trained.round)
        core.redraw = core.up.sequence if trained.round <= self._secrets.newest else None
        frame = b"".join(core.encode(trained, clients, self._secrets.end))
        self._secrets.replied(trained.round)
        return frame

    def _check_received(self, what: str) -> None:
        if self._core.down.value is None:
            raise LocalError(f"Client.{what}: receive a bundle from the server first")

    def dump(self) -> bytes:
        """This client as bytes, even while a reply is unsettled; `load` takes them in a new process."""
        now, core = self._core.dump(), self._core
        before = core.dump(arrived=False) if core.unsettled else None
        parts = [now[name] for name in PARTS] + [before[name] for name in BEFORE if before]
        return pack([self._secrets.dump(), *parts])

    def load(self, data: bytes) -> None:
        """Become the client that was dumped; WireError when the bytes are damaged or another method's."""
        check_bytes("Client.load", data)
        secrets, *parts = (*unpack(data),) or (b"",)
        if len(parts) not in (len(PARTS), len(PARTS) + len(BEFORE)):
            raise WireError("these bytes are not a dumped Client")
        now, before = dict(zip(PARTS, parts, strict=False)), dict(zip(BEFORE, parts[len(PARTS) :], strict=False))
        if before:
            self._core.read_up(before)  # damage shows now, not when the next bundle asks for it
        loaded = RoundSecrets(self._core)
        loaded.load(secrets)
        self._core.load(now, (lambda: before) if before else None)
        self._secrets = loaded
        if self._core.down.value is not None:
            self._core.start()
