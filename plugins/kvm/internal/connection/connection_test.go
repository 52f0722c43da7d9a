package connection

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"go.uber.org/goleak"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

func nothing(*libvirt.Libvirt) (struct{}, error) { return struct{}{}, nil }

// Without a libvirtd calls fail at once, and Down says why; the connection ends when it is told to.
func TestNobodyListens(t *testing.T) {
	defer goleak.VerifyNone(t)
	down := make(chan error, 100)
	c := New(filepath.Join(t.TempDir(), "none"), "qemu:///system", Hooks{Down: func(err error) { down <- err }})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); c.Run(ctx) }()
	for name, call := range map[string]func(context.Context, *Connection, string, func(*libvirt.Libvirt) (struct{}, error)) (struct{}, error){"shared": Do[struct{}], "alone": Alone[struct{}]} {
		if _, err := call(t.Context(), c, "look", nothing); !fault.Is(err, metav1.Reason_REASON_BACKEND_UNAVAILABLE) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := <-down; err == nil {
		t.Error("down without a reason")
	}
	cancel()
	<-ended
}

// A libvirtd that takes connections and says nothing holds no call beyond its deadline, and leaves nothing behind.
func TestSilentLibvirtd(t *testing.T) {
	defer goleak.VerifyNone(t)
	socket := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c := New(socket, "qemu:///system", Hooks{Down: func(error) {}})
	run, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); c.Run(run) }()
	for name, call := range map[string]func(context.Context, *Connection, string, func(*libvirt.Libvirt) (struct{}, error)) (struct{}, error){"shared": Do[struct{}], "alone": Alone[struct{}]} {
		ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
		begin := time.Now()
		_, err := call(ctx, c, "look", nothing)
		stop()
		if took := time.Since(begin); took > 5*time.Second || !fault.Is(err, metav1.Reason_REASON_BACKEND_TIMEOUT) && !fault.Is(err, metav1.Reason_REASON_BACKEND_UNAVAILABLE) {
			t.Errorf("%s: %v after %s", name, err, took)
		}
	}
	cancel()
	<-ended
}

// libvirt's numbers become reasons, and stay within reach.
func TestClassify(t *testing.T) {
	t.Parallel()
	for number, reason := range map[libvirt.ErrorNumber]metav1.Reason{
		libvirt.ErrNoDomain: metav1.Reason_REASON_DOMAIN_NOT_FOUND, libvirt.ErrOperationInvalid: metav1.Reason_REASON_WRONG_STATE,
		libvirt.ErrInternalError: metav1.Reason_REASON_BACKEND_FAILED, libvirt.ErrConfigUnsupported: metav1.Reason_REASON_INVALID_FIELD,
	} {
		err := classify("x", libvirt.Error{Code: uint32(number), Message: "m"})
		if !fault.Is(err, reason) || !IsCode(err, number) {
			t.Errorf("%d: %v", number, err)
		}
	}
	mine := fault.New(metav1.Reason_REASON_NOT_OURS, "x")
	if classify("x", nil) != nil || classify("x", mine) != error(mine) || !fault.Is(classify("x", libvirt.ErrInterrupted), metav1.Reason_REASON_BACKEND_UNAVAILABLE) {
		t.Error("others are not kept")
	}
}
