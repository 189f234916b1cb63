"""A real Flower federation on this machine: a SuperLink and SuperNodes with TLS and node authentication on loopback.

    python examples/flower/loopback.py --rounds 5

It makes its own certificates and keys, and takes free ports. Every SuperNode talks through a proxy that counts its
bytes (tap.py). At the end it stops everything that it started, whatever happens. The last lines are the table of
docs/flower.md (transport.py).
"""

from __future__ import annotations

import argparse
import datetime
import ipaddress
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import transport
from fewbits.links.ledger import read
from tap import Exchange, Tap

BIN = Path(sys.executable).parent
PATIENCE = 120.0  # seconds for a process to become ready


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Loopback:
    """The federation, as a context manager. `environment` is what every process of it needs."""

    def __init__(self, folder: Path, nodes: int, transfers: int = 1) -> None:
        """`folder`: for certificates, logs and states; `nodes`: SuperNodes; `transfers`: of each at the same time."""
        self.folder, self.nodes, self.port = folder, nodes, free_port()
        self.taps: list[Tap] = []
        self.supernodes: dict[int, subprocess.Popen[bytes]] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        home = folder / "home"
        home.mkdir(parents=True)
        self.environment = os.environ | {
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            # More than one at a time takes a connection more, with a handshake that costs more than most frames.
            "FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PULLS": str(transfers),
            "FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PUSHES": str(transfers),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        }
        self.certificate, self.key, self.ca = make_certificates(folder)
        lines = ['[superlink]\ndefault = "loopback"\n[superlink.loopback]', f'address = "127.0.0.1:{self.port}"']
        (home / "config.toml").write_text("\n".join([*lines, f'root-certificates = "{self.ca}"\n']))

    def __enter__(self) -> Loopback:
        try:
            self._start_superlink()
            for number in range(self.nodes):
                self.taps.append(Tap(self.port, self.certificate, self.key, self.ca))
                public = make_node_key(self.folder / f"client_{number}")
                self.call("flwr", "supernode", "register", str(public), "loopback")
                self.start_supernode(number)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()

    def _start_superlink(self) -> None:
        self._start(
            "superlink",
            *("flower-superlink", "--host", "127.0.0.1", "--port", str(self.port), "--enable-supernode-auth"),
            *("--ssl-certfile", str(self.certificate), "--ssl-keyfile", str(self.key)),
            *("--ssl-ca-certfile", str(self.ca), "--disable-runtime-dependency-installation"),
        )
        wait_for(self.port)

    def start_supernode(self, number: int) -> None:
        """Start a SuperNode, or start it again: the SuperLink refuses a killed one until its heartbeat has lapsed."""
        until = time.monotonic() + PATIENCE
        log = self.folder / f"supernode-{number}.log"
        seen = log.read_text().count("SuperNode ID") if log.exists() else 0
        while time.monotonic() < until:
            process = self.supernodes[number] = self.launch(number, f"supernode-{number}")
            while process.poll() is None and time.monotonic() < until:
                if self.log(f"supernode-{number}").count("SuperNode ID") > seen:
                    return
                time.sleep(0.2)
            end(process)
        raise RuntimeError(f"SuperNode {number} was not let in:\n{self.log(f'supernode-{number}')[-2000:]}")

    def launch(self, number: int, name: str) -> subprocess.Popen[bytes]:
        """A SuperNode's process, which may or may not be let in; `name`: of its log."""
        state = self.folder / f"node-{number}"
        return self._start(
            name,
            *("flower-supernode", "--superlink", f"127.0.0.1:{self.taps[number].port}"),
            *("--root-certificates", str(self.ca), "--host", "127.0.0.1", "--port", str(free_port())),
            *("--auth-supernode-private-key", str(self.folder / f"client_{number}")),
            *(
                "--ssl-certfile",
                str(self.certificate),
                "--ssl-keyfile",
                str(self.key),
                "--ssl-ca-certfile",
                str(self.ca),
            ),
            *("--node-config", f'partition-id={number} num-partitions={self.nodes} fewbits-state="{state}"'),
        )

    def run(self, project: Path, patience: float, /, **config: object) -> str:
        """`flwr run` with this configuration: its output, once the run has ended, within `patience` seconds."""
        text = " ".join(f"{name.replace('_', '-')}={value!r}" for name, value in config.items())
        return self.call("flwr", "run", str(project), "loopback", "--stream", "--run-config", text, timeout=patience)

    def exchanges(self) -> list[list[Exchange]]:
        """What each SuperNode has exchanged since this was last asked for."""
        return [tap.taken() for tap in self.taps]

    def call(self, *command: str, timeout: float = 60) -> str:
        """A command's output; RuntimeError with all of it when it fails."""
        done = subprocess.run(
            [BIN / command[0], *command[1:]], env=self.environment, capture_output=True, text=True, timeout=timeout
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def log(self, name: str) -> str:
        """What a process has written."""
        return (self.folder / f"{name}.log").read_text()

    def _start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [BIN / command[0], *command[1:]],
                *(-1, None, subprocess.DEVNULL, log, log),
                env=self.environment,
                start_new_session=True,  # so that what it starts can be ended with it
            )
        self._processes.append(process)
        return process

    def close(self) -> None:
        """End what was started, asked first, then made to."""
        for process in reversed(self._processes):
            end(process)
        until = time.monotonic() + 10
        while (left := started_with(self.environment["FLWR_HOME"])) and time.monotonic() < until:
            for number in left:  # apps that Flower started in sessions of their own
                with suppress(ProcessLookupError):
                    os.kill(number, 9)
            time.sleep(0.1)
        for tap in self.taps:
            tap.close()


def end(process: subprocess.Popen[bytes], at_once: bool = False) -> None:
    """End a process that `Loopback` started, and its own children."""
    for signal in (() if at_once else (15,)) + (9,):
        try:
            os.killpg(process.pid, signal)
        except ProcessLookupError:
            break
        if signal == 15:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                continue
    process.wait()


def started_with(home: str) -> list[int]:
    """The processes whose environment names this FLWR_HOME, which is ours alone; none where there is no /proc."""
    found, mark = [], f"FLWR_HOME={home}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in path.read_bytes().split(b"\0") and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
    return found


def wait_for(port: int) -> None:
    """Until somebody listens on a port."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"nobody listens on port {port} after {PATIENCE:.0f} s")


def make_certificates(folder: Path) -> tuple[Path, Path, Path]:
    """(certificate, key, certificate of the authority) for loopback, valid for a day."""
    now = datetime.datetime.now(datetime.UTC)
    authority, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def signed(name: str, public: ec.EllipticCurvePublicKey, extra: list[tuple[x509.ExtensionType, bool]]) -> bytes:
        def named(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        builder = x509.CertificateBuilder(
            named("fewbits loopback CA"), named(name), public, x509.random_serial_number()
        )
        builder = builder.not_valid_before(now - datetime.timedelta(minutes=5))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        for extension, critical in extra:
            builder = builder.add_extension(extension, critical)
        return builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    local = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    identifier = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())
    known = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    ca = signed(
        "fewbits loopback CA",
        authority.public_key(),
        [(x509.BasicConstraints(True, None), True), (identifier, False), (usage, True)],
    )
    certificate = signed(
        "localhost",
        own.public_key(),
        [(x509.SubjectAlternativeName(local), False), (x509.BasicConstraints(False, None), True), (known, False)],
    )
    paths = folder / "server.pem", folder / "server.key", folder / "ca.crt"
    for path, data in zip(
        paths, (certificate, private_bytes(own, serialization.PrivateFormat.TraditionalOpenSSL), ca), strict=True
    ):
        path.write_bytes(data)
    return paths


def make_node_key(path: Path) -> Path:
    """A SuperNode's private key at `path`; returns the path of the public one."""
    key = ec.generate_private_key(ec.SECP384R1())
    path.write_bytes(private_bytes(key, serialization.PrivateFormat.OpenSSH))
    path.chmod(0o600)
    public = path.with_suffix(".pub")
    encoded = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    public.write_bytes(encoded + b"\n")
    return public


def private_bytes(key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat) -> bytes:
    """PEM, without a password."""
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def measured(arguments: argparse.Namespace, transfers: int, empty: bool) -> list[str]:
    """Rows of the table of one federation: fewbits, and with `empty` messages without content, too."""
    how = "one transfer at a time" if transfers == 1 else "Flower's default"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fewbits-flower-")))
        project, server = folder / "project", folder / "server"
        subprocess.run([sys.executable, "-m", "fewbits", "flower", "new", str(project)], check=True)
        federation, began = stack.enter_context(Loopback(folder, arguments.nodes, transfers)), time.monotonic()
        print(f"a SuperLink on port {federation.port} and {arguments.nodes} SuperNodes, TLS and node authentication on")
        config = {"method": arguments.method, "rounds": arguments.rounds, "clients": arguments.nodes}
        print(federation.run(project, 1800, per_round=arguments.nodes, state=str(server), **config))
        summary = json.loads((server / "summary.json").read_text())
        print(f"accuracy {summary['accuracy']:.3f}, {time.monotonic() - began:.0f} s")
        lines = transport.rows(f"fewbits, {how}", federation.exchanges(), list(read(server / "ledger.jsonl")))
        if empty:
            federation.run(Path(__file__).parent / "empty", 1800, rounds=arguments.rounds + 1, nodes=arguments.nodes)
            lines += transport.rows(f"empty, {how}", federation.exchanges(), [])
    return lines


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="three or more")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--method", default="lbgm+topk")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="measure the table of docs/flower.md, and write it")
    arguments = parser.parse_args()
    lines = [*transport.HEAD, *measured(arguments, 1, empty=arguments.write is not None)]
    if arguments.write:
        lines += measured(arguments, 2, empty=True)
        transport.write(arguments.write, lines)
    print("\n".join([*lines, "bytes per client-round; " + transport.LEGEND]))


if __name__ == "__main__":
    main()
