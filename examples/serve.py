# file: serve.py
"""Serve an artifact of relprop over HTTP. Needs torch, but neither relprop nor the model's code.

python serve.py model.pt2 --port 8000
curl --data '{"x": [[0.1, 0.2, 0.3]]}' http://localhost:8000
"""

import argparse
import json
from http.server import BaseHTTPRequestHandler, HTTPServer

import torch


class Program:
    """An artifact: inputs by name as nested lists in, the same out."""

    def __init__(self, path):
        files = {"relprop.json": ""}
        self.run = torch.export.load(path, extra_files=files).module()
        self.notes = json.loads(files["relprop.json"])
        self.dtypes = {spec["name"]: getattr(torch, spec["dtype"]) for spec in self.notes["inputs"]}
        if self.notes["takes_target"]:
            self.dtypes["target"] = torch.long

    def __call__(self, inputs):
        if inputs.keys() != self.dtypes.keys():
            raise ValueError(f"the inputs are {list(self.dtypes)}, not {list(inputs)}")
        tensors = {name: torch.tensor(inputs[name], dtype=dtype) for name, dtype in self.dtypes.items()}
        args = [tensors.pop(name) for name in self.notes["positional"]]
        with torch.no_grad():
            return to_lists(self.run(*args, **tensors))


def to_lists(value):
    if isinstance(value, dict):
        return {key: to_lists(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_lists(part) for part in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            status, answer = 200, self.server.program(json.loads(body))
        except Exception as error:  # sizes that the program does not serve, JSON that is none
            status, answer = 400, {"error": f"{type(error).__name__}: {error}"}
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())


def main():
    parser = argparse.ArgumentParser(description="Serve an artifact of relprop over HTTP.")
    parser.add_argument("artifact", help="a .pt2 file that relprop exported")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any that is free")
    options = parser.parse_args()
    server = HTTPServer(("localhost", options.port), Handler)
    server.program = Program(options.artifact)
    print(f"listening on http://localhost:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
