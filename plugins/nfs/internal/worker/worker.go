package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/sdk"
)

// Worker is a running worker, as the plugin sees it.
type Worker struct {
	driverv1.StorageDriverServiceClient

	cmd  *exec.Cmd
	conn *grpc.ClientConn
	done chan struct{} // closed when the process is gone
}

// self is the plugin's own program, whatever became of its file.
const self = "/proc/self/exe"

// Start starts a worker for a pool and lets it open the pool. lock is a file on a local disk.
func Start(ctx context.Context, p Pool, lock string) (*Worker, *driverv1.Pool, error) {
	l, err := acquire(ctx, lock)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = l.Close() }()
	w, err := start(l)
	if err != nil {
		return nil, nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "start a worker for pool %s: %w", p.ID, err)
	}
	r, err := w.EnsurePool(ctx, p.request())
	if err != nil {
		w.Kill()
		if ctx.Err() != nil {
			err = fault.New(metav1.Reason_REASON_BACKEND_TIMEOUT, "pool %s does not answer: %w", p.ID, ctx.Err())
		}
		return nil, nil, err
	}
	return w, r.GetPool(), nil
}

func start(lock *os.File) (*Worker, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	mine, theirs := os.NewFile(uintptr(fds[0]), "worker"), os.NewFile(uintptr(fds[1]), "plugin")
	defer func() { _, _ = mine.Close(), theirs.Close() }()
	c, err := net.FileConn(mine)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	w := &Worker{cmd: exec.Command(self, workerArg), done: make(chan struct{})}
	w.cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	w.cmd.Stderr = os.Stderr
	w.cmd.ExtraFiles = []*os.File{theirs, lock}
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if w.conn, err = dial(c); err != nil {
		_ = c.Close()
		return nil, err
	}
	if err := w.cmd.Start(); err != nil {
		return nil, errors.Join(err, c.Close(), w.conn.Close())
	}
	go func() { // ends with the process; Gone tells
		_ = w.cmd.Wait()
		_ = c.Close()
		_ = w.conn.Close()
		close(w.done)
	}()
	w.StorageDriverServiceClient = driverv1.NewStorageDriverServiceClient(w.conn)
	return w, nil
}

// dial makes a client of a connection that is there already. There is no other one: when it breaks the worker is gone.
func dial(c net.Conn) (*grpc.ClientConn, error) {
	var first sync.Once
	return grpc.NewClient("passthrough:///worker", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(sdk.MaxMessageBytes), grpc.MaxCallSendMsgSize(sdk.MaxMessageBytes)),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			var out net.Conn
			first.Do(func() { out = c })
			if out == nil {
				return nil, io.ErrClosedPipe
			}
			return out, nil
		}))
}

// Kill ends the worker and the tools that it runs. It does not wait: what hangs in the kernel may take its time.
func (w *Worker) Kill() {
	select {
	case <-w.done: // the group's id may be another's by now
	default:
		_ = syscall.Kill(-w.cmd.Process.Pid, syscall.SIGKILL)
	}
}

// Gone is closed when the worker is no more.
func (w *Worker) Gone() <-chan struct{} { return w.done }

// PID is the worker's process.
func (w *Worker) PID() int { return w.cmd.Process.Pid }

// acquire takes the lock of a pool: what an earlier worker left must be gone.
func acquire(ctx context.Context, path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "lock of a pool: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "lock of a pool: %w", err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = f.Close()
			return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "lock of a pool: %w", err)
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, fault.New(metav1.Reason_REASON_BACKEND_TIMEOUT, "an earlier process of this pool hangs in the kernel and cannot be killed: %w", ctx.Err()).
				WithRemedy("it ends when the server answers again")
		case <-tick.C:
		}
	}
}
