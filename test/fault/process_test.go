package fault

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a child that is started again when it ends, as systemd would, until it is told to rest.
type process struct {
	name, log string
	argv      []string

	mu      sync.Mutex
	cmd     *exec.Cmd
	resting bool
	starts  int
	over    sync.WaitGroup
}

// restartAfter is how long an ended process is away.
const restartAfter = 100 * time.Millisecond

func (p *process) start() error {
	p.mu.Lock()
	p.resting = false
	p.mu.Unlock()
	if err := p.launch(); err != nil {
		return err
	}
	p.over.Go(func() {
		for {
			_ = p.current().Wait() // how it ended is in its log
			time.Sleep(restartAfter)
			p.mu.Lock()
			rest := p.resting
			p.mu.Unlock()
			if rest {
				return
			}
			if p.launch() != nil {
				return
			}
		}
	})
	return nil
}

func (p *process) launch() error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(p.argv[0], p.argv[1:]...) //nolint:gosec // ours
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Dir(p.log)}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	p.cmd = cmd
	p.starts++
	return nil
}

func (p *process) current() *exec.Cmd {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd
}

func (p *process) pid() int { return p.current().Process.Pid }

func (p *process) signal(s syscall.Signal) error {
	if err := p.current().Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return nil
}

// rest ends the process for good.
func (p *process) rest() {
	p.mu.Lock()
	p.resting = true
	cmd := p.cmd
	p.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Signal(syscall.SIGCONT)
	_ = cmd.Process.Signal(syscall.SIGTERM)
	late := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	p.over.Wait()
}

// plugin is the i-th process of an agent's plugins, or another of them; 0 when none runs. Any thread may have made it.
func (p *process) plugin(i int) int {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.pid()))
	if err != nil {
		return 0
	}
	var pids []int
	for _, t := range tasks {
		b, _ := os.ReadFile(t) //nolint:gosec // of the kernel
		for _, c := range strings.Fields(string(b)) {
			var pid int
			if _, err := fmt.Sscan(c, &pid); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	if len(pids) == 0 {
		return 0
	}
	return pids[i%len(pids)]
}
