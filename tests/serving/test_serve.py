"""Addresses: nobody serves strangers by mistake; the command's refusals; and how a server ends."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from trimtab.errors import ConfigError
from trimtab.serving.guard import LOOPBACK
from trimtab.serving.keys import VARIABLE, Keys
from trimtab.serving.serve import check_address, take_address

KEY = "correct-horse-battery"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_this_machine_needs_no_key_and_has_its_own_names(host):
    assert check_address(host, Keys(), open_to_all=False) == LOOPBACK | {host}
    assert check_address(host, Keys.of([KEY]), open_to_all=False) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", "127.0.0.1.example.org", ""])
def test_others_need_a_key(host):
    with pytest.raises(ConfigError, match="without a key"):
        check_address(host, Keys(), open_to_all=False)
    assert check_address(host, Keys.of([KEY]), open_to_all=False) is None
    assert check_address(host, Keys(), open_to_all=True) is None


def command(*arguments, **variables):
    ran = subprocess.run(
        [sys.executable, "-m", "trimtab", "serve", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **variables},
    )
    return ran.returncode, ran.stderr


@pytest.mark.slow
def test_the_command_refuses_before_it_loads(tmp_path):
    file = tmp_path / "policy.yaml"
    file.write_text("models: {base: /nowhere}\nknobs: {w: {default: 1, min: 0, max: 2}}\npolicy: base^(1 + 0 * w)\n")
    for arguments, variables, told in [
        (["--host", "0.0.0.0"], {}, "without a key"),
        (["--keys", tmp_path / "none"], {}, "cannot be read"),
        ([], {VARIABLE: "short"}, "a key of 5 characters"),
        (["--knob", "v=1"], {}, "'v'"),
        (["--rows", "0"], {}, "rows"),
        (["--port", "70000"], {}, "port"),
    ]:
        code, printed = command(file, *arguments, **variables)
        assert code == 2 and told in printed, (arguments, printed)
        assert "Traceback" not in printed


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture
def started(tiny_lm_folder):
    """Return the process and the port of the very command, over a tiny transformer."""
    port = free_port()
    arguments = ["serve", "base^w", "--model", f"base={tiny_lm_folder}", "--knob", "w=1", "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-m", "trimtab", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, VARIABLE: KEY, "OMP_NUM_THREADS": "1"},
    )
    end = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            break
        except OSError:
            assert process.poll() is None and time.monotonic() < end, process.communicate()
            time.sleep(0.1)
    yield process, port
    process.kill()
    process.communicate()


def stream(port, length, told):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    body = {"model": "policy", "prompt": "w1", "max_tokens": length, "min_tokens": length, "stream": True}
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    told.append(connection.getresponse().read())
    connection.close()


@pytest.mark.slow
def test_sigterm_lets_streams_finish_and_ends_well(started):
    process, port = started
    told = []
    streams = [threading.Thread(target=stream, args=(port, 60, told)) for _ in range(8)]
    for each in streams:
        each.start()
    time.sleep(0.03)
    process.send_signal(signal.SIGTERM)
    for each in streams:
        each.join()
    assert process.wait(20) == 0
    printed = process.stderr.read() + process.stdout.read()
    assert [text.endswith(b"data: [DONE]\n\n") for text in told] == [True] * 8
    assert KEY not in printed and "Traceback" not in printed and "w1" not in printed.replace("w1:", "")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)


def test_an_address_that_is_taken_or_nobodys_is_refused_before_anything_is_loaded():
    with take_address("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(ConfigError, match="in use"):
            take_address("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ConfigError, match=r"--host no\.such\.invalid"):
        take_address("no.such.invalid", 8000)


def test_without_the_extra_it_says_what_to_install():
    code = "import sys; sys.modules['uvicorn'] = None; import trimtab.serving"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode and 'pip install "trimtab[serve]"' in ran.stderr
