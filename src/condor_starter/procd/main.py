"""The entry point of procd: ``python -I -S main.py [--config FILE] [--set KEY=VALUE]... [--private FD]``.

Run by path, with no site-packages, so that nothing but this package and the standard library can be imported
by the one process that holds privilege.
"""

# ruff: noqa: E402  (what is imported before the nursery is split off is in the memory of every init)
from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # run by path: find our own package, and nothing else
    sys.path[:] = [p for p in sys.path if p != os.path.dirname(os.path.abspath(__file__))]
    sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")))

from condor_starter.procd import nursery

NURSERY = nursery.split_off() if __name__ == "__main__" else None

import gc
import signal
import socket

from condor_starter.procd.server import Server
from condor_starter.procd.settings import Settings, SettingsError, load
from condor_starter.procd.spares import Spares

CONFIG = "/etc/condor_starter/procd.conf"
USAGE = "usage: condor_starter_procd [--config FILE] [--set KEY=VALUE]..."


def main(argv: list[str]) -> int:
    """Serve until told to stop; exit status 0, 1 (cannot start, said on stderr), 2 (bad usage)."""
    try:
        config, overrides, private = parse(argv)
    except ValueError as e:
        print(f"condor_starter_procd: {e}\n{USAGE}", file=sys.stderr)
        return 2
    try:
        serve(load(config, overrides), private)
    except (SettingsError, OSError) as e:
        print(f"condor_starter_procd: {e}", file=sys.stderr)
        return 1
    return 0


def parse(argv: list[str]) -> tuple[str, list[str], int]:
    """Config file, overrides, and the inherited descriptor of a private procd (-1: listen)."""
    config, overrides, private = CONFIG, [], -1
    words = iter(argv)
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            value = next(words, "")
        match key:
            case "--config":
                config = value
            case "--set":
                overrides.append(value)
            case "--private" if value.isdigit():
                private = int(value)
            case _:
                raise ValueError(f"{word!r} is no option of mine")
    return config, overrides, private


def serve(settings: Settings, private: int) -> None:
    """Adopt what a dead predecessor left, then serve."""
    os.umask(0o077)
    os.chdir("/")
    server = Server(settings, private >= 0, Spares(NURSERY))
    _stop_on_signal(server)
    if private >= 0:
        server.adopt()
        server.serve(socket.socket(fileno=private))
    else:
        listener = _listener(settings)
        server.adopt()
        server.listen(listener)
        _notify("READY=1")
    gc.collect()
    gc.freeze()
    gc.disable()  # no cycles are made per box, and a collection would touch every page that children share
    server.loop.run()
    server.leave()


def _listener(settings: Settings) -> socket.socket:
    """The listening socket, for root and the client's account only."""
    path = f"{settings.run}/procd.sock"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with probe:
        if probe.connect_ex(path) == 0:
            raise OSError(98, f"another condor_starter_procd serves {path}")
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listener.bind(path)
    if os.geteuid() == 0:
        os.chown(path, settings.client_uid(), -1, follow_symlinks=False)
    os.chmod(path, 0o600)
    listener.listen(16)
    return listener


def _stop_on_signal(server: Server) -> None:
    """TERM ends us: boxes of a listening procd run on for the next one. INT is the terminal's business."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    server.loop.watch(reader, lambda: _drain(reader))


def _drain(fd: int) -> None:
    os.read(fd, 4096)


def _notify(state: str) -> None:
    """sd_notify(3): a datagram to $NOTIFY_SOCKET, if there is one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
