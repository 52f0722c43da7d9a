package state

import (
	"net/url"
	"strconv"
	"strings"
)

// Kind is a kind of record; its text is the first part of its keys.
type Kind string

// The kinds that the cache holds.
const (
	KindVM            Kind = "vm"
	KindNode          Kind = "node"
	KindVolume        Kind = "volume"
	KindSnapshot      Kind = "snapshot"
	KindPool          Kind = "pool"
	KindImage         Kind = "image"
	KindNetwork       Kind = "network"
	KindPort          Kind = "port"
	KindSecurityGroup Kind = "securitygroup"
	KindOperation     Kind = "operation"
	KindJoinToken     Kind = "jointoken"
)

// The prefixes of keys that the cache does not hold.
const (
	RequestPrefix = "req/"
	SecretPrefix  = "secret/"
	// ClusterKey holds the cluster's identity.
	ClusterKey = "cluster"

	namePrefix    = "name/"
	addressPrefix = "ip/"
	macPrefix     = "mac/"
	vniPrefix     = "vni/"
	rangesPrefix  = "ranges/"
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

// AddressKey exists exactly while a port holds an address of a network; its value is the port's id. The address is in canonical form, without prefix length.
func AddressKey(networkID, address string) string { return addressPrefix + networkID + "/" + address }

// MACKey exists exactly while a port of a network has a MAC address; its value is the port's id.
func MACKey(networkID, mac string) string { return macPrefix + networkID + "/" + mac }

// VNIKey exists exactly while a network has a VXLAN network identifier; its value is the network's id.
func VNIKey(vni uint32) string { return vniPrefix + strconv.FormatUint(uint64(vni), 10) }

// RangesKey is written by whatever changes which address ranges a project's networks have: two that would overlap cannot both be first. No project stands for the cluster's default networks.
func RangesKey(project string) string { return rangesPrefix + project }

// isClaim reports whether a key exists exactly while something is taken.
func isClaim(key string) bool {
	return strings.HasPrefix(key, namePrefix) || strings.HasPrefix(key, addressPrefix) || strings.HasPrefix(key, macPrefix) || strings.HasPrefix(key, vniPrefix)
}

// splitKey is the kind and id of a record's key; ok is false for keys that hold no record.
func splitKey(key string) (kind Kind, id string, ok bool) {
	head, id, found := strings.Cut(key, "/")
	if !found || id == "" {
		return "", "", false
	}
	switch k := Kind(head); k {
	case KindVM, KindNode, KindVolume, KindSnapshot, KindPool, KindImage, KindNetwork, KindPort, KindSecurityGroup, KindOperation, KindJoinToken:
		return k, id, true
	}
	return "", "", false
}
