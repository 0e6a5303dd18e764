#!/usr/bin/env python3
"""What `gitstead hook claude-code` takes for one changed file among 1,000, the start of its process included: with a server that has the workspace open, and without.

    cargo build --release && benches/hook.py target/release/gitstead
"""

import json, os, statistics, subprocess, sys, tempfile, time

gitstead = os.path.abspath(sys.argv[1])
RUNS = 20


def measure(workspace):
    path = os.path.join(workspace, "d1/f1.txt")

    def one(n):
        with open(path, "w") as file:
            file.write(f"change {n} {time.time()}\n")
        event = {"session_id": "s", "cwd": workspace, "hook_event_name": "PostToolUse", "tool_name": "Edit",
                 "tool_input": {"file_path": path}, "tool_response": {}, "tool_use_id": f"t{n}"}
        began = time.perf_counter()
        done = subprocess.run([gitstead, "hook", "claude-code"], input=json.dumps(event).encode(), capture_output=True)
        took = (time.perf_counter() - began) * 1000
        assert done.returncode == 0 and not done.stderr, done
        return took

    one(-2), one(-1)
    took = [one(n) for n in range(RUNS)]
    return f"median {statistics.median(took):.1f} ms, {min(took):.1f} to {max(took):.1f}"


with tempfile.TemporaryDirectory() as home:
    os.environ["HOME"] = home
    data = os.path.join(home, "data")
    subprocess.run([gitstead, "workspace", "create", "app", "main", "--task", "bench", "--data", data], check=True,
                   stdout=subprocess.DEVNULL)
    workspace = os.path.realpath(os.path.join(data, "work/app/main"))
    for n in range(1000):
        os.makedirs(f"{workspace}/d{n % 20}", exist_ok=True)
        with open(f"{workspace}/d{n % 20}/f{n}.txt", "w") as file:
            file.write(f"file {n}\n")
    os.sync()
    print("without a server:", measure(workspace))
    server = subprocess.Popen([gitstead, "serve", "--data", data, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL)
    server.stdout.readline()
    print("with a server:   ", measure(workspace))
    server.terminate()
    server.wait()
