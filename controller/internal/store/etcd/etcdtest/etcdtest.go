// Package etcdtest runs etcd clusters for tests, each member a process of its own that can be killed and stopped. The processes are the test
// binary itself: its TestMain calls Main first.
package etcdtest

import (
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Options say what cluster to run. The zero value is one member with etcd's own limits.
type Options struct {
	// Members is how many; 0 is 1.
	Members int
	// QuotaBytes is the size at which writes are refused; 0 is etcd's own.
	QuotaBytes int64
	// Identity is given for a cluster whose clients speak TLS and must show a certificate.
	Identity *Identity
}

// Cluster is a running cluster.
type Cluster struct {
	t       testing.TB
	members []*member
}

// Start runs a cluster until the test ends, and returns once it serves.
func Start(t testing.TB, opts Options) *Cluster {
	t.Helper()
	n := max(opts.Members, 1)
	ports := freePorts(t, 2*n)
	scheme := "http"
	if opts.Identity != nil {
		scheme = "https"
	}
	c := &Cluster{t: t}
	var initial []string
	for i := range n {
		spec := memberSpec{
			Name:       fmt.Sprintf("m%d", i),
			Dir:        filepath.Join(t.TempDir(), "etcd"),
			ClientURL:  url.URL{Scheme: scheme, Host: ports[2*i]},
			PeerURL:    url.URL{Scheme: "http", Host: ports[2*i+1]},
			QuotaBytes: opts.QuotaBytes,
		}
		if opts.Identity != nil {
			spec.CA, spec.Cert, spec.Key = opts.Identity.CA, opts.Identity.Cert, opts.Identity.Key
		}
		initial = append(initial, spec.Name+"="+spec.PeerURL.String())
		c.members = append(c.members, &member{spec: spec})
	}
	for _, m := range c.members {
		m.spec.InitialCluster = strings.Join(initial, ",")
		m.start(t)
		t.Cleanup(func() { m.stop() })
	}
	for _, m := range c.members {
		m.awaitReady(t)
	}
	return c
}

// Size is the number of members.
func (c *Cluster) Size() int { return len(c.members) }

// Endpoints are the client URLs of the members.
func (c *Cluster) Endpoints() []string {
	urls := make([]string, len(c.members))
	for i, m := range c.members {
		urls[i] = m.spec.ClientURL.String()
	}
	return urls
}

// Kill ends a member as kill -9 does, and returns when it is gone.
func (c *Cluster) Kill(i int) { c.members[i].stop() }

// Restart starts a member that was killed, on its data, and returns when it serves.
func (c *Cluster) Restart(i int) {
	c.t.Helper()
	c.members[i].start(c.t)
	c.members[i].awaitReady(c.t)
}

// Pause stops a member as SIGSTOP does, and returns once all of it has stopped: its connections stay, and nothing answers.
func (c *Cluster) Pause(i int) {
	c.t.Helper()
	c.signal(i, syscall.SIGSTOP)
	for deadline := time.Now().Add(patience); !c.members[i].stopped(c.t); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("etcd %s does not stop", c.members[i].spec.Name)
		}
	}
}

// Resume lets a paused member go on.
func (c *Cluster) Resume(i int) { c.signal(i, syscall.SIGCONT) }

func (c *Cluster) signal(i int, sig syscall.Signal) {
	c.t.Helper()
	if err := c.members[i].cmd.Process.Signal(sig); err != nil {
		c.t.Fatal(err)
	}
}

// Host is the loopback address that this process's clusters listen at: one of its own, so that no other process takes a port in between.
func Host() string {
	pid := os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d", 64+pid>>14&63, 1+pid>>7&127, 1+pid&127)
}

// freePorts finds addresses on which nobody listens.
func freePorts(t testing.TB, n int) []string {
	t.Helper()
	var found []string
	for range n {
		l, err := net.Listen("tcp", net.JoinHostPort(Host(), "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }() // only once all are found: so they differ
		found = append(found, l.Addr().String())
	}
	return found
}

// Main turns this process into a member if it was started as one, and otherwise returns at once.
func Main() {
	text := os.Getenv(specEnv)
	if text == "" {
		return
	}
	var spec memberSpec
	err := json.Unmarshal([]byte(text), &spec)
	if err == nil {
		err = serve(spec)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "etcd:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
