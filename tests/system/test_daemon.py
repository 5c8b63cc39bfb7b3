"""Jobs through the daemon: what they are told, what they leave, who may do what. Real procd, real boxes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from condor_starter.cli.client import ApiFailure, Client
from system import daemon_help
from system.daemon_help import Machine, ad, ended, shell, until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: jobs of other users")
NOBODY, GAMES = 65534, 5


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    name = f"test-{os.getpid()}-daemon"
    base = Path("/var/tmp") / name
    base.mkdir(mode=0o755)
    with daemon_help.machine(base, name) as found:
        found.start()
        yield found
    subprocess.run(["rm", "-rf", str(base)], check=True)


@pytest.fixture
def client(machine: Machine) -> Iterator[Client]:
    found = machine.client()
    yield found
    found.close()


@pytest.fixture(autouse=True)
def nothing_runs_on(nothing_stays: None, machine: Machine) -> Iterator[None]:
    """In the place of the general look: a procd that runs on keeps a spare process for its next box."""
    yield
    until(lambda: machine.boxes() == [] and os.listdir(machine.execute) == [])


def run(client: Client, text: bytes) -> dict:
    return ended(client, client.submit(text)["id"])


def as_user(uid: int, api: str, code: str) -> dict:
    """Run ``code`` with a client ``c`` as another user; it prints JSON. (Connected by name: SO_PEERCRED.)"""
    script = (
        "import json, os, sys\n"
        "from condor_starter.cli.client import ApiFailure, Client\n"
        f"os.setgroups([]); os.setgid({uid}); os.setuid({uid})\n"
        f"c = Client({api!r})\n"
        "def refused(call):\n"
        "    try: call()\n"
        "    except ApiFailure as e: return e.status\n"
        f"{code}\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# -- the way of a job ------------------------------------------------------------------------------


@pytest.mark.req("H6")
def test_a_job_by_the_api_runs_and_tells_its_exit_code_output_and_usage(client: Client) -> None:
    job = run(
        client, shell("echo hello; echo oops >&2; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exit 7")
    )
    outcome = job["outcome"]
    assert (outcome["how"], outcome["exit_code"], outcome["exit_status"]) == ("exited", 7, 7)
    assert outcome["usage"]["user_usec"] > 1000
    assert outcome["duration"] > 0
    assert client.tail(job["id"], "stdout", 0)[0] == b"hello\n"
    assert client.tail(job["id"], "stderr", 0)[0] == b"oops\n"
    assert b"status=7" in client.log(job["id"])


@pytest.mark.req("H6")
def test_an_ad_in_new_syntax_is_as_good(client: Client) -> None:
    owner = 'Owner = "nobody"; ' if daemon_help.ROOT else ""
    text = f'[ Cmd = "/bin/echo"; {owner} Arguments = "new syntax" ]'.encode()
    job = run(client, text)
    assert client.tail(job["id"], "stdout", 0)[0] == b"new syntax\n"


@pytest.mark.req("H6")
def test_a_job_that_dies_by_a_signal_has_128_plus_it_as_its_status(client: Client) -> None:
    outcome = run(client, shell("kill -KILL $$"))["outcome"]
    assert (outcome["how"], outcome["exit_signal"], outcome["exit_status"]) == ("signalled", 9, 137)


@pytest.mark.req("H6")
def test_a_job_runs_in_its_iwd_and_its_files_are_opened_there_as_its_user(
    machine: Machine, client: Client
) -> None:
    job = run(client, shell("pwd; id -u", Iwd=str(machine.home), Out="out.txt"))
    assert job["outcome"]["exit_status"] == 0
    out = machine.home / "out.txt"
    uid = NOBODY if daemon_help.ROOT else os.getuid()
    assert out.read_text() == f"{machine.home}\n{uid}\n"
    assert out.stat().st_uid == uid
    out.unlink()


@pytest.mark.req("H6", "P2")
def test_without_iwd_it_runs_in_scratch_and_nothing_but_its_record_stays(
    machine: Machine, client: Client
) -> None:
    job = run(client, shell('[ "$PWD" = "$_CONDOR_SCRATCH_DIR" ] && pwd && touch left behind'))
    scratch = client.tail(job["id"], "stdout", 0)[0].decode().strip()
    assert scratch.startswith(str(machine.execute))
    assert not os.path.exists(scratch)
    assert os.listdir(machine.execute) == []
    assert machine.boxes() == []


@pytest.mark.req("X9")
def test_a_program_that_is_not_there_holds_the_job_with_its_name(client: Client) -> None:
    outcome = run(client, ad("/no/such/program"))["outcome"]
    assert (outcome["how"], outcome["exit_status"]) == ("held", 230)
    assert outcome["error"]["blame"] == "user"
    assert "/no/such/program" in outcome["error"]["text"]


@pytest.mark.req("H6")
def test_many_jobs_at_once_end_each_with_its_own_status(machine: Machine, client: Client) -> None:
    numbers = {client.submit(shell(f"exit {i % 100}"))["id"]: i % 100 for i in range(120)}
    for number, status in numbers.items():
        assert ended(client, number)["outcome"]["exit_status"] == status
    assert machine.boxes() == []


# -- control ---------------------------------------------------------------------------------------


def running(client: Client, text: bytes) -> int:
    number = client.submit(text)["id"]
    until(lambda: client.job(number)["state"] == "running")
    return number


TICK = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.02; done"


@pytest.mark.req("G7", "H6")
def test_a_suspended_job_stands_still_until_it_is_continued(client: Client) -> None:
    number = running(client, shell(TICK))
    until(lambda: client.tail(number, "stdout", 0)[1] > 0)
    client.ask(number, "suspend")
    until(lambda: client.job(number)["state"] == "suspended")
    before = client.tail(number, "stdout", 0)[1]
    time.sleep(0.3)
    assert client.tail(number, "stdout", 0)[1] == before
    client.ask(number, "continue")
    until(lambda: client.tail(number, "stdout", 0)[1] > before)
    client.ask(number, "remove", "enough")
    outcome = ended(client, number)["outcome"]
    assert outcome["how"] == "ended"
    assert outcome["ended_by"] == {"ask": "remove", "reason": "enough"}


@pytest.mark.req("H6", "D13")
def test_tail_follows_a_running_job_from_any_offset(client: Client) -> None:
    number = running(client, shell("echo one; sleep 0.2; echo two; sleep 30"))
    until(lambda: client.tail(number, "stdout", 0)[0] == b"one\ntwo\n")
    assert client.tail(number, "stdout", 4) == (b"two\n", 8, False)
    assert client.tail(number, "stdout", -2)[0] == b"o\n"
    client.ask(number, "vacate")
    assert ended(client, number)["outcome"]["ended_by"]["ask"] == "vacate"
    assert client.tail(number, "stdout", 4) == (b"two\n", 8, True)


@pytest.mark.req("H6", "P1")
def test_of_a_long_output_the_end_is_kept_at_its_true_offset(client: Client) -> None:
    script = "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo the end"
    job = run(client, shell(script))
    data, after, done = client.tail(job["id"], "stdout", -8)
    assert (data, after, done) == (b"the end\n", 3000009, True)
    assert client.tail(job["id"], "stdout", 0)[1] > 3000009 - (1 << 20)


@pytest.mark.req("H6", "P6")
def test_an_output_that_the_job_turned_into_a_link_is_not_followed(client: Client) -> None:
    script = (
        "echo true; rm _condor_stdout; ln -s /etc/shadow _condor_stdout; ln -sf /etc/shadow _condor_stderr"
    )
    job = run(client, shell(script))
    assert client.tail(job["id"], "stdout", 0)[0] == b"true\n"
    assert client.tail(job["id"], "stderr", 0)[0] == b""


@pytest.mark.req("H6")
def test_a_stream_that_the_ad_names_is_the_users_to_read(machine: Machine, client: Client) -> None:
    number = running(client, shell("echo x; sleep 30", Iwd=str(machine.home), Out="named"))
    with pytest.raises(ApiFailure) as refused:
        client.tail(number, "stdout", 0)
    assert refused.value.status == 409
    client.ask(number, "remove")
    ended(client, number)


@pytest.mark.req("H6")
def test_an_ended_job_is_shown_until_it_is_forgotten(machine: Machine, client: Client) -> None:
    number = run(client, ad("/bin/true"))["id"]
    assert number in [j["id"] for j in client.jobs("done")]
    for word in ("suspend", "remove"):
        with pytest.raises(ApiFailure) as refused:
            client.ask(number, word)
        assert refused.value.status == 409
    client.forget(number)
    with pytest.raises(ApiFailure) as refused:
        client.job(number)
    assert refused.value.status == 404
    assert not (machine.state / "jobs" / str(number)).exists()


# -- who may -----------------------------------------------------------------------------------------


@needs_root
@pytest.mark.req("P3", "X2")
def test_a_users_job_runs_as_that_user_and_is_hidden_from_others(machine: Machine, client: Client) -> None:
    number = as_user(
        NOBODY,
        machine.api,
        'print(json.dumps(c.submit(b\'Cmd = "/bin/sleep"\\nArguments = "60"\\n\')["id"]))',
    )
    until(lambda: client.job(number)["state"] == "running")
    assert client.job(number)["user"] == "nobody"
    seen = as_user(
        GAMES,
        machine.api,
        f"print(json.dumps([len(c.jobs()), refused(lambda: c.job({number})), "
        f"refused(lambda: c.ask({number}, 'remove')), refused(lambda: c.tail({number}, 'stdout', 0)), "
        f"refused(lambda: c.log({number})), refused(lambda: c.forget({number}))]))",
    )
    assert seen == [0, 404, 404, 404, 404, 404]
    assert client.job(number)["state"] == "running"
    mine = as_user(NOBODY, machine.api, f"print(json.dumps(c.ask({number}, 'remove')['id']))")
    assert mine == number
    assert ended(client, number)["outcome"]["ended_by"]["ask"] == "remove"


@needs_root
@pytest.mark.req("P6", "X2")
@pytest.mark.parametrize(
    ("uid", "line", "status"),
    [
        (NOBODY, 'Owner = "games"', 403),
        (NOBODY, 'OsUser = strcat("ga", "mes")', 400),
        (NOBODY, 'User = "root@here"', 403),
        (NOBODY, "Owner = 0", 400),
        (1, "A = 1", 403),  # the starter's own account
        (0, 'Owner = "root"', 403),
        (0, 'Owner = "daemon"', 403),
        (0, 'Owner = "nosuchuser"', 403),
        (0, "A = 1", 400),
        (54321, "A = 1", 403),  # no account
    ],
)
def test_nobody_runs_a_job_as_an_account_that_is_not_his(
    machine: Machine, uid: int, line: str, status: int
) -> None:
    text = f'Cmd = "/bin/true"\n{line}\n'.encode()
    assert as_user(uid, machine.api, f"print(json.dumps(refused(lambda: c.submit({text!r}))))") == status


@needs_root
@pytest.mark.req("X2")
def test_only_root_can_stop_the_starter(machine: Machine) -> None:
    assert as_user(NOBODY, machine.api, "print(json.dumps(refused(c.drain)))") == 403
    machine.alive()


@needs_root
@pytest.mark.req("X2")
def test_starterd_holds_no_privilege_and_cannot_have_it_back(machine: Machine) -> None:
    assert machine.starterd
    status = Path(f"/proc/{machine.starterd.pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert set(fields["Uid"].split()) == {"1"}
    assert set(fields["Gid"].split()) == {"1"}
    assert "0" not in fields["Groups"].split()
    assert [int(fields[f"Cap{kind}"], 16) for kind in ("Prm", "Eff", "Inh", "Amb")] == [0, 0, 0, 0]


# -- hostile requests --------------------------------------------------------------------------------


@pytest.mark.req("P6", "X9")
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"Cmd = ", 400),
        (b'Arguments = "no program"', 400),
        (b'[ Cmd = "/bin/true"', 400),
        (b"Cmd = \xff\xfe", 400),
        (b'Cmd = "/bin/true"\0', 400),
        (b"A = " + b"(" * 5000 + b"1" + b")" * 5000, 400),
        (b'Cmd = "/bin/true"\nJobUniverse = 9', 400),
        (b"x" * (2 << 20), 413),
    ],
)
def test_a_bad_ad_is_refused_with_one_sentence(client: Client, body: bytes, status: int) -> None:
    with pytest.raises(ApiFailure) as refused:
        client.submit(body)
    assert refused.value.status == status
    assert refused.value.text
    assert "\n" not in refused.value.text


@pytest.mark.req("P6")
@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/", 404),
        ("/v1/jobs/999999", 404),
        ("/v1/jobs/1x", 404),
        ("/v1/jobs/..%2f..%2fetc", 404),
        ("/v1/jobs/99999999999999999999999", 404),
    ],
)
def test_a_path_that_names_nothing_is_404(client: Client, target: str, status: int) -> None:
    with pytest.raises(ApiFailure) as refused:
        client.get(target)
    assert refused.value.status == status


@pytest.mark.req("P6")
@pytest.mark.parametrize(
    "query", ["offset=x", "offset=1e9", "offset=" + "9" * 40, "stream=stdin", "limit=%00"]
)
def test_a_query_that_makes_no_sense_is_400(client: Client, query: str) -> None:
    number = run(client, ad("/bin/true"))["id"]
    with pytest.raises(ApiFailure) as refused:
        client.get(f"/v1/jobs/{number}/tail?{query}")
    assert refused.value.status == 400


@needs_root
@pytest.mark.req("P6", "P3")
def test_one_users_idle_connections_do_not_keep_others_out(machine: Machine, client: Client) -> None:
    code = (
        "import socket, time\n"
        "socks = []\n"
        "for _ in range(200):\n"
        "    s = socket.socket(socket.AF_UNIX)\n"
        f"    s.connect({machine.api!r})\n"
        "    socks.append(s)\n"
        "time.sleep(0.5)\n"
        "closed = 0\n"
        "for s in socks:\n"
        "    s.setblocking(False)\n"
        "    try: closed += s.recv(1) == b''\n"
        "    except BlockingIOError: pass\n"
        "    except ConnectionError: closed += 1\n"
        "print(json.dumps(closed))"
    )
    assert as_user(NOBODY, machine.api, code) == 200 - 64
    assert client.get("/v1/health")


@pytest.mark.req("P6")
def test_half_a_request_and_garbage_do_not_disturb_others(machine: Machine, client: Client) -> None:
    socks = []
    for data in (
        b"GET /v1/jo",
        b"\x16\x03\x01\x00" * 50,
        b"POST /v1/jobs HTTP/1.1\r\nContent-Length: 10\r\n\r\nab",
    ):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(machine.api)
        sock.sendall(data)
        socks.append(sock)
    assert run(client, ad("/bin/true"))["outcome"]["exit_status"] == 0
    for sock in socks:
        sock.close()


@pytest.mark.req("X8")
def test_metrics_count_what_ended(client: Client) -> None:
    run(client, ad("/bin/true"))
    lines = client.get("/v1/metrics").decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert int(values['condor_starter_jobs_ended_total{how="exited"}']) > 0
    assert values["condor_starter_procd_up"] == "1"


@pytest.mark.req("H6")
def test_curl_can_do_it(machine: Machine, client: Client) -> None:
    base = ["curl", "-sS", "--unix-socket", machine.api]
    made = subprocess.run(
        [*base, "--data-binary", "@-", "http://x/v1/jobs"],
        input=shell("echo by curl"),
        capture_output=True,
        check=True,
    )
    number = json.loads(made.stdout)["id"]
    ended(client, number)
    got = subprocess.run([*base, f"http://x/v1/jobs/{number}/tail"], capture_output=True, check=True)
    assert got.stdout == b"by curl\n"
