#!/usr/bin/env python3
"""A model that always does the same: one call of a tool that writes report.md, then a last sentence.

Speaks as much of Anthropic Messages (streamed), OpenAI Responses (streamed) and OpenAI Chat Completions (streamed) as the command lines of
agents need. Prints its port, then one line for each request on standard error. Usage: mock.py DIRECTORY [shell]: where
report.md goes, and whether it is written by a command although there is a tool for it.
"""
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WHERE = sys.argv[1]
SHELL_ONLY = "shell" in sys.argv[2:]
REPORT = os.path.join(WHERE, "report.md")
TEXT = "# Report\n"
SHELL = "printf '# Report\\n' > report.md"
LAST = "All done."


def names(tools):
    """The tools that are offered, by name; both shapes of OpenAI, and Anthropic's."""
    found = {}
    for tool in tools or []:
        inner = tool.get("function", tool)
        name = inner.get("name") or tool.get("type")
        found[name] = inner.get("parameters") or inner.get("input_schema") or {}
    return found


def call(tools):
    """What to call with what, of the tools that are there; nothing if there is none to write with."""
    have = names(tools)
    # A tool that goes through a client first.
    through = [name for name in have if name.startswith("mcp__acp__")]
    for name in [*(name for name in through if name.endswith("__Write")), "Write", "write", "write_file"]:
        if name in have and not SHELL_ONLY:
            keys = have[name].get("properties", {})
            path = next((key for key in ("file_path", "filePath", "path") if key in keys), "file_path")
            return name, {path: REPORT, "content": TEXT}
    for name in (*(name for name in through if name.endswith("__Bash")), "exec_command", "shell_command", "shell", "Bash", "bash"):
        if name in have:
            keys = have[name].get("properties", {})
            if "cmd" in keys:
                return name, {"cmd": SHELL, "workdir": WHERE}
            if keys.get("command", {}).get("type") == "array":
                return name, {"command": ["bash", "-lc", SHELL], "workdir": WHERE}
            return name, {"command": SHELL, "description": "Write the report"}
    return None


def is_after(asked):
    """Whether the tool has been called already."""
    text = json.dumps(asked)
    return any(mark in text for mark in ('"tool_result"', '"function_call_output"', '"role": "tool"', '"custom_tool_call_output"'))


class Model(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def give(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, events):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for name, data in events:
            head = f"event: {name}\n" if name else ""
            text = data if isinstance(data, str) else json.dumps(data)
            self.wfile.write(f"{head}data: {text}\n\n".encode())
        self.close_connection = True

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self):
        print("GET", self.path, file=sys.stderr, flush=True)
        self.give({"object": "list", "data": [{"id": "mock", "object": "model", "owned_by": "mock"}]})

    def do_POST(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            asked = json.loads(body)
        except ValueError:
            asked = {}
        path = self.path.split("?")[0]
        wanted = None if is_after(asked) else call(asked.get("tools"))
        print("POST", path, "tools", sorted(names(asked.get("tools")))[:40], "->", wanted, file=sys.stderr, flush=True)
        if path.endswith("/count_tokens"):
            return self.give({"input_tokens": 10})
        if path.endswith("/messages"):
            return self.message(asked, wanted)
        if path.endswith("/responses"):
            return self.respond(asked, wanted)
        if path.endswith("/chat/completions"):
            return self.chat(asked, wanted)
        self.give({}, 404 if "otel" in path else 200)

    def message(self, asked, wanted):
        usage = {"input_tokens": 10, "output_tokens": 5}
        begun = {"id": "msg_mock", "type": "message", "role": "assistant", "model": asked.get("model", "mock"),
                   "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        if wanted:
            block = {"type": "tool_use", "id": "toolu_mock_1", "name": wanted[0], "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(wanted[1])}
        else:
            block = {"type": "text", "text": ""}
            delta = {"type": "text_delta", "text": LAST}
        stop = "tool_use" if wanted else "end_turn"
        if not asked.get("stream"):
            whole = dict(block, input=wanted[1]) if wanted else {"type": "text", "text": LAST}
            return self.give(dict(begun, content=[whole], stop_reason=stop))
        self.stream((event["type"], event) for event in [
            {"type": "message_start", "message": begun},
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_delta", "index": 0, "delta": delta},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": None}, "usage": usage},
            {"type": "message_stop"},
        ])

    def respond(self, asked, wanted):
        if wanted:
            item = {"type": "function_call", "id": "fc_mock", "call_id": "call_mock_1", "name": wanted[0],
                    "arguments": json.dumps(wanted[1]), "status": "completed"}
        else:
            item = {"type": "message", "id": "msg_mock", "role": "assistant", "status": "completed",
                    "content": [{"type": "output_text", "text": LAST, "annotations": []}]}
        usage = {"input_tokens": 10, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 5,
                 "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 15}
        answer = {"id": "resp_mock", "object": "response", "model": asked.get("model", "mock"), "status": "completed",
                  "output": [item], "usage": usage}
        if not asked.get("stream"):
            return self.give(answer)
        begun = dict(answer, status="in_progress", output=[], usage=None)
        self.stream((event["type"], event) for event in [
            {"type": "response.created", "response": begun},
            {"type": "response.output_item.added", "output_index": 0, "item": item},
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {"type": "response.completed", "response": answer},
        ])

    def chat(self, asked, wanted):
        base = {"id": "chat_mock", "object": "chat.completion.chunk", "created": 1, "model": asked.get("model", "mock")}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        if wanted:
            said = {"role": "assistant", "content": None, "tool_calls": [
                {"index": 0, "id": "call_mock_1", "type": "function",
                 "function": {"name": wanted[0], "arguments": json.dumps(wanted[1])}}]}
        else:
            said = {"role": "assistant", "content": LAST}
        stop = "tool_calls" if wanted else "stop"
        if not asked.get("stream"):
            return self.give(dict(base, object="chat.completion", usage=usage,
                                  choices=[{"index": 0, "message": said, "finish_reason": stop}]))
        self.stream((None, event) for event in [
            dict(base, choices=[{"index": 0, "delta": said, "finish_reason": None}]),
            dict(base, choices=[{"index": 0, "delta": {}, "finish_reason": stop}], usage=usage),
            "[DONE]",
        ])


server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
print(server.server_address[1], flush=True)
server.serve_forever()
