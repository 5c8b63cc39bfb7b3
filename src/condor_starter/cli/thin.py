"""The thin client: what a startd runs as its STARTER. It hands the job to starterd and stays as its child.

It is installed as one self-contained script (``starterctl install-starter``), which ends in a call of
:func:`main` with this machine's values, and runs under ``python -IS`` in a few milliseconds. That is why it
imports only modules that are part of the interpreter: ``os`` alone costs 0.7 ms, ``socket`` 4 ms.

The conversation on ``<run>/intake.sock`` (a stream) with :mod:`condor_starter.daemon.intake`:

* we send 4 bytes of length (big endian) with our descriptors attached (SCM_RIGHTS), then the request:
  strings that each end in a NUL: version, working directory, number of arguments, the arguments, number of
  descriptors, our number for each of them, and the environment to the end;
* starterd answers ``A`` (it takes the job) or ``R`` (it does not: we do the work ourselves);
* we send ``G``: from here on the job is starterd's, and our copies of the descriptors are closed;
* we send one byte, its number, for each signal that we get; starterd sends ``X`` and the byte to exit with.

A length of 0 asks whether starterd is there, and is answered ``A``.

If our socket closes without that, we died: starterd kills the job. If theirs does, starterd died: we wait
until the next one listens, because by then it has killed the job that was ours, and exit 1: the startd sees a
starter that failed, and the job runs again.
"""

import _signal
import _socket
import posix
import sys
from time import monotonic, sleep

VERSION = b"1"
FORWARDED = (1, 3, 10, 12, 15)  # HUP, QUIT, USR1, USR2, TERM: the numbers of Linux, as starterd reads them
ANSWER_SECONDS = 10.0  # for starterd's A; longer than any pause of a healthy event loop
PARENT_SECONDS = 15.0  # between looks whether the startd still lives
RETURN_SECONDS = 30.0  # for the next starterd, after ours died
FAILED = 1  # the genuine starter's exit code for a general failure: the job runs again
_SO_PEERCRED = 17


def main(run: str, uids: tuple[int, ...], fallback: tuple[bytes, ...]) -> None:
    """Be the starter of one slot. Never returns.

    ``run`` is the run directory, ``uids`` who may own starterd (root always may), ``fallback`` the command
    (absolute, as bytes) that does the same work in its own process when no starterd runs.
    """
    sock = None if _asks_for_text() else _connect(run, uids)
    if sock is not None and _hand_over(sock):
        posix._exit(_stay(sock, run, uids))
    if sock is not None:
        sock.close()
    try:
        posix.execv(fallback[0], [*fallback, *_arguments()[1:]])
    except OSError as e:
        posix.write(2, b"condor_starter: cannot run %s: %s\n" % (fallback[0], str(e).encode()))
        posix._exit(FAILED)


def _asks_for_text() -> bool:
    """``-classad`` and ``-version``: the answer goes to our own standard output, and there is no job."""
    words = _arguments()[1:]
    return len(words) == 1 and words[0][:4] in (b"-cla", b"-ver")


def _connect(run: str, uids: tuple[int, ...]) -> _socket.socket | None:
    """The connection to starterd, or None: nobody listens, or somebody who must not see our sockets."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    sock.settimeout(ANSWER_SECONDS)
    try:
        sock.connect(run + "/intake.sock")
        uid = int.from_bytes(sock.getsockopt(_socket.SOL_SOCKET, _SO_PEERCRED, 12)[4:8], sys.byteorder)
        if uid == 0 or uid == posix.geteuid() or uid in uids:
            return sock
    except OSError:
        pass
    sock.close()
    return None


def _hand_over(sock: _socket.socket) -> bool:
    """Send the job; True once starterd has it. Until then nothing is lost by doing it ourselves."""
    fds = _descriptors()
    try:
        body = _request(fds)
        rights = b"".join(fd.to_bytes(4, sys.byteorder) for fd in fds)
        sock.sendmsg([len(body).to_bytes(4, "big")], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
        sock.sendall(body)
        if sock.recv(1) != b"A":
            return False
        for number in FORWARDED:  # they are blocked since the startd forked us: none is lost
            _signal.signal(number, lambda n, _: _tell(sock, n))
        sock.send(b"G")
    except OSError:
        return False
    null = posix.open("/dev/null", posix.O_RDWR)
    for fd in fds:
        posix.dup2(null, fd)  # starterd owns them: what it closes is closed for good
    return True


def _stay(sock: _socket.socket, run: str, uids: tuple[int, ...]) -> int:
    """Forward signals until starterd tells our exit code."""
    parent = posix.getppid()
    sock.settimeout(PARENT_SECONDS)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    while True:
        try:
            answer = sock.recv(2)
            break
        except TimeoutError:
            if posix.getppid() != parent:  # the startd died, and with it whoever wanted this job
                return FAILED
        except OSError:
            answer = b""
            break
    if len(answer) == 2:
        return answer[1]
    deadline = monotonic() + RETURN_SECONDS
    while not _answers(run, uids) and monotonic() < deadline:
        sleep(0.1)
    return FAILED


def _answers(run: str, uids: tuple[int, ...]) -> bool:
    """Whether a starterd is there. A connection alone proves nothing: a dying one's queue still takes it."""
    sock = _connect(run, uids)
    if sock is None:
        return False
    try:
        sock.sendall(bytes(4))
        return sock.recv(1) == b"A"
    except OSError:
        return False
    finally:
        sock.close()


def _tell(sock: _socket.socket, number: int) -> None:
    try:
        sock.send(bytes((number,)))
    except OSError:
        pass  # starterd is gone: _stay sees it


def _request(fds: list[int]) -> bytes:
    arguments = _arguments()
    words = [VERSION, posix.getcwdb(), b"%d" % len(arguments), *arguments]
    words += [b"%d" % len(fds), *(b"%d" % fd for fd in fds)]
    words += [k + b"=" + v for k, v in posix.environ.items()]
    return b"\0".join(words) + b"\0"


def _arguments() -> list[bytes]:
    return [a.encode(sys.getfilesystemencoding(), "surrogateescape") for a in sys.argv]


def _descriptors() -> list[int]:
    """The standard streams and those of CONDOR_INHERIT: ``fd*...`` or ``SharedPort:path*fd*...`` a token."""
    words = [b"0", b"1", b"2"]
    for token in posix.environ.get(b"CONDOR_INHERIT", b"").split():
        parts = token.split(b"*")
        if len(parts) > 1:
            words.append(parts[1] if token.startswith(b"SharedPort:") else parts[0])
    fds = []
    for word in words:
        if word.isdigit() and int(word) not in fds and _is_open(int(word)):
            fds.append(int(word))
    return fds


def _is_open(fd: int) -> bool:
    try:
        posix.fstat(fd)
    except (OSError, OverflowError):
        return False
    return True
