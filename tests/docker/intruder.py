"""What a curious user tries against another one's run: programs that run in the containers, as that user."""

FILES = '''
import os, pathlib, sys
run = pathlib.Path(sys.argv[1])
tried = [run, run.parent, run / "plan.json", run / "sbatch.sh", run / "control/keeper.secret", run / "progress.json",
         run / "control/coordinator.json", run / "logs/job.out", run / "events", run / "checkpoints", run / "metrics.jsonl"]
for path in tried:
    for attempt in (lambda: os.listdir(path), lambda: path.read_bytes(), lambda: (path / "x").write_text("x")):
        try:
            attempt()
        except OSError:
            continue
        print(path)
for place in ("/tmp", "/dev/shm", "/scratch", "/var/tmp"):
    for path in pathlib.Path(place).glob("**/*"):
        try:
            if "hpctrain" in str(path) and path.owner() == "alice" and path.is_file() and path.read_bytes() is not None:
                print(path)
        except OSError:
            pass
'''
"""Prints every path of the run directory, and of the node's own places, that could be listed, read or written."""

PROCESSES = '''
import contextlib, os, pathlib, pwd, socket, sys
uid = pwd.getpwnam(sys.argv[1]).pw_uid
theirs = [path for path in pathlib.Path("/proc").glob("[0-9]*") if path.stat().st_uid == uid]
opened, arguments = [], []
for path in theirs:
    with contextlib.suppress(OSError):
        arguments.append((path / "cmdline").read_text())
    for name in ("environ", "mem", "maps"):
        with contextlib.suppress(OSError), open(path / name, "rb") as file:
            if name != "mem" and file.read(1):
                opened.append(f"{path}/{name}")
    with contextlib.suppress(OSError):
        for fd in (path / "fd").iterdir():
            with contextlib.suppress(OSError):
                if "memfd" in os.readlink(fd):
                    opened.append(f"{fd}:memfd")
keepers, spoke = 0, []
for line in pathlib.Path("/proc/net/unix").read_text().splitlines():
    name = line.split()[-1]
    if not name.startswith(f"@hpctrain-keeper-{uid}-") or " 00010000 " not in line:
        continue
    keepers += 1
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as keeper:
        keeper.settimeout(10)
        keeper.connect("\\0" + name[1:])
        if keeper.recv(100):
            spoke.append(name)
print("processes=" + str(len(theirs)))
print("opened=" + " ".join(opened))
print("arguments=" + " ".join(arguments).replace("\\0", " ").replace("\\n", " "))
print("keepers=" + str(keepers))
print("spoke=" + " ".join(spoke))
'''
"""Tries /proc and the keeper's socket; prints what could be opened, and whether the keeper said a word."""

COORDINATOR = '''
import json, socket, struct, sys
line = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
line.settimeout(20)
size, = struct.unpack("<I", line.recv(4))
assert "nonce" in json.loads(line.recv(size))
guess = json.dumps({"nonce": "00" * 16, "proof": "00" * 32}).encode()
line.sendall(struct.pack("<I", len(guess)) + guess)
said = b""
while data := line.recv(4096):
    said += data
print("refused" if b"proof" not in said and b"not this job's" in said else said)
'''
"""Calls the coordinator without the job's secret, and prints ``refused`` if it hangs up after saying so."""
