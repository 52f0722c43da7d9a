package vm

import (
	"context"
	"errors"
	"io"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/service/seam"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const maxTyped = 32 << 10

// GetConsoleLog streams the log that the VM's node keeps.
func (s *Service) GetConsoleLog(ctx context.Context, req *connect.Request[computev1.GetConsoleLogRequest], stream *connect.ServerStream[computev1.GetConsoleLogResponse]) error {
	m := req.Msg
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	vmID, nodeID, err := s.console(m.GetId(), m.GetProjectId())
	if err != nil {
		return err
	}
	tunnel, err := s.tunnel(ctx, nodeID, &agentv1.OpenTunnel{Purpose: &agentv1.OpenTunnel_ConsoleLog{
		ConsoleLog: &agentv1.ConsoleLogTunnel{VmId: vmID, Offset: m.GetOffset(), Follow: m.GetFollow()},
	}})
	if err != nil {
		return err
	}
	defer tunnel.Close()
	for {
		part, err := tunnel.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return request.Fault(err)
		}
		if err := stream.Send(&computev1.GetConsoleLogResponse{Offset: part.Offset, Data: part.Data}); err != nil {
			return err
		}
	}
}

// OpenConsole carries bytes between a client and the serial console.
func (s *Service) OpenConsole(ctx context.Context, stream *connect.BidiStream[computev1.OpenConsoleRequest, computev1.OpenConsoleResponse]) error {
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	target := first.GetOpen()
	if target == nil {
		var v domain.Violations
		v.Add("open", "must be the first message, and name a VM")
		return v.Err()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	vmID, nodeID, err := s.console(target.GetId(), target.GetProjectId())
	if err != nil {
		return err
	}
	tunnel, err := s.tunnel(ctx, nodeID, &agentv1.OpenTunnel{Purpose: &agentv1.OpenTunnel_Console{Console: &agentv1.ConsoleTunnel{VmId: vmID}}})
	if err != nil {
		return err
	}
	defer tunnel.Close()
	if err := stream.Send(&computev1.OpenConsoleResponse{}); err != nil {
		return err
	}
	typed, printed := make(chan error, 1), make(chan error, 1)
	go func() { typed <- s.typeIn(stream, tunnel) }() // ends with the stream: the handler's return breaks Receive
	go func() { printed <- s.printOut(stream, tunnel) }()
	select {
	case err := <-printed:
		return err
	case err := <-typed:
		if err != nil { // nothing may be sent once this handler has returned: that would end the process
			cancel()
			tunnel.Close()
			<-printed
			return err
		}
		return <-printed // the client has said all; the console goes on printing
	}
}

// typeIn passes on what the client types; nil once it has said all.
func (s *Service) typeIn(stream *connect.BidiStream[computev1.OpenConsoleRequest, computev1.OpenConsoleResponse], tunnel seam.Tunnel) error {
	for {
		msg, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return tunnel.CloseSend()
		}
		if err != nil {
			return err
		}
		if msg.GetOpen() != nil || len(msg.GetData()) > maxTyped {
			var v domain.Violations
			v.Add("data", "must follow the first message, at most %d bytes at a time", maxTyped)
			return v.Err()
		}
		if err := tunnel.Send(msg.GetData()); err != nil {
			return request.Fault(err)
		}
	}
}

func (s *Service) printOut(stream *connect.BidiStream[computev1.OpenConsoleRequest, computev1.OpenConsoleResponse], tunnel seam.Tunnel) error {
	for {
		part, err := tunnel.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return request.Fault(err)
		}
		if err := stream.Send(&computev1.OpenConsoleResponse{Data: part.Data}); err != nil {
			return err
		}
	}
}

// console is the VM and node behind a console, if it can have one.
func (s *Service) console(id, project string) (vmID, nodeID string, err error) {
	row, err := s.find(id, project)
	if err != nil {
		return "", "", err
	}
	rec := row.VM()
	p := rec.GetVm().GetStatus().GetVmPlacement()
	switch {
	case !rec.GetVm().GetSpec().GetSerialConsole():
		return "", "", wrongState(rec, "it has no serial console", "set spec.serial_console and restart it")
	case p == nil:
		return "", "", fault.New(metav1.Reason_REASON_WRONG_STATE, "VM %s is not placed yet, so it has no console", row.Name).
			WithRemedy("wait until it runs; explain says what it waits for")
	}
	return row.ID, p.GetNodeId(), nil
}

func (s *Service) tunnel(ctx context.Context, nodeID string, open *agentv1.OpenTunnel) (seam.Tunnel, error) {
	t := s.cfg.Tunnels()
	if t == nil {
		return nil, fault.New(metav1.Reason_REASON_NODE_UNREACHABLE, "this controller has no tunnels to nodes")
	}
	tunnel, err := t.Open(ctx, nodeID, open)
	return tunnel, request.Fault(err)
}
