// Package leader tests several controllers on one external etcd: built binaries as processes over sockets, agents with the reference driver, and an etcd
// that notes what every transaction was conditional on.
package leader
