"""A program that counts, for jobs of tests: it is killed, stopped and started again, and goes on where it was."""

from __future__ import annotations

COUNT = """
# Counts to the number in its argument, a step every 0.1 s, and keeps its place over restarts, as a training would.
import os, pathlib, signal, sys, time
rank, stop = os.environ["RANK"], []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
place = pathlib.Path(os.environ["HPCTRAIN_RUN_DIR"]) / f"place-{rank}"
step = int(place.read_text()) if place.exists() else 0
print("from", step, flush=True)
while step < int(sys.argv[1]):
    time.sleep(0.1)
    step += 1
    new = place.with_suffix(".new")
    new.write_text(str(step))
    new.replace(place)  # at once: a killed rank must not leave an empty file
    if stop:
        print("stopped at", step, flush=True)
        sys.exit(0)
print("counted to", step, flush=True)
"""
