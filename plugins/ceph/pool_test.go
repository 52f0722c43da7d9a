package ceph_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/sdk"
	"github.com/limiquantix/limiquantix/sdk/host"
)

// log collects what a plugin logs.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// The key is in AttachVolume's answer and nowhere else: not in arguments, environment, files, logs or errors, also when calls fail.
func TestKeyIsKeptSecret(t *testing.T) {
	t.Parallel()
	p := newPool(t, shared.ceph)
	var logged log
	state := t.TempDir()
	l := launchWith(t, nodeID, state, host.Spec{ConfigJSON: quick, Logger: slog.New(sdk.NewLogHandler(&logged, slog.LevelDebug))})
	wrong := p.ensureRequest()
	wrong.Parameters["pool"] = "absent"
	_, err := l.EnsurePool(t.Context(), wrong)
	said := fmt.Sprintf("%v", err)
	l.ensure(t, p)
	l.create(t, volumeID, 8<<20, nil)
	if src := l.attach(t, attachRequest(volumeID)); src.GetKey() != p.key {
		t.Error("the source has another key")
	}
	_, err = l.CreateVolume(t.Context(), createRequest(volumeID, 16<<20, nil))
	said += fmt.Sprintf("%v", err)
	state2, err := l.GetPool(t.Context(), &driverv1.GetPoolRequest{PoolId: poolID})
	said += fmt.Sprintf("%v %v", state2, err)
	for _, name := range []string{"cmdline", "environ"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", l.PID(), name))
		if err != nil {
			t.Fatal(err)
		}
		said += string(b)
	}
	err = filepath.WalkDir(state, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		said += string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	objects, err := p.Rados(t.Context(), "-p", p.name, "listomapvals", "limiquantix."+poolID)
	if err != nil {
		t.Fatal(err)
	}
	if said += objects + logged.String(); strings.Contains(said, p.key) {
		t.Error("the key is to be read somewhere")
	}
	if !strings.Contains(said, "absent") || !strings.Contains(objects, "v/"+volumeID) {
		t.Error("what was searched is not what it should be")
	}
}

// Ceph's variables in the environment have no say.
func TestEnvironmentIsIgnored(t *testing.T) {
	t.Parallel()
	p := newPool(t, shared.ceph)
	l := launchWith(t, nodeID, t.TempDir(), host.Spec{ConfigJSON: quick, Env: []string{
		"CEPH_CONF=/nonexistent", "CEPH_ARGS=--mon-host 127.0.0.1:1 --keyring /nonexistent", "CEPH_KEYRING=/nonexistent",
	}})
	l.ensure(t, p)
}

// A thousand volumes are one page, read from one object and without a look at an RBD image: the list is whole although one of them is away.
func TestThousandVolumes(t *testing.T) {
	t.Parallel()
	const n = 1000
	p := newPool(t, shared.ceph)
	l := ready(t, nodeID, p)
	id := func(n int) string { return fmt.Sprintf("%08d-0000-4000-8000-000000000000", n) }
	const workers = 16
	var made sync.WaitGroup
	began := time.Now()
	for w := range workers {
		made.Go(func() {
			for i := w; i < n; i += workers {
				if _, err := l.CreateVolume(t.Context(), createRequest(id(i), 8<<20, nil)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	made.Wait()
	t.Logf("%d volumes were made in %s", n, time.Since(began))
	src := l.attach(t, attachRequest(id(7)))
	if _, err := p.RBD(t.Context(), "rename", p.name+"/"+src.GetImage(), p.name+"/away"); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	list, err := l.ListVolumes(t.Context(), &driverv1.ListVolumesRequest{PoolId: poolID})
	if err != nil || len(list.GetVolumes()) != n || list.GetNextPageToken() != "" {
		t.Fatalf("%d volumes, next %q, %v", len(list.GetVolumes()), list.GetNextPageToken(), err)
	}
	t.Logf("and listed in %s", time.Since(began))
	_, err = l.ListVolumes(t.Context(), &driverv1.ListVolumesRequest{PoolId: poolID, PageToken: "x"})
	want(t, "a token of nobody", err, metav1.Reason_REASON_BAD_PAGE_TOKEN)
}
