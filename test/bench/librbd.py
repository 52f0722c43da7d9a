# Calls librbd as barely as can be: reads "VERB NUMBER" from standard input and prints how many seconds the call took.
import sys
import time

import rados
import rbd

SIZE = 64 << 20
cluster = rados.Rados(conffile=sys.argv[1])
cluster.connect()
io = cluster.open_ioctx(sys.argv[2])
images = rbd.RBD()


def snapshot(n):
    with rbd.Image(io, "v" + n) as image:
        image.create_snap("s")
        image.protect_snap("s")


def forget(n):
    with rbd.Image(io, "v" + n) as image:
        image.unprotect_snap("s")
        image.remove_snap("s")
    images.remove(io, "v" + n)


verbs = {
    "create": lambda n: images.create(io, "v" + n, SIZE, old_format=False),
    "snapshot": snapshot,
    "clone": lambda n: images.clone(io, "v" + n, "s", io, "c" + n),
    "delete": lambda n: images.remove(io, "c" + n),
    "forget": forget,
}
for line in sys.stdin:
    verb, number = line.split()
    began = time.monotonic()
    verbs[verb](number)
    print(time.monotonic() - began, flush=True)
