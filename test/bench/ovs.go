package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// prepareOVS starts a switch of the namespace's own. Its ports of type dummy have numbers and flows like others, and no device: 500 taps would measure the kernel.
const prepareOVS = `mkdir -p /run/openvswitch; mount -t tmpfs tmpfs /run/openvswitch; export OVS_RUNDIR=/run/openvswitch OVS_LOGDIR=/run/openvswitch OVS_DBDIR=/run/openvswitch
ovsdb-tool create /run/openvswitch/conf.db /usr/share/openvswitch/vswitch.ovsschema
ovsdb-server /run/openvswitch/conf.db --remote=punix:/run/openvswitch/db.sock --pidfile --detach --log-file; ovs-vsctl --no-wait init
ovs-vswitchd unix:/run/openvswitch/db.sock --pidfile --detach --log-file --enable-dummy; `

// portsAtOnce is how many ports one command of ovs-vsctl makes: each command waits until the switch has done what it says, which takes the switch a third of a second on a busy machine and
// is not the driver's time.
const portsAtOnce = 50

// plug puts a port in an interface's place, as a hypervisor does, many at once.
func (s *switched) plug(ctx context.Context, b *driverv1.OvsPortBinding) error {
	if s.places = append(s.places, b); len(s.places) < portsAtOnce {
		return nil
	}
	return s.plugAll(ctx)
}

func (s *switched) plugAll(ctx context.Context) error {
	if len(s.places) == 0 {
		return nil
	}
	args := []string{"--timeout=60"}
	for _, b := range s.places {
		name := b.GetTapName()
		args = append(args, "--", "add-port", b.GetBridge(), name, "--", "set", "Interface", name, "type=dummy", "external_ids:iface-id="+b.GetInterfaceId())
	}
	s.places = nil
	if out, err := exec.CommandContext(ctx, "ovs-vsctl", args...).CombinedOutput(); err != nil { //nolint:gosec // ours
		return fmt.Errorf("ovs-vsctl: %w: %s", err, out)
	}
	return nil
}

// up waits until so many interfaces are up, that is until their ports have flows; with other drivers ports need no waiting for.
func (s *switched) up(ctx context.Context, n int) error {
	if s.driver != "ovs" {
		return nil
	}
	if err := s.plugAll(ctx); err != nil {
		return err
	}
	for {
		r, err := s.client.ListInterfaces(ctx, &driverv1.ListInterfacesRequest{})
		if err != nil {
			return err
		}
		are := 0
		for _, i := range r.GetInterfaces() {
			if i.GetState() == driverv1.InterfaceState_INTERFACE_STATE_UP {
				are++
			}
		}
		if are >= n {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// flowEvents counts changes of flows in a bridge, as the switch tells them.
type flowEvents struct {
	cmd  *exec.Cmd
	seen atomic.Int64
}

// watchFlows begins to count.
func watchFlows(ctx context.Context, bridge string) (*flowEvents, error) {
	e := &flowEvents{cmd: exec.CommandContext(ctx, "ovs-ofctl", "-O", "OpenFlow14", "monitor", "unix:/run/openvswitch/"+bridge+".mgmt", "watch:!initial")} //nolint:gosec // ours
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := e.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	e.cmd.Stdout = e.cmd.Stderr // the tool writes events to either
	if err := e.cmd.Start(); err != nil {
		return nil, err
	}
	ready := make(chan struct{})
	go func() { // ends with the pipe
		scan, told := bufio.NewScanner(out), false
		scan.Buffer(nil, 1<<22)
		for scan.Scan() {
			if !told {
				told = true
				close(ready)
			}
			if strings.HasPrefix(strings.TrimSpace(scan.Text()), "event=") {
				e.seen.Add(1)
			}
		}
	}()
	select {
	case <-ready:
		return e, nil
	case <-time.After(20 * time.Second):
		e.close()
		return nil, errors.New("ovs-ofctl monitor says nothing")
	}
}

// count is how many changes there were so far, once none was told for a while: the program that is told lags behind.
func (e *flowEvents) count() (int, error) {
	for {
		n := e.seen.Load()
		time.Sleep(300 * time.Millisecond)
		if e.seen.Load() == n {
			return int(n), nil
		}
	}
}

func (e *flowEvents) close() { _ = e.cmd.Process.Kill(); _ = e.cmd.Wait() }
