package worker

import (
	"bytes"
	"context"
	"os/exec"
	"syscall"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Probe looks at pools' health in a child process each time.
type Probe struct{ hung chan struct{} }

// Look looks at a pool, and gives up with ctx. A child that cannot even be killed is left behind, and no other one is started before it is gone.
func (p *Probe) Look(ctx context.Context, id, path string) (*driverv1.Pool, error) {
	if p.hung != nil {
		select {
		case <-p.hung:
			p.hung = nil
		case <-ctx.Done():
			return nil, late(ctx, path)
		}
	}
	cmd := exec.Command(self, probeArg, id, path)
	cmd.Env = []string{"LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "look at %s: %w", path, err)
	}
	done := make(chan struct{})
	var failed error
	go func() { // ends with the child; p.hung tells of one that does not
		failed = cmd.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		_ = cmd.Process.Kill()
		grace := time.NewTimer(time.Second)
		defer grace.Stop()
		select {
		case <-done:
		case <-grace.C:
			p.hung = done
		}
		return nil, late(ctx, path)
	}
	if failed != nil {
		return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "look at %s: %w", path, failed)
	}
	pool := &driverv1.Pool{}
	if err := protojson.Unmarshal(out.Bytes(), pool); err != nil {
		return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "look at %s: %w", path, err)
	}
	return pool, nil
}

func late(ctx context.Context, path string) error {
	return fault.New(metav1.Reason_REASON_BACKEND_TIMEOUT, "the server of %s does not answer: %w", path, ctx.Err()).WithRemedy("look at the server and at the network to it")
}
