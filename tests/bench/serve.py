"""Serving under load: many clients at once against `toolformer serve` in a process of its own.

Each client asks for one text after another, every second time as a stream. What each text is
answered with when it is asked for alone is found out first; an answer under load must be the same,
with the same results of tools. Errors and differing answers must be 0, and memory flat.
"""

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openai
from rich.console import Console
from rich.table import Table

from tests.support.tuned_folder import ServerProcess, toolformer_serve, tuned_folder

Figures = dict[str, Any]

PROMPTS = tuple(f"{a} + {b} is" for a, b in ((3, 4), (5, 6), (8, 9), (2, 7), (6, 1), (9, 5)))
SETTLED_SECONDS = 10
"""By then every client has been answered, and memory is what it will stay."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--model", type=Path, help="model folder; none: a tiny one that calls")
    parser.add_argument("--prompt", action="append", help="repeatable; none: six sums")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--tokens", type=int, default=24)


def main(arguments: argparse.Namespace) -> Figures:
    """Print the table; the figures."""
    with tempfile.TemporaryDirectory() as scratch:
        model = arguments.model or tiny_folder(Path(scratch))
        with toolformer_serve("--model", model) as server:
            assert server.address, f"no server: {server.said}"
            prompts = tuple(arguments.prompt or PROMPTS)
            load = Load(server.address, model.absolute().name, prompts, arguments.tokens)
            figures = load.run(server, arguments.clients, arguments.seconds)
    table = Table(title=f"{arguments.clients} clients", title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    Console().print(table)
    return figures


def tiny_folder(scratch: Path) -> Path:
    """A tiny model that knows six sums by heart and calls the calculator for them."""
    from tests.support import tiny_model

    model = tiny_model.train_on(tiny_model.tiny_llama(), tiny_model.decoding_texts(), 150)
    return tuned_folder(tiny_model.save(model, scratch / "plain"), scratch / "sums")


class Load:
    """Clients that ask and compare."""

    def __init__(self, address: str, model: str, prompts: Sequence[str], tokens: int) -> None:
        self.address, self.model, self.prompts, self.tokens = address, model, prompts, tokens
        self.latencies: list[float] = []
        self.errors: list[str] = []
        self.num_different = self.num_calls = 0
        self.lock = threading.Lock()
        with self.client() as client:
            self.alone = {prompt: self.ask(client, prompt, stream=False) for prompt in prompts}

    def client(self) -> openai.OpenAI:
        """A client that tries once."""
        return openai.OpenAI(base_url=self.address, api_key="none", max_retries=0)

    def ask(self, client: openai.OpenAI, prompt: str, *, stream: bool) -> tuple[str, str]:
        """The answer, and its calls without their latency."""
        asked = {"model": self.model, "prompt": prompt, "max_tokens": self.tokens}
        answer = client.completions.create(**asked, temperature=0, stream=stream)
        choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
        calls = [call for choice in choices for call in choice.calls if call["outcome"]]
        for call in calls:
            del call["latency_seconds"]
        return "".join(choice.text for choice in choices), json.dumps(calls)

    def work(self, number: int, until: float) -> None:
        """Ask one text after another."""
        with self.client() as client:
            count = number
            while time.monotonic() < until:
                prompt, started = self.prompts[count % len(self.prompts)], time.perf_counter()
                try:
                    found = self.ask(client, prompt, stream=count % 2 == 0)
                except openai.OpenAIError as error:
                    with self.lock:
                        self.errors.append(repr(error))
                    continue
                count += 1
                with self.lock:
                    self.latencies.append(time.perf_counter() - started)
                    self.num_different += found != self.alone[prompt]
                    self.num_calls += len(json.loads(found[1]))

    def run(self, server: ServerProcess, num_clients: int, seconds: float) -> Figures:
        """Load for a while, and what came of it."""
        started = time.monotonic()
        until = started + seconds
        workers = [threading.Thread(target=self.work, args=[k, until]) for k in range(num_clients)]
        for worker in workers:
            worker.start()
        time.sleep(min(SETTLED_SECONDS, seconds / 2))
        settled = resident_mb(server.process.pid)
        for worker in workers:
            worker.join()
        took = time.monotonic() - started
        ordered = sorted(self.latencies)
        return {
            "requests": len(ordered),
            "errors": len(self.errors),
            "first error": self.errors[0] if self.errors else "",
            "different from alone": self.num_different,
            "calls": self.num_calls,
            "requests per second": len(ordered) / took,
            "latency, median, s": statistics.median(ordered),
            "latency, 95%, s": ordered[int(0.95 * len(ordered))],
            "memory when settled, MB": settled,
            "memory at the end, MB": resident_mb(server.process.pid),
        }


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024
