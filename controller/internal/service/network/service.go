// Package network serves VirtualNetworkService: networks, and the default one that each project has.
package network

import (
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/service/unimplemented"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1/networkv1connect"
)

// Config is what the service needs.
type Config struct {
	Cache  *state.Cache
	Runner *request.Runner
	Now    func() time.Time
}

// Service implements networkv1connect.VirtualNetworkServiceHandler.
type Service struct {
	unimplemented.Network
	cfg Config
}

var _ networkv1connect.VirtualNetworkServiceHandler = (*Service)(nil)

// New makes the service.
func New(cfg Config) *Service { return &Service{cfg: cfg} }
