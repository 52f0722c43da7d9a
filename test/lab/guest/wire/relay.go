package wire

import (
	"errors"
	"fmt"
	"net"
)

// RelayFile lies beside a relay and holds a Relay.
const RelayFile = "relay.json"

// Relay says what a relay stands for.
type Relay struct {
	Agent string `json:"agent"` // socket on the host that leads to the guest's agent
	Path  string `json:"path"`  // of the plugin in the guest
}

// BridgeFile lies beside a bridge and holds a Bridge.
const BridgeFile = "bridge.json"

// Bridge says what a bridge stands for.
type Bridge struct {
	Name    string `json:"name"` // of the plugin
	Version string `json:"version"`
	Plugin  string `json:"plugin"` // plugin directory of a relay
	Mirror  string `json:"mirror"` // where the guest's /dev is seen on the host
}

// DialThrough connects to a socket in the guest by way of the agent's socket on the host.
func DialThrough(agent, network, address string) (net.Conn, error) {
	c, err := net.Dial("unix", agent)
	if err != nil {
		return nil, fmt.Errorf("the guest is gone: %w", err)
	}
	return Connect(c, network, address)
}

// Connect makes a new stream a connection to a socket in the guest.
func Connect(c net.Conn, network, address string) (net.Conn, error) {
	err := WriteJSON(c, Request{Network: network, Address: address})
	var r Reply
	if err == nil {
		err = ReadJSON(c, &r)
	}
	if err == nil && r.Error != "" {
		err = errors.New(r.Error)
	}
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("dial %s in the guest: %w", address, err)
	}
	return c, nil
}
