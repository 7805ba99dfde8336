"""Call something in a child process of its own, and see what it raised, opened, ran, and took in time and memory."""

import json
import os
import resource
import select
import sys
import time

DEEDS = ("os.", "subprocess.", "socket.", "exec", "compile", "import", "pickle.find_class", "ctypes.", "shutil.")
HARMLESS = ("os.listdir", "os.scandir")


def watch(call):
    """What the call did, as a dictionary; the hook stays, so this is for a process that ends soon."""
    opened, deeds = [], []

    def hook(event, arguments):
        if event == "open":
            opened.append(str(arguments[0]))
        elif event.startswith(DEEDS) and event not in HARMLESS:
            deeds.append(event)

    before, start, error, message = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter(), [], ""
    sys.addaudithook(hook)
    try:
        call()
    except BaseException as raised:
        error, message = [kind.__name__ for kind in type(raised).__mro__], str(raised)
    seconds = time.perf_counter() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return {"error": error, "message": message, "opened": opened, "deeds": deeds, "seconds": seconds, "bytes": grown}


def in_child(work, seconds):
    """What `work()` returns in a forked child, through JSON; an `AssertionError` if it crashes or takes longer."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            result = json.dumps(work()).encode("utf-8", "surrogatepass")
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(result)
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(70)
    os.close(writer)
    said, end = b"", time.monotonic() + seconds
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], max(0, end - time.monotonic()))[0] and (part := pipe.read(1 << 16)):
            said += part
    is_late = time.monotonic() >= end
    if is_late:
        os.kill(child, 9)
    status = os.waitpid(child, 0)[1]
    assert not is_late, f"no answer after {seconds} s"
    assert status == 0, f"died: signal {status & 127}, exit code {status >> 8}"
    return json.loads(said)
