#!/usr/bin/python3
"""Runs cloud-init's boot stages, each in a fork of this one process.

Loading cloud-init takes seconds without KVM, and stock Debian loads it four
times in a boot. The units of the stages stay and keep their order; each only
names its stage to this server (lab-stage) and waits for its result.
"""
import os
import socket
import sys

from cloudinit.cmd.main import main

STAGES = {
    "init-local": ["init", "--local"],
    "init": ["init"],
    "config": ["modules", "--mode=config"],
    "final": ["modules", "--mode=final"],
}


def notify(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.connect(os.environ["NOTIFY_SOCKET"])
        s.send(text)


def run(stage):
    pid = os.fork()
    if pid == 0:
        sys.argv = ["/usr/bin/cloud-init"] + STAGES[stage]
        code = 1
        try:
            code = main() or 0
        except SystemExit as e:
            code = e.code or 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def serve():
    folder = "/run/cloud-init-stages"
    os.makedirs(folder, 0o700, exist_ok=True)
    for name in ("ask", "answer"):
        os.mkfifo(folder + "/" + name)
    notify(b"READY=1")
    stage = ""
    while stage != "final":
        with open(folder + "/ask") as f:
            stage = f.readline().strip()
        code = run(stage)
        with open(folder + "/answer", "w") as f:
            f.write("%d\n" % code)


serve()
