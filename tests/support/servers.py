"""Model servers on loopback, each a process of its own: `python -m tests.support.servers KIND ...`.

llama_cpp FILE PORT    the real llama.cpp server, which echoes no prompt
echoing FOLDER PORT    a transformers model that answers as vLLM does, log-probabilities of the
                       prompt included
"""

import http.server
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def serving(kind: str, path: str) -> Iterator[str]:
    """The address of a server in a child process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.support.servers", kind, str(path), str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/v1"
    try:
        wait_for(url, child)
        yield url
    finally:
        child.kill()
        child.wait()


def wait_for(url: str, child: subprocess.Popen) -> None:
    """Return when the server answers."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert child.poll() is None, f"the server ended with {child.returncode}"
        try:
            urllib.request.urlopen(f"{url}/models", timeout=5).read()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise TimeoutError(url)


def serve_llama_cpp(path: str, port: int) -> None:
    """llama.cpp's own server."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.port = port
    params.n_ctx = 4096
    params.n_parallel = 2
    params.cpuparams.n_threads = 2
    params.warmup = False
    server = xllamacpp.Server(params)
    assert server.listening_address
    threading.Event().wait()


def serve_echoing(folder: str, port: int) -> None:
    """/v1/completions with echo over a transformers model, greedy."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def listed(logprobs_V, count):
        pairs = zip(*(x.tolist() for x in logprobs_V.topk(count)[::-1]), strict=True)
        return {tokenizer.decode([token]): logprob for token, logprob in pairs}

    @torch.inference_mode()
    def complete(request):
        ids = tokenizer(request["prompt"], add_special_tokens=False)["input_ids"]
        first = len(ids)
        for _ in range(request["max_tokens"]):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        logprobs_TV = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        shown = range(0 if request["echo"] else first, len(ids))
        count = request["logprobs"]
        text, found, _ = tokenizer.decode(ids[first:]).partition(request["stop"][0])
        choice = {
            "index": 0,
            "text": (request["prompt"] if request["echo"] else "") + text,
            "finish_reason": "stop" if found else "length",
            "logprobs": {
                "tokens": [tokenizer.decode([ids[k]]) for k in shown],
                "token_logprobs": [float(logprobs_TV[k - 1, ids[k]]) if k else None for k in shown],
                "top_logprobs": [listed(logprobs_TV[k - 1], count) if k else None for k in shown],
            },
        }
        return {"id": "1", "created": 1, "object": "text_completion", "choices": [choice]}

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, status, content):
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            self.answer(200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})

        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if request["model"] == "tiny":
                defaults = {"echo": False, "logprobs": 1, "stop": ["<none>"]}
                self.answer(200, complete(defaults | request) | {"model": "tiny"})
            else:
                self.answer(404, {"error": {"message": f"no model {request['model']}"}})

    http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    kind, path, port = sys.argv[1:]
    {"llama_cpp": serve_llama_cpp, "echoing": serve_echoing}[kind](path, int(port))
