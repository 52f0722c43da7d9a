package host

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

func TestStoppedProcessHangsNobody(t *testing.T) {
	t.Parallel()
	p := launch(t, install(t, "serve"))
	if err := syscall.Kill(p.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	awaitStopped(t, p.PID())
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := p.Check(ctx); !fault.Is(err, metav1.Reason_REASON_BACKEND_TIMEOUT) {
		t.Errorf("check of a stopped process: %v", err)
	}
	began := time.Now()
	if err := p.Stop(t.Context(), 200*time.Millisecond); err != nil {
		t.Error(err)
	}
	if d := time.Since(began); d > 200*time.Millisecond+termGrace+2*time.Second {
		t.Errorf("stopping took %s", d)
	}
	if alive(p.PID()) {
		t.Error("it lives")
	}
}

// awaitStopped waits until every thread of a process has taken SIGSTOP: kill returns before that.
func awaitStopped(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		tasks, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/stat")
		if err != nil || len(tasks) == 0 {
			t.Fatalf("process %d: no tasks, %v", pid, err)
		}
		stopped := true
		for _, f := range tasks {
			b, err := os.ReadFile(f)
			stopped = stopped && (err != nil || bytes.Contains(b, []byte(") T ")))
		}
		if stopped {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d does not stop", pid)
		}
	}
}

func TestKilledInTheMiddleOfACall(t *testing.T) {
	t.Parallel()
	p := launch(t, install(t, "serve"))
	c := driverv1.NewComputeDriverServiceClient(p.Conn())
	events, err := driverv1.NewPluginServiceClient(p.Conn()).WatchEvents(t.Context(), &driverv1.WatchEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	errs, flag := make(chan error, 1), filepath.Join(t.TempDir(), "begun")
	go func() {
		_, err := do(t.Context(), c, "block:"+flag)
		errs <- err
	}()
	eventually(t, 5*time.Second, "the call is under way", func() bool {
		_, err := os.Stat(flag)
		return err == nil
	})
	if err := syscall.Kill(p.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-errs; !fault.Is(err, metav1.Reason_REASON_PLUGIN_UNAVAILABLE) {
		t.Errorf("the call: %v", err)
	}
	for err == nil {
		_, err = events.Recv()
	}
	if !fault.Is(err, metav1.Reason_REASON_PLUGIN_UNAVAILABLE) {
		t.Errorf("the stream: %v", err)
	}
	<-p.Done()
	if err := p.Err(); err == nil || !strings.Contains(err.Error(), "signal: killed") {
		t.Errorf("how it ended: %v", err)
	}
}

func TestCrashReportHoldsThePanic(t *testing.T) {
	t.Parallel()
	p := launch(t, install(t, "serve"))
	_, err := do(t.Context(), driverv1.NewComputeDriverServiceClient(p.Conn()), "gopanic")
	if err == nil {
		t.Fatal("it survived")
	}
	<-p.Done()
	if err := p.Err(); err == nil || !strings.Contains(err.Error(), "panic: a goroutine is broken") {
		t.Errorf("report: %v", err)
	}
}

// logged collects log records.
type logged struct {
	slog.Handler
	mu    sync.Mutex
	lines []string
}

func (l *logged) Enabled(context.Context, slog.Level) bool { return true }
func (l *logged) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logged) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprint(r.Level, " ", r.Message))
	return nil
}

func (l *logged) has(part string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(strings.Join(l.lines, "\n"), part)
}

func TestNoiseOnStdout(t *testing.T) {
	t.Parallel()
	spec, log := install(t, "noisy"), &logged{}
	spec.Logger = slog.New(log)
	c := driverv1.NewComputeDriverServiceClient(launch(t, spec).Conn())
	for _, what := range []string{"print", "log:a warning"} {
		if _, err := do(t.Context(), c, what); err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range []string{"INFO a library says hello", "INFO noise on the descriptor", "INFO printed on standard output", "WARN a warning"} {
		eventually(t, 5*time.Second, "logged: "+line, func() bool { return log.has(line) })
	}
}

func TestHangInHandshake(t *testing.T) {
	t.Parallel()
	spec := install(t, "hang")
	spec.StartTimeout = 500 * time.Millisecond
	began := time.Now()
	_, err := Launch(t.Context(), spec)
	if !fault.Is(err, metav1.Reason_REASON_PLUGIN_UNAVAILABLE) || !strings.Contains(err.Error(), "within 500ms") || !strings.Contains(err.Error(), "about to hang") {
		t.Errorf("got %v", err)
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("it took %s", d)
	}
	assertEmpty(t, spec.RuntimeDir)
}

func TestLaunchIsCancelled(t *testing.T) {
	t.Parallel()
	spec := install(t, "hang")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := Launch(ctx, spec); !fault.Is(err, metav1.Reason_REASON_PLUGIN_UNAVAILABLE) {
		t.Errorf("got %v", err)
	}
	assertEmpty(t, spec.RuntimeDir)
}

func TestEnvironmentDoesNotLeak(t *testing.T) {
	t.Setenv("AWS_SECRET_ACCESS_KEY", "leak-me")
	t.Setenv("NOTIFY_SOCKET", "/run/leak")
	spec := install(t, "serve")
	spec.Secrets = map[string][]byte{"token": []byte("s3cret")}
	env, err := do(t.Context(), driverv1.NewComputeDriverServiceClient(launch(t, spec).Conn()), "environ")
	if err != nil || !strings.Contains(env, "PATH=") {
		t.Fatalf("environment %q, %v", env, err)
	}
	for _, s := range []string{"leak", "s3cret"} {
		if strings.Contains(env, s) {
			t.Errorf("%q is in the plugin's environment:\n%s", s, env)
		}
	}
}

func TestMessagesAreCapped(t *testing.T) {
	t.Parallel()
	c := driverv1.NewComputeDriverServiceClient(launch(t, install(t, "serve")).Conn())
	big := make([]byte, 17<<20)
	if _, err := c.GetDomain(t.Context(), &driverv1.GetDomainRequest{DomainId: "x", Handle: big}); !fault.Is(err, metav1.Reason_REASON_LIMIT_EXCEEDED) {
		t.Errorf("17 MiB to the plugin: %v", err)
	}
	if _, err := do(t.Context(), c, "bytes:"+strconv.Itoa(17<<20)); !fault.Is(err, metav1.Reason_REASON_LIMIT_EXCEEDED) {
		t.Errorf("17 MiB from the plugin: %v", err)
	}
	if _, err := do(t.Context(), c, "bytes:"+strconv.Itoa(15<<20)); err != nil {
		t.Errorf("15 MiB from the plugin: %v", err)
	}
}

// A plugin made with go-plugin alone has no limit of its own, and prints through go-plugin's streams.
func TestPluginMadeWithoutTheSDK(t *testing.T) {
	t.Parallel()
	spec, log := install(t, "bare"), &logged{}
	spec.Logger = slog.New(log)
	c := driverv1.NewComputeDriverServiceClient(launch(t, spec).Conn())
	if _, err := do(t.Context(), c, "bytes:"+strconv.Itoa(17<<20)); !fault.Is(err, metav1.Reason_REASON_LIMIT_EXCEEDED) {
		t.Errorf("17 MiB from the plugin: %v", err)
	}
	if _, err := c.GetDomain(t.Context(), &driverv1.GetDomainRequest{DomainId: "x", Handle: make([]byte, 17<<20)}); !fault.Is(err, metav1.Reason_REASON_LIMIT_EXCEEDED) {
		t.Errorf("17 MiB to the plugin: %v", err)
	}
	if _, err := do(t.Context(), c, "print"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "what it printed is logged", func() bool { return log.has("INFO printed on standard output") })
}

func TestFloodOnStderrIsBounded(t *testing.T) {
	spec, log := install(t, "serve"), &logged{}
	spec.Logger = slog.New(log)
	p := launch(t, spec)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	if _, err := do(t.Context(), driverv1.NewComputeDriverServiceClient(p.Conn()), "flood:50000"); err != nil { // 50 MiB
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	log.mu.Lock()
	defer log.mu.Unlock()
	if n := len(log.lines); n > 5000 {
		t.Errorf("%d lines were relayed", n)
	}
	if n := len(p.Stderr()); n > tailLen+panicLines {
		t.Errorf("%d lines are kept", n)
	}
}

func TestBinaryIsHeldToItsManifest(t *testing.T) {
	t.Parallel()
	spec := install(t, "serve")
	bin := filepath.Join(spec.Dir, "plugin")
	m, err := ReadManifest(spec.Dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := openBinary(spec.Dir, m)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	// Another file takes the path after the check: what was checked is what runs.
	evil := filepath.Join(spec.Dir, "evil")
	if err := os.WriteFile(evil, []byte("#!/bin/sh\necho evil >&2\nexit 66\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(evil, bin); err != nil {
		t.Fatal(err)
	}
	dir, err := newLaunchDir(spec.RuntimeDir)
	if err != nil {
		t.Fatal(err)
	}
	p := newProcess(spec.withDefaults(), m, dir)
	if err := p.start(t.Context(), b); err != nil {
		t.Fatalf("the checked binary did not run: %v", p.startError(t.Context(), err))
	}
	if err := p.Stop(t.Context(), time.Second); err != nil {
		t.Error(err)
	}
	// And the next launch refuses the other one.
	if _, err := Launch(t.Context(), spec); !fault.Is(err, metav1.Reason_REASON_PLUGIN_INVALID) || !strings.Contains(err.Error(), "sha256") {
		t.Errorf("the swapped binary: %v", err)
	}
	assertEmpty(t, spec.RuntimeDir)
}

func TestBinaryWrittenToAfterTheCheckIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bin := filepath.Join(dir, "plugin")
	if err := os.WriteFile(bin, []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	m := &Manifest{Name: "fake", Version: "1", Kinds: []string{"compute"}, Executable: "plugin"}
	if err := WriteManifest(dir, m); err != nil {
		t.Fatal(err)
	}
	b, err := openBinary(dir, m)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	if err := os.WriteFile(bin, []byte("#!/bin/sh\necho evil\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := b.unchanged(); !fault.Is(err, metav1.Reason_REASON_PLUGIN_INVALID) {
		t.Errorf("got %v", err)
	}
}

func TestSweepRemovesWhatAnEarlierLifeLeft(t *testing.T) {
	t.Parallel()
	run := shortDir(t)
	sleeper := func() *exec.Cmd {
		c := exec.Command("sleep", "300")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		return c
	}
	ours, other := sleeper(), sleeper()
	t.Cleanup(func() {
		for _, c := range []*exec.Cmd{ours, other} {
			_ = c.Process.Kill()
			_ = c.Wait()
		}
	})
	leave := func(name string, r record) {
		dir := filepath.Join(run, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		data, _ := json.Marshal(r)
		for f, content := range map[string][]byte{recordName: data, "plugin123": nil} {
			if err := os.WriteFile(filepath.Join(dir, f), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	record := func(pid int) record {
		start, err := startTime(pid)
		if err != nil {
			t.Fatal(err)
		}
		return record{PID: pid, StartTime: start, BootID: bootID()}
	}
	leave("l-1", record(ours.Process.Pid))
	reused := record(other.Process.Pid)
	reused.StartTime-- // the id belonged to a process that started earlier
	leave("l-2", reused)
	rebooted := record(other.Process.Pid)
	rebooted.BootID = "another"
	leave("l-3", rebooted)
	keep := filepath.Join(run, "not-ours")
	if err := os.Mkdir(keep, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Sweep(run); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the process that was left is killed", func() bool { return !alive(ours.Process.Pid) })
	if !alive(other.Process.Pid) {
		t.Error("a process that only has the same id was killed")
	}
	if entries, _ := os.ReadDir(run); len(entries) != 1 || entries[0].Name() != "not-ours" {
		t.Errorf("left: %v", entries)
	}
}

func TestPluginEndsWithItsHost(t *testing.T) {
	t.Parallel()
	t.Run("running", func(t *testing.T) {
		t.Parallel()
		testPluginEndsWithItsHost(t, false)
	})
	t.Run("stopped", func(t *testing.T) {
		t.Parallel()
		testPluginEndsWithItsHost(t, true)
	})
	t.Run("hanging", func(t *testing.T) { // before the SDK is there to notice anything: the kernel ends it
		t.Parallel()
		spec := install(t, "mute")
		h, _ := startHost(t, spec, "mute")
		var pid int
		eventually(t, 10*time.Second, "the plugin runs", func() bool { // Go's runtime has a child of its own for a moment, to see what the kernel can do
			pid = childOf(h.Process.Pid)
			env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
			return strings.Contains(string(env), modeEnv+"=mute")
		})
		_ = h.Process.Kill()
		_ = h.Wait()
		eventually(t, 5*time.Second, "the plugin is gone", func() bool { return !alive(pid) })
	})
}

// startHost runs a host in a process of its own, which launches the plugin of spec in a mode; out is what it prints.
func startHost(t *testing.T, spec Spec, mode string) (h *exec.Cmd, out *bufio.Reader) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h = exec.Command(exe)
	h.Env = append(os.Environ(), modeEnv+"=host:"+spec.Dir+","+spec.RuntimeDir+","+mode)
	in, err1 := h.StdinPipe()
	pipe, err2 := h.StdoutPipe()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := h.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = h.Process.Kill()
		_ = h.Wait()
	})
	return h, bufio.NewReader(pipe)
}

// childOf is a child of a process, or 0.
func childOf(pid int) int {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, f := range tasks {
		if data, err := os.ReadFile(f); err == nil {
			if fields := strings.Fields(string(data)); len(fields) > 0 {
				n, _ := strconv.Atoi(fields[0])
				return n
			}
		}
	}
	return 0
}

func testPluginEndsWithItsHost(t *testing.T, stopped bool) {
	spec := install(t, "serve")
	h, out := startHost(t, spec, "serve")
	line, err := out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatalf("the host says %q", line)
	}
	if !alive(pid) {
		t.Fatal("the plugin does not run")
	}
	if stopped {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	_ = h.Process.Kill()
	_ = h.Wait()
	eventually(t, 5*time.Second, "the plugin is gone", func() bool { return !alive(pid) })
	// Its socket stayed behind, and hinders nobody.
	if entries, _ := os.ReadDir(spec.RuntimeDir); len(entries) != 1 {
		t.Fatalf("expected a stale launch directory: %v", entries)
	}
	if err := Sweep(spec.RuntimeDir); err != nil {
		t.Fatal(err)
	}
	assertEmpty(t, spec.RuntimeDir)
}

// The kernel sends the parent-death signal when the thread that forked ends: the plugin must not depend on the thread of whoever called Launch.
func TestPluginOutlivesTheThreadThatLaunchedIt(t *testing.T) {
	t.Parallel()
	spec := install(t, "serve")
	var p *Process
	var err error
	launched, release := make(chan int), make(chan struct{})
	defer close(release)
	var onThread func()
	onThread = func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if syscall.Gettid() == os.Getpid() {
			go onThread() // the main thread never ends: keep it busy and take another
			<-release
			return
		}
		p, err = Launch(context.Background(), spec)
		launched <- syscall.Gettid()
	}
	go onThread()
	tid := <-launched
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop(context.Background(), time.Second) //nolint:errcheck // checked elsewhere
	eventually(t, 5*time.Second, "the thread has ended", func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", tid))
		return os.IsNotExist(err)
	})
	if _, err := do(t.Context(), driverv1.NewComputeDriverServiceClient(p.Conn()), "version"); err != nil {
		t.Errorf("the plugin went with the thread: %v", err)
	}
}
