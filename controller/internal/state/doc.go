// Package state is the controller's view of its state in memory: a cache fed by the store's watch, indexed, that every read is answered from; and
// beside it what is never stored: who leads, which nodes were heard of, what happened lately.
//
// The cache keeps a record's encoded bytes and the few fields that are searched by. Decoding gives the caller a message of its own, so nothing that
// is shared can be changed.
package state
