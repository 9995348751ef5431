"""Model servers on loopback, each a process of its own.

llama_cpp, on a GGUF file: llama.cpp's own server, which echoes no prompt.
echoing, on a folder: a transformers model that answers as vLLM does, log-probabilities of the
prompt included.
shifted, likewise, but at each token of the prompt what is expected behind it: so llama-cpp-python
0.3.36 answers.
"""

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def serving(kind: str, path: str) -> Iterator[str]:
    """The address of a server in a child process, which prints it when it listens."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.servers", kind, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        try:
            address = child.stdout.readline().strip()
            assert address, f"the server ended with {child.wait()}"
            yield f"{address}/v1"
        finally:
            child.kill()


def serve_llama_cpp(path: str) -> None:
    """llama.cpp's own server."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.port = 0  # any that is free
    params.n_ctx = 4096
    params.n_parallel = 2
    params.cpuparams.n_threads = 2
    params.warmup = False
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    threading.Event().wait()


def serve_echoing(folder: str, shift: int = 0) -> None:
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
        if request["echo"]:
            logprobs_TV = logprobs_TV.roll(-shift, 0)
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

    class Completions(Handler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if request["model"] == "tiny":
                defaults = {"echo": False, "logprobs": 1, "stop": ["<none>"]}
                self.answer(200, complete(defaults | request) | {"model": "tiny"})
            else:
                self.answer(404, {"error": {"message": f"no model {request['model']}"}})

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Completions)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


class Handler(http.server.BaseHTTPRequestHandler):
    """What a completions server has beside completions."""

    def answer(self, status, content):
        """Send JSON."""
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        """The models; and a page that is no answer of the API."""
        models = {"object": "list", "data": [{"id": "tiny", "object": "model"}]}
        self.answer(200, "a page" if "/page" in self.path else models)


if __name__ == "__main__":
    kinds = {
        "llama_cpp": serve_llama_cpp,
        "echoing": serve_echoing,
        "shifted": lambda folder: serve_echoing(folder, shift=1),
    }
    kinds[sys.argv[1]](sys.argv[2])
