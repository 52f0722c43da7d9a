// Package port serves PortService: places of NICs in networks, with their addresses and security groups.
package port

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

// Service implements networkv1connect.PortServiceHandler.
type Service struct {
	unimplemented.Port
	cfg Config
}

var _ networkv1connect.PortServiceHandler = (*Service)(nil)

// New makes the service.
func New(cfg Config) *Service { return &Service{cfg: cfg} }
