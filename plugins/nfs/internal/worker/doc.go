// Package worker keeps all that touches a mounted pool in child processes of the plugin, which are killed when they hang. A process that waits for a dead NFS
// server heeds SIGKILL and nothing else, and takes its whole thread with it; so no file operation on a mount is ever done in the plugin's own process.
//
// There are two kinds of child, both the plugin's own binary:
//
//	worker   one per pool; serves StorageDriverService for it on a socket that it inherits, and ends when that socket does
//	probe    one per look at the pool's health; prints what it found and ends
//
// A worker leads a process group, with the tools that it runs; the group dies as one. A lock file on a local disk, inherited by all of it, is free again only when
// the last of them is gone: only then is the next worker started, so that two never work on one pool of one node at once.
package worker

// The first argument of a child.
const (
	workerArg = "worker"
	probeArg  = "probe"
)

// Descriptors that a worker inherits.
const (
	socketFD = 3
	lockFD   = 4
)
