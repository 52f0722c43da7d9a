package sdk

import (
	"context"
	"errors"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
)

// MaxMessageBytes is the greatest message in either direction, by contract.
const MaxMessageBytes = 16 << 20

// What both sides keep of a stream on its way: enough that an image's parts of 1 MiB do not wait for each other.
const (
	WindowBytes = 1 << 20
	BufferBytes = 256 << 10
)

// ProtocolVersion is go-plugin's own protocol version. It stays 1: the contract grows by capabilities.
const ProtocolVersion = 1

// PluginName is the one entry of go-plugin's plugin set; all services are registered under it.
const PluginName = "limiquantix"

// EnvStdinWatch is set to "1" by a host that holds the plugin's standard input open for as long as it lives, so that its end means the host's end.
const EnvStdinWatch = "LIMIQUANTIX_PLUGIN_STDIN_WATCH"

// Handshake is what host and plugin agree on before anything else. The cookie is no secret: it tells a plugin that a host started it.
func Handshake() plugin.HandshakeConfig {
	return plugin.HandshakeConfig{
		ProtocolVersion:  ProtocolVersion,
		MagicCookieKey:   "LIMIQUANTIX_PLUGIN",
		MagicCookieValue: "b7a6c1f2-driver-v1",
	}
}

// PluginSet is go-plugin's view of a plugin: on the plugin's side register adds the services; the host passes nil and uses the connection itself.
func PluginSet(register func(*grpc.Server)) plugin.PluginSet {
	return plugin.PluginSet{PluginName: &grpcPlugin{register: register}}
}

type grpcPlugin struct {
	plugin.NetRPCUnsupportedPlugin
	register func(*grpc.Server)
}

func (p *grpcPlugin) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	if p.register == nil {
		return errors.New("this side has no services to register")
	}
	p.register(s)
	return nil
}

func (p *grpcPlugin) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, c *grpc.ClientConn) (any, error) {
	return c, nil
}
