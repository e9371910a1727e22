"""Load a server on this machine, and compare it with the engine used directly: speed, memory, and every token.

    .venv/bin/python benchmarks/serving_load.py [--minutes 5] [--streams 64] [--rounds 3] [--rows 64] [--dtype bfloat16]

1. Throughput with 1, 8 and 32 streaming clients beside the same requests on the engine itself, in turn, round by round;
   ratios of medians. Time to the first token.
2. Many streams at once for some minutes, each a request of a fixed set with its own seed, knobs and settings: what
   comes back must be, token for token, what the same request gave alone; the server's memory is looked at meanwhile.
3. More requests than may wait: the others get a 503 and may try again.

The server listens on 127.0.0.1 and everything ends by itself. Prints one JSON object.
"""

import argparse
import asyncio
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

PROMPTS = (
    "The film was",
    "I had hoped for more from",
    "My grandmother used to say that",
    "The reviewer from the newspaper wrote:",
    "After two hours in the dark we",
    "There is a scene near the end in which",
)
POLICY = """
models:
  base: {model}
  kind: {{source: {model}, prompt: "A glowing review, full of praise: "}}
knobs:
  strength: {{default: 1.0, min: 0.0, max: 3.0}}
policy: base * (kind / base)^strength
"""


def requests(count, tokens):
    """Return different requests: prompts, seeds, strengths and sampling settings."""
    draw = random.Random(0)
    return [
        {
            "model": "kind",
            "prompt": draw.choice(PROMPTS),
            "max_tokens": draw.randint(tokens // 2, tokens),
            "min_tokens": tokens // 2,
            "seed": number,
            "temperature": draw.choice([0.7, 1.0]),
            "top_p": draw.choice([0.9, 1.0]),
            "trimtab": {"knobs": {"strength": draw.choice([0.0, 0.5, 1.0, 2.0])}, "details": 0},
        }
        for number in range(count)
    ]


async def ask(port, body):
    """Ask for a stream; returns the status, the token ids, the text, and when the first token came."""
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    content = json.dumps({**body, "stream": True}).encode()
    lines = ["POST /v1/completions HTTP/1.1", "host: 127.0.0.1", "content-type: application/json", "connection: close"]
    writer.write("\r\n".join([*lines, f"content-length: {len(content)}", "", ""]).encode() + content)
    status = int((await reader.readline()).split()[1])
    while (await reader.readline()) not in (b"\r\n", b""):
        pass
    pieces, first = [], None
    while piece := await reader.read(2**16):
        first = first or time.perf_counter() - started
        pieces.append(piece)
    writer.close()
    return {"status": status, "events": b"".join(pieces), "first": first}


def read(got):
    """Return the token ids of an answer, its text, and whether it came to its end."""
    tokens, text, ended = [], "", False
    for line in got["events"].splitlines():  # sizes of chunks are lines that begin otherwise
        if line.startswith(b"data: {"):
            choice = json.loads(line[6:])["choices"][0]
            tokens += [each["id"] for each in choice.get("trimtab", {}).get("tokens", ())]
            text += choice["text"]
        ended = ended or line.startswith(b"data: [DONE]")
    return tokens, text, ended and got["status"] == 200


def direct(policy, wanted, rows):
    """Return tokens a second of the engine itself, streaming as the server does."""
    from trimtab.decoding import Request, Settings
    from trimtab.decoding.request import Bounds
    from trimtab.decoding.sampling import Sampling
    from trimtab.engines import LocalEngine

    engine = LocalEngine(policy, bounds=Bounds(rows=rows))
    started = time.perf_counter()
    for each in wanted:
        prompt = tuple(engine.vocabulary.encode(each["prompt"]))
        request = Request(prompt, knobs=each["trimtab"]["knobs"], alternatives=0)
        sampling = Sampling(temperature=each["temperature"], top_p=each["top_p"])
        settings = Settings(sampling, each["min_tokens"], each["max_tokens"], seed=each["seed"])
        engine.submit(request, settings, stream=True)
    count = 0
    while engine.busy:
        count += sum(len(update.answer.token_ids) for update in engine.step() if update.answer is not None)
    return count / (time.perf_counter() - started)


async def through(port, wanted):
    """Return tokens a second and times to the first token of as many clients at once."""
    started = time.perf_counter()
    found = await asyncio.gather(*[ask(port, each) for each in wanted])
    seconds = time.perf_counter() - started
    told = [read(each) for each in found]
    assert all(ended for _, _, ended in told)
    return sum(len(tokens) for tokens, _, _ in told) / seconds, [each["first"] for each in found]


async def soak(port, wanted, alone, streams, seconds, process):
    """Keep so many streams going for some time; returns what went wrong and what memory did."""
    until, told, memory = time.monotonic() + seconds, Counter(), []
    draw = random.Random(1)

    async def client():
        while time.monotonic() < until:
            number = draw.randrange(len(wanted))
            tokens, text, ended = read(await ask(port, wanted[number]))
            told["requests"] += 1
            told["tokens"] += len(tokens)
            told["lost or broken"] += not ended
            told["other tokens than alone"] += tokens != alone[number][0]
            told["other text than alone"] += text != alone[number][1]

    async def watch():
        while time.monotonic() < until:
            memory.append(process.memory_info().rss / 2**20)
            await asyncio.sleep(1)

    await asyncio.gather(watch(), *[client() for _ in range(streams)])
    warm = memory[len(memory) // 4 :]
    half = len(warm) // 2
    return {
        **told,
        "MiB after warm-up": round(statistics.median(warm[:half])),
        "MiB at the end": round(statistics.median(warm[half:])),
        "MiB, most": round(max(memory)),
    }


async def overfill(port, wanted, count):
    """Ask for more at once than may wait; returns how often each status came."""
    found = await asyncio.gather(*[ask(port, wanted[i % len(wanted)]) for i in range(count)])
    return dict(Counter(each["status"] for each in found))


def start(folder, options, waiting):
    """Start the server, and wait until it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "trimtab", "serve", str(folder / "policy.yaml"), "--name", "kind", "--quiet"]
    command += ["--port", str(port), "--rows", str(options.rows), "--waiting", str(waiting), "--dtype", options.dtype]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=open(folder / "log", "wb"))  # noqa: SIM115
    for _ in range(600):
        time.sleep(0.2)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server, port
        assert server.poll() is None, (folder / "log").read_text()
    raise AssertionError("the server did not come up")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--model", default="smollm2-135m")
    options = parser.parse_args()
    from trimtab import LM, read_policy_file

    told = {}
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room)
        (folder / "policy.yaml").write_text(POLICY.format(model=options.model))
        policy = read_policy_file(folder / "policy.yaml").build(lambda source: LM.load(source, dtype=options.dtype))
        waiting = 32
        server, port = start(folder, options, waiting)
        try:
            wanted = requests(96, options.tokens)
            asyncio.run(through(port, wanted[:8]))  # warms up
            direct(policy, wanted[:8], options.rows)
            for clients in (1, 8, 32):
                mine, theirs, firsts = [], [], []
                for turn in range(options.rounds):
                    batch = wanted[turn : turn + clients]
                    mine.append(direct(policy, batch, options.rows))
                    speed, first = asyncio.run(through(port, batch))
                    theirs.append(speed)
                    firsts += first
                told[f"{clients} clients"] = {
                    "engine, tokens/s": round(statistics.median(mine), 1),
                    "server, tokens/s": round(statistics.median(theirs), 1),
                    "ratio": round(statistics.median(b / a for a, b in zip(mine, theirs, strict=True)), 3),
                    "first token, s, median": round(statistics.median(firsts), 3),
                    "first token, s, most": round(max(firsts), 3),
                }
            alone = [read(asyncio.run(ask(port, each))) for each in wanted]
            told["soak"] = asyncio.run(
                soak(port, wanted, alone, options.streams, 60 * options.minutes, psutil.Process(server.pid))
            )
            told["overfull"] = asyncio.run(overfill(port, wanted, options.rows + waiting + 20))
            told["right after it"] = read(asyncio.run(ask(port, wanted[0]))) == alone[0]
        finally:
            server.terminate()
            told["exit code"] = server.wait(90)
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
