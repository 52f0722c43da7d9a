package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/store/etcd/etcdtest"
)

// The test binary is the controller when it is told so: what is tested is a real process.
func TestMain(m *testing.M) {
	etcdtest.Main()
	if os.Getenv("TEST_AS_CONTROLLER") == "1" {
		main()
		return
	}
	os.Exit(m.Run())
}

type process struct {
	cmd     *exec.Cmd
	ready   map[string]any // the line that says so
	done    chan struct{}
	mu      sync.Mutex
	log     bytes.Buffer
	readyCh chan struct{}
}

func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = []string{"TEST_AS_CONTROLLER=1", "PATH=" + os.Getenv("PATH")}
	return cmd
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log.Write(b)
	for line := range strings.Lines(p.log.String()) {
		var entry map[string]any
		if p.ready == nil && json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == "controller ready" {
			p.ready = entry
			close(p.readyCh)
		}
	}
	return len(b), nil
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// start runs a controller on loopback ports of its own until the test ends, and waits until it says that it is ready.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{done: make(chan struct{}), readyCh: make(chan struct{})}
	p.cmd = command(t, append([]string{"--listen", "127.0.0.1:0", "--agent-listen", "127.0.0.1:0"}, args...)...)
	p.cmd.Stderr = p
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // its code is read from ProcessState
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
	})
	select {
	case <-p.readyCh:
	case <-p.done:
		t.Fatalf("it ended: %s", p.text())
	case <-time.After(time.Minute):
		t.Fatalf("it is not ready: %s", p.text())
	}
	return p
}

func (p *process) url(path string) string { return fmt.Sprintf("http://%s%s", p.ready["listen"], path) }

// stop sends SIGTERM and returns the exit code.
func (p *process) stop(t *testing.T) int {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		t.Fatalf("it does not stop: %s", p.text())
	}
	return p.cmd.ProcessState.ExitCode()
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func (p *process) post(t *testing.T, token, method, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequest("POST", p.url("/limiquantix."+method), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// isReady waits until /ready says so.
func (p *process) isReady(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		status, body := get(t, p.url("/ready"))
		if status == http.StatusOK {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(status, body)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func readToken(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "admin.token")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info, err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func TestStartsAndStopsTwiceOnOneDirectory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	var cluster, token string
	for run := range 2 {
		p := start(t, "--data-dir", dir)
		p.isReady(t)
		var info map[string]any
		_, body := get(t, p.url("/api/v1/info"))
		if err := json.Unmarshal([]byte(body), &info); err != nil || info["cluster_id"] == "" {
			t.Fatal(body, err)
		}
		if leader, _ := info["leader"].(map[string]any); leader["address"] != p.ready["agent_address"] || leader["id"] != info["controller_id"] {
			t.Error(body)
		}
		if p.ready["admin_token_file"] != filepath.Join(dir, "admin.token") {
			t.Error(p.ready)
		}
		if run == 0 {
			cluster, token = info["cluster_id"].(string), readToken(t, dir)
			if status, body := p.post(t, token, "compute.v1.NodeService/RegisterNode", `{"node":{"meta":{"name":"node-a"}}}`); status != 200 {
				t.Fatal(status, body)
			}
		} else if info["cluster_id"] != cluster || readToken(t, dir) != token {
			t.Error("another cluster or token after a restart")
		}
		if status, body := p.post(t, token, "compute.v1.NodeService/GetNode", `{"id":"node-a"}`); status != 200 || !strings.Contains(body, "node-a") {
			t.Error(run, status, body)
		}
		if status, _ := p.post(t, "wrong", "compute.v1.NodeService/GetNode", `{"id":"node-a"}`); status != 401 {
			t.Error(status)
		}
		if code := p.stop(t); code != 0 {
			t.Errorf("run %d: exit code %d: %s", run, code, p.text())
		}
		if log := p.text(); strings.Contains(log, `"level":"ERROR"`) || strings.Contains(log, token) {
			t.Errorf("run %d: %s", run, log)
		}
	}
}

func TestSecondOnOneDirectoryIsRefused(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	start(t, "--data-dir", dir)
	out, err := command(t, "--data-dir", dir, "--listen", "127.0.0.1:0", "--agent-listen", "127.0.0.1:0").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another controller runs on the data directory "+dir) {
		t.Error(string(out), err)
	}
	out, err = command(t, "admin-token", "--reset", "--data-dir", dir).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another controller runs on the data directory") {
		t.Error(string(out), err)
	}
}

func TestKillNineLosesNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	p := start(t, "--data-dir", dir)
	p.isReady(t)
	token := readToken(t, dir)
	if status, body := p.post(t, token, "compute.v1.NodeService/RegisterNode", `{"node":{"meta":{"name":"node-a"}}}`); status != 200 {
		t.Fatal(status, body)
	}
	_ = p.cmd.Process.Kill()
	<-p.done
	again := start(t, "--data-dir", dir)
	again.isReady(t)
	if status, body := again.post(t, token, "compute.v1.NodeService/GetNode", `{"id":"node-a"}`); status != 200 {
		t.Error(status, body)
	}
}

func TestAdminTokenReset(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	p := start(t, "--data-dir", dir)
	old := readToken(t, dir)
	if code := p.stop(t); code != 0 {
		t.Fatal(p.text())
	}
	if err := os.Remove(filepath.Join(dir, "admin.token")); err != nil {
		t.Fatal(err)
	}
	p = start(t, "--data-dir", dir)
	if !strings.Contains(p.text(), "admin-token --reset") {
		t.Error("nothing said that the token is missing: ", p.text())
	}
	if code := p.stop(t); code != 0 {
		t.Fatal(p.text())
	}
	if out, err := command(t, "admin-token", "--reset", "--data-dir", dir).CombinedOutput(); err != nil || !strings.Contains(string(out), "admin.token") {
		t.Fatal(string(out), err)
	}
	p = start(t, "--data-dir", dir)
	for token, want := range map[string]int{old: 401, readToken(t, dir): 200} {
		if status, body := p.post(t, token, "compute.v1.NodeService/ListNodes", `{}`); status != want {
			t.Error(status, body)
		}
	}
}

func TestMemoryStore(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	for range 2 { // what a run before left must not stand in the way
		p := start(t, "--data-dir", dir, "--store", "memory")
		p.isReady(t)
		if status, body := p.post(t, readToken(t, dir), "compute.v1.NodeService/ListNodes", `{}`); status != 200 {
			t.Error(status, body)
		}
		if code := p.stop(t); code != 0 {
			t.Error(p.text())
		}
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	p := start(t, "--data-dir", dir)
	// A call under way, whose body never ends, is waited for.
	conn, err := net.Dial("tcp", p.ready["listen"].(string))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST /limiquantix.compute.v1.VMService/GetVM HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"+
		"Authorization: Bearer "+readToken(t, dir)+"\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, " 100 ") { // the body is being read
		t.Fatal(line, err)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(p.text(), `"msg":"stopping"`) {
		<-time.After(5 * time.Millisecond)
	}
	select {
	case <-p.done:
		t.Fatal("it did not wait for the call")
	case <-time.After(200 * time.Millisecond):
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		t.Fatal("it waits")
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d: %s", code, p.text())
	}
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, bad := write("good.yaml", "listen: 127.0.0.1:9\nscheduler: {placement_strategy: pack}\n"), write("bad.yaml", "\nlisten: 127.0.0.1:9\nheartbeet: {}\n")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	data := filepath.Join(dir, "data")
	for name, tc := range map[string]struct {
		args []string
		env  string
		code int
		want string
	}{
		"version":          {args: []string{"--version"}, want: "limiquantix-controller dev"},
		"help":             {args: []string{"--help"}, want: "Usage:"},
		"good":             {args: []string{"--check-config", "--config", good}, want: "good"},
		"good by variable": {args: []string{"--check-config"}, env: "LIMIQUANTIX_CONTROLLER_CONFIG=" + good, want: "good"},
		"no config":        {args: []string{"--check-config"}, want: "good"},
		"bad":              {args: []string{"--check-config", "--config", bad}, code: 1, want: `line 3: unknown key "heartbeet"; did you mean "heartbeat"?`},
		"no file":          {args: []string{"--config", filepath.Join(dir, "none")}, code: 1, want: "no such file"},
		"open without tls": {args: []string{"--listen", "0.0.0.0:0", "--data-dir", data}, code: 1, want: "tls.cert"},
		"store":            {args: []string{"--store", "etdc"}, code: 1, want: `did you mean "etcd"`},
		"flag":             {args: []string{"--nonsense"}, code: 2, want: "nonsense"},
		"argument":         {args: []string{"run"}, code: 2, want: "run"},
		"port taken":       {args: []string{"--listen", taken.Addr().String(), "--data-dir", data}, code: 1, want: "address already in use"},
		"reset what":       {args: []string{"admin-token", "--data-dir", data}, code: 1, want: "did you mean admin-token --reset"},
		"reset nothing":    {args: []string{"admin-token", "--reset", "--data-dir", data}, code: 1, want: "not found"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := command(t, tc.args...)
			cmd.Env = append(cmd.Env, tc.env)
			out, _ := cmd.CombinedOutput() // its code is read from ProcessState
			if got := cmd.ProcessState.ExitCode(); got != tc.code || !strings.Contains(string(out), tc.want) {
				t.Errorf("exit code %d, want %d: %s", got, tc.code, out)
			}
		})
	}
}
