package failpoint_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a daemon that is started again whenever it ends, as an init system does.
type process struct {
	log  string
	env  []string
	argv []string

	mu     sync.Mutex
	cmd    *exec.Cmd
	wanted bool
	ended  chan struct{} // closed when it is over for good
}

// pauseBetween is how long the init system waits before it starts what ended again.
const pauseBetween = 100 * time.Millisecond

func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wanted {
		return nil
	}
	p.wanted, p.ended = true, make(chan struct{})
	if err := p.spawn(); err != nil {
		p.wanted = false
		return err
	}
	go p.keep(p.ended)
	return nil
}

// spawn starts the process; the caller holds mu.
func (p *process) spawn() error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	p.cmd = exec.Command(p.argv[0], p.argv[1:]...)
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Env = log, log, p.env
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return p.cmd.Start()
}

// keep starts the process again until it is not wanted any more.
func (p *process) keep(ended chan struct{}) {
	defer close(ended)
	for {
		p.mu.Lock()
		cmd := p.cmd
		p.mu.Unlock()
		_ = cmd.Wait()
		time.Sleep(pauseBetween)
		p.mu.Lock()
		if !p.wanted {
			p.mu.Unlock()
			return
		}
		err := p.spawn()
		p.mu.Unlock()
		if err != nil {
			panic(err) // the binary is there, so the machine is at its end
		}
	}
}

func (p *process) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil && p.cmd.Process != nil {
		_ = p.cmd.Process.Signal(s)
	}
}

// stop ends it for good.
func (p *process) stop(s syscall.Signal) error {
	p.mu.Lock()
	ended := p.ended
	if !p.wanted {
		p.mu.Unlock()
		return nil
	}
	p.wanted = false
	_ = p.cmd.Process.Signal(s)
	p.mu.Unlock()
	select {
	case <-ended:
		return nil
	case <-time.After(40 * time.Second):
		p.signal(syscall.SIGKILL)
		<-ended
		return fmt.Errorf("%s did not end within 40 s of %v", p.argv[0], s)
	}
}

// isParent reports whether a process is a child of this one as it runs now.
func (p *process) isParent(pid int64) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	p.mu.Lock()
	defer p.mu.Unlock()
	return err == nil && p.cmd != nil && p.cmd.Process != nil && strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", p.cmd.Process.Pid))
}
