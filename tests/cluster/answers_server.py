"""What stands for ``trl vllm-serve`` in tests: it takes its arguments, says that it is well, and writes down who it is."""

from __future__ import annotations

import argparse
import http.server
import os
import sys
from pathlib import Path


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    for name in ("model", "tensor-parallel-size", "max-model-len", "host", "port"):
        parser.add_argument(f"--{name}", required=True)
    asked = parser.parse_args()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with http.server.HTTPServer((asked.host, int(asked.port)), Handler) as server:
        Path(os.environ["HPCTRAIN_RUN_DIR"], f"server-{os.getpid()}").write_text(" ".join(sys.argv[1:]))
        server.serve_forever()


if __name__ == "__main__":
    main()
