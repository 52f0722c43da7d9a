package etcdtest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
)

const (
	// specEnv tells a process that it is a member, and which.
	specEnv = "LIMIQUANTIX_TEST_ETCD"
	// ready is what a member says once it serves.
	ready = "ready"
	// patience is how long a member may take to serve.
	patience = time.Minute
)

// memberSpec is what a member needs to know.
type memberSpec struct {
	Name, Dir          string
	ClientURL, PeerURL url.URL
	InitialCluster     string
	QuotaBytes         int64
	CA, Cert, Key      string
}

// serve runs a member until standard input ends, which it does at the latest with the process that started it.
func serve(spec memberSpec) error {
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = spec.Name, spec.Dir
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{spec.ClientURL}, []url.URL{spec.ClientURL}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{spec.PeerURL}, []url.URL{spec.PeerURL}
	cfg.InitialCluster = spec.InitialCluster
	cfg.QuotaBackendBytes = spec.QuotaBytes
	cfg.EnableGRPCGateway = false
	cfg.TickMs, cfg.ElectionMs = 50, 500
	cfg.LogLevel = "fatal"
	if spec.CA != "" {
		cfg.ClientTLSInfo = transport.TLSInfo{CertFile: spec.Cert, KeyFile: spec.Key, TrustedCAFile: spec.CA, ClientCertAuth: true}
	}
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	select {
	case <-server.Server.ReadyNotify():
	case err := <-server.Err():
		return err
	}
	fmt.Println(ready)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// member is one process.
type member struct {
	spec memberSpec
	cmd  *exec.Cmd
	in   io.Closer
	out  io.Reader
}

func (m *member) start(t testing.TB) {
	t.Helper()
	spec, err := json.Marshal(m.spec)
	if err != nil {
		t.Fatal(err)
	}
	m.cmd = exec.Command(os.Args[0]) //nolint:gosec // ourselves
	m.cmd.Env = append(os.Environ(), specEnv+"="+string(spec))
	m.cmd.Stderr = os.Stderr
	in, inErr := m.cmd.StdinPipe()
	out, outErr := m.cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr); err != nil {
		t.Fatal(err)
	}
	m.in, m.out = in, out
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

func (m *member) awaitReady(t testing.TB) {
	t.Helper()
	late := time.AfterFunc(patience, func() { _ = m.cmd.Process.Kill() })
	defer late.Stop()
	line, err := bufio.NewReader(m.out).ReadString('\n')
	if err != nil || line != ready+"\n" {
		t.Fatalf("etcd %s does not serve: %q, %v", m.spec.Name, line, err)
	}
}

// stopped reports whether every thread is.
func (m *member) stopped(t testing.TB) bool {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", m.cmd.Process.Pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("the threads of etcd %s: %v", m.spec.Name, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return false // it ended
		}
		_, after, _ := strings.Cut(string(text), ") ")
		if !strings.HasPrefix(after, "T") {
			return false
		}
	}
	return true
}

// stop kills the process, if there is one.
func (m *member) stop() {
	if m.cmd == nil {
		return
	}
	_ = m.cmd.Process.Kill()
	_ = m.in.Close()
	_ = m.cmd.Wait() // it says that it was killed
	m.cmd = nil
}
