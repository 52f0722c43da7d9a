package state

import (
	"net/url"
	"strings"
)

// Kind is a kind of record; its text is the first part of its keys.
type Kind string

// The kinds that the cache holds.
const (
	KindVM        Kind = "vm"
	KindNode      Kind = "node"
	KindVolume    Kind = "volume"
	KindSnapshot  Kind = "snapshot"
	KindPool      Kind = "pool"
	KindImage     Kind = "image"
	KindOperation Kind = "operation"
	KindJoinToken Kind = "jointoken"
)

// The prefixes of keys that the cache does not hold.
const (
	RequestPrefix = "req/"
	SecretPrefix  = "secret/"
	// ClusterKey holds the cluster's identity.
	ClusterKey = "cluster"

	namePrefix = "name/"
)

// Key is where a record lies.
func Key(kind Kind, id string) string { return string(kind) + "/" + id }

// NameKey exists exactly while a name is taken; its value is the id of the object. Kinds without projects use an empty project.
func NameKey(project string, kind Kind, name string) string {
	return namePrefix + project + "/" + string(kind) + "/" + name
}

// RequestKey remembers a request id of a principal.
func RequestKey(principal, requestID string) string {
	return RequestPrefix + url.PathEscape(principal) + "/" + url.PathEscape(requestID)
}

// SecretKey is where a sealed field of an object lies.
func SecretKey(objectID, field string) string { return SecretPrefix + objectID + "/" + field }

// splitKey is the kind and id of a record's key; ok is false for keys that hold no record.
func splitKey(key string) (kind Kind, id string, ok bool) {
	head, id, found := strings.Cut(key, "/")
	if !found || id == "" {
		return "", "", false
	}
	switch k := Kind(head); k {
	case KindVM, KindNode, KindVolume, KindSnapshot, KindPool, KindImage, KindOperation, KindJoinToken:
		return k, id, true
	}
	return "", "", false
}
