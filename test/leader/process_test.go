package leader

import (
	"context"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/test/stack"
)

// proc is a child process that can be started again.
type proc struct {
	name, log string
	env, argv []string
	cmd       *exec.Cmd
	ended     chan struct{}
}

func (p *proc) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(p.argv[0], p.argv[1:]...) //nolint:gosec // ours
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.TempDir()}, p.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // how it ended is in its log
	}()
	p.cmd, p.ended = cmd, ended
}

func (p *proc) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
}

// end signals and waits for the end.
func (p *proc) end(t *testing.T, s syscall.Signal) {
	t.Helper()
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(s) // it may have ended
	select {
	case <-p.ended:
	case <-time.After(time.Minute):
		_ = p.cmd.Process.Kill()
		<-p.ended
		t.Errorf("%s did not end within a minute of signal %v", p.name, s)
	}
	p.cmd = nil
}

// await waits for a condition.
func await(t *testing.T, limit time.Duration, what string, cond func() (bool, string)) {
	t.Helper()
	if err := stack.Until(context.Background(), limit, what, cond); err != nil {
		t.Fatal(err)
	}
}
