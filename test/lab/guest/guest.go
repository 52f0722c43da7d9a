package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/limiquantix/limiquantix/test/lab"
	"github.com/limiquantix/limiquantix/test/lab/guest/wire"
)

// StartTimeout bounds a start on a loaded machine; the first one ever builds the image on top, without limit.
const StartTimeout = 5 * time.Minute

// Options of a guest.
type Options struct {
	// Disks are sizes in bytes of blank disks.
	Disks []int64
	// Share is a folder of the host that the guest sees as /host; empty = none.
	Share string
	// MemoryMiB; 0 = 1024. Every other value has a saved state of its own.
	MemoryMiB int
}

// Guest is a running guest. All methods may be called at once.
type Guest struct {
	dir     string
	qemu    *machine
	qmp     *monitor
	session *yamux.Session
	socket  net.Listener
	wg      sync.WaitGroup

	mu    sync.Mutex
	disks []string // device by number; "" = removed
}

// Start starts a guest that ends with the test.
func Start(t testing.TB, o Options) *Guest {
	t.Helper()
	g, err := Boot(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of the guest's console:\n%s", g.Console())
		}
		if err := g.Stop(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// Boot resumes a guest. It dies with this process.
func Boot(ctx context.Context, o Options) (*Guest, error) {
	if o.MemoryMiB == 0 {
		o.MemoryMiB = 1024
	}
	system, err := lab.NewGuestOS(ctx)
	if err != nil {
		return nil, fmt.Errorf("lab guest: %w", err)
	}
	state, err := savedState(ctx, system, o.MemoryMiB)
	if err != nil {
		return nil, fmt.Errorf("lab guest: %w", err)
	}
	dir, err := os.MkdirTemp("", "lqg") // short: sockets lie in it
	if err != nil {
		return nil, err
	}
	g := &Guest{dir: dir}
	ctx, cancel := context.WithTimeoutCause(ctx, StartTimeout, errors.New("the guest does not start"))
	defer cancel()
	if err := g.start(ctx, system, state, o); err != nil {
		err = fmt.Errorf("lab guest: %w; its console:\n%s", err, g.Console())
		return nil, errors.Join(err, g.Stop())
	}
	return g, nil
}

func (g *Guest) start(ctx context.Context, system lab.GuestOS, state string, o Options) error {
	own := filepath.Join(g.dir, "lab")
	if err := os.Mkdir(own, 0o755); err != nil { //nolint:gosec // the guest's
		return err
	}
	if o.Share == "" {
		o.Share = filepath.Join(g.dir, "share")
		if err := os.Mkdir(o.Share, 0o755); err != nil { //nolint:gosec // the guest's
			return err
		}
	}
	if err := build(ctx, filepath.Join(own, "agent"), "agent"); err != nil {
		return err
	}
	args := append(qemuArgs(system, o.MemoryMiB, g.dir, own, o.Share), "-incoming", "exec:cat "+state)
	var err error
	if g.qemu, err = startQEMU(args, filepath.Join(g.dir, "qemu.log")); err != nil {
		return err
	}
	if g.qmp, err = dialMonitor(ctx, filepath.Join(g.dir, "mon"), g.qemu); err != nil {
		return err
	}
	port, err := dialSoon(ctx, filepath.Join(g.dir, "agent"), g.qemu)
	if err != nil {
		return err
	}
	if g.session, err = yamux.Client(port, wire.Config(io.Discard)); err != nil {
		return err
	}
	if err := g.resume(ctx); err != nil {
		return err
	}
	if g.socket, err = net.Listen("unix", g.agentSocket()); err != nil {
		return err
	}
	g.wg.Go(g.relay)
	// The first command answers when the agent is up.
	if _, err := g.Run(ctx, "/bin/true"); err != nil {
		return err
	}
	for _, size := range o.Disks {
		if _, err := g.AddDisk(ctx, size); err != nil {
			return err
		}
	}
	return nil
}

// resume lets the guest go on from where it was saved, and tells it the time.
func (g *Guest) resume(ctx context.Context) error {
	for {
		var st struct {
			Status string `json:"status"`
		}
		if err := g.qmp.call(ctx, "query-status", nil, &st); err != nil {
			return err
		}
		if st.Status != "inmigrate" && st.Status != "prelaunch" {
			break
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	if err := g.qmp.call(ctx, "cont", nil, nil); err != nil {
		return err
	}
	console, err := dialSoon(ctx, filepath.Join(g.dir, "go"), g.qemu)
	if err != nil {
		return err
	}
	defer console.Close() //nolint:errcheck // it was written to
	_, err = fmt.Fprintf(console, "%d\n", time.Now().Unix())
	return err
}

func (g *Guest) agentSocket() string { return filepath.Join(g.dir, "sock") }

// relay lets other processes of the host reach the agent: each connection becomes a stream.
func (g *Guest) relay() {
	for {
		c, err := g.socket.Accept()
		if err != nil {
			return
		}
		g.wg.Go(func() {
			s, err := g.session.OpenStream()
			if err != nil {
				_ = c.Close()
				return
			}
			wire.Pipe(c, s)
		})
	}
}

// Console is the end of what the guest's kernel and agent have printed.
func (g *Guest) Console() string {
	var all []string
	for _, name := range []string{"qemu.log", "serial"} {
		if b, err := os.ReadFile(filepath.Join(g.dir, name)); err == nil {
			all = append(all, strings.Split(strings.TrimSpace(string(b)), "\n")...)
		}
	}
	return strings.Join(all[max(0, len(all)-40):], "\n")
}

// Stop ends the guest at once, as a power cut would, and removes what is left of it.
func (g *Guest) Stop() error {
	if g.socket != nil {
		_ = g.socket.Close()
	}
	if g.session != nil {
		_ = g.session.Close()
	}
	if g.qmp != nil {
		g.qmp.close()
	}
	if g.qemu != nil {
		g.qemu.kill()
	}
	g.wg.Wait()
	return os.RemoveAll(g.dir)
}

// pause waits for d or for the end of ctx, whose error it then returns.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
