package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// runner is a plugin's process, as go-plugin's client wants to see one. It differs from go-plugin's own in that it executes an opened descriptor, gives
// the child only the environment it is told, ties the child's life to ours, bounds and filters what the child prints, and signals only the child it started.
type runner struct {
	bin  *binary
	dir  string // of this launch: sockets lie here
	env  []string
	tail *tail
	log  *relay

	cmd     *exec.Cmd
	stdin   *os.File // write end, held open: its end tells the plugin that we are gone
	lines   *io.PipeReader
	linesW  *io.PipeWriter
	exited  chan struct{} // closed when the process has been waited for
	drained chan struct{} // closed when its output has been read as well
	waitErr error         // valid after exited

	mu        sync.Mutex
	proc      *os.Process
	doomed    bool   // killed before it was started
	killed    bool   // by us
	handshake string // the line, once seen
	noise     int    // bytes printed before it
}

// maxNoise is how much a plugin may print before its handshake; then it is no plugin.
const maxNoise = 64 << 10

// outputLinger is how long output is read after the process has ended: helpers that it left behind may hold its pipes for ever.
const outputLinger = 500 * time.Millisecond

var handshakeForm = regexp.MustCompile(`^\s*\d+\|\d+\|[a-z]+\|[^|]+\|[a-z]+(\|.*)?$`)

func newRunner(bin *binary, dir string, env []string, t *tail, log *relay) *runner {
	pr, pw := io.Pipe()
	return &runner{bin: bin, dir: dir, env: env, tail: t, log: log, lines: pr, linesW: pw, exited: make(chan struct{}), drained: make(chan struct{})}
}

// Start starts the process. ctx is not used: starting a process does not wait for it.
func (r *runner) Start(context.Context) error {
	if err := r.bin.unchanged(); err != nil {
		r.abandon()
		return err
	}
	in, inW, err1 := os.Pipe()
	out, outW, err2 := os.Pipe()
	errR, errW, err3 := os.Pipe()
	theirs, ours := []*os.File{in, outW, errW}, []*os.File{inW, out, errR}
	if err := errors.Join(err1, err2, err3); err != nil {
		closeAll(append(theirs, ours...))
		r.abandon()
		return fmt.Errorf("making pipes: %w", err)
	}
	r.stdin = inW
	r.cmd = &exec.Cmd{
		// In the child, descriptor 3 is the opened binary. It stays open there, so that scripts work as well.
		Path: "/proc/self/fd/3", Args: []string{r.bin.path}, Env: r.env, Dir: "/",
		ExtraFiles: []*os.File{r.bin.file}, Stdin: in, Stdout: outW, Stderr: errW,
		SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true},
	}
	started := make(chan error, 1)
	go r.spawn(started)
	err := <-started
	closeAll(theirs)
	if err != nil {
		closeAll(ours)
		r.abandon()
		return fmt.Errorf("executing %s: %w", r.bin.path, err)
	}
	go r.pump(out, errR)
	r.begun()
	if err := r.bin.unchanged(); err != nil { // written to between the hash and the exec
		r.signal(syscall.SIGKILL)
		return err
	}
	return nil
}

// spawn starts the process and waits for it, on a thread of its own: the kernel sends the parent-death signal when the thread that forked ends, not the process.
func (r *runner) spawn(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := r.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	r.waitErr = r.cmd.Wait()
	close(r.exited)
}

// abandon ends a runner whose process was never started.
func (r *runner) abandon() {
	_ = r.linesW.Close()
	close(r.exited)
	close(r.drained)
}

// begun makes the process known, and kills it if that was asked for before there was one.
func (r *runner) begun() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.proc = r.cmd.Process
	if r.doomed {
		_ = r.proc.Kill()
	}
}

// pump reads all that the process prints until it has ended.
func (r *runner) pump(out, errR *os.File) {
	var wg sync.WaitGroup
	wg.Go(func() {
		readLines(errR, func(line string) {
			r.tail.add(line)
			r.log.line("stderr", line)
		})
	})
	wg.Go(func() {
		readLines(out, r.stdoutLine)
		_ = r.linesW.Close()
	})
	<-r.exited
	deadline := time.Now().Add(outputLinger)
	_ = out.SetReadDeadline(deadline)
	_ = errR.SetReadDeadline(deadline)
	wg.Wait()
	closeAll([]*os.File{out, errR, r.stdin})
	close(r.drained)
}

// stdoutLine passes the handshake on to go-plugin and all else to the log: a library that prints a banner does not make a plugin unusable.
func (r *runner) stdoutLine(line string) {
	r.mu.Lock()
	first := r.handshake == "" && handshakeForm.MatchString(line)
	tooMuch := false
	if first {
		r.handshake = strings.TrimSpace(line)
	} else if r.handshake == "" {
		r.noise += len(line) + 1
		tooMuch = r.noise > maxNoise
	}
	r.mu.Unlock()
	if first {
		_, _ = io.WriteString(r.linesW, line+"\n")
		return
	}
	r.tail.add("stdout: " + line)
	r.log.line("stdout", line)
	if tooMuch {
		_ = r.linesW.CloseWithError(errors.New("no handshake within the first 64 KiB of output"))
	}
}

// checkHandshake refuses a plugin that does not use mutual TLS.
func (r *runner) checkHandshake() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if parts := strings.Split(r.handshake, "|"); len(parts) < 6 || len(parts[5]) <= 50 {
		return errors.New("the plugin's handshake has no certificate; it must be built with AutoMTLS")
	}
	return nil
}

// signal sends a signal to the process, if it has not ended. The process is held by descriptor (pidfd) and not yet waited for, so its id cannot be another's.
func (r *runner) signal(sig syscall.Signal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.killed = r.killed || sig == syscall.SIGKILL && !r.gone()
	if r.proc != nil {
		_ = r.proc.Signal(sig) // os.ErrProcessDone is fine
	} else if sig == syscall.SIGKILL {
		r.doomed = true
	}
}

// gone reports whether the process has ended.
func (r *runner) gone() bool {
	select {
	case <-r.exited:
		return true
	default:
		return false
	}
}

// wasKilled reports whether the process ended because we killed it.
func (r *runner) wasKilled() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.killed
}

// exit describes how the process ended. Valid after exited.
func (r *runner) exit() string {
	if r.waitErr == nil {
		return "exit status 0"
	}
	return r.waitErr.Error()
}

func (r *runner) pid() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.proc == nil {
		return 0
	}
	return r.proc.Pid
}

// Wait returns when the process has ended and its output has been read.
func (r *runner) Wait(context.Context) error {
	<-r.drained
	return r.waitErr
}

// Kill ends the process at once.
func (r *runner) Kill(context.Context) error {
	r.signal(syscall.SIGKILL)
	return nil
}

// Stdout is the handshake line and nothing else.
func (r *runner) Stdout() io.ReadCloser { return r.lines }

// Stderr is empty for go-plugin: we read it ourselves.
func (r *runner) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

// Name is the path of the binary.
func (r *runner) Name() string { return r.bin.path }

// ID is the process id.
func (r *runner) ID() string {
	if p := r.pid(); p != 0 {
		return strconv.Itoa(p)
	}
	return ""
}

// Diagnose has nothing to add: the last lines are in our own error.
func (r *runner) Diagnose(context.Context) string { return "" }

// PluginToHost accepts only a socket in the launch's own directory.
func (r *runner) PluginToHost(network, addr string) (string, string, error) {
	if network != "unix" || filepath.Dir(filepath.Clean(addr)) != r.dir {
		return "", "", fmt.Errorf("the plugin listens at %s %q, not on a unix socket in %s", network, addr, r.dir)
	}
	return network, addr, nil
}

// HostToPlugin changes nothing: both see the same files.
func (r *runner) HostToPlugin(network, addr string) (string, string, error) {
	return network, addr, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}
