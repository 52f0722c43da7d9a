package worker

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/limiquantix/limiquantix/plugins/kit/filepool"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/sdk"
)

// Main runs a child if the arguments ask for one; the plugin's main calls it first.
func Main(args []string) (code int, is bool) {
	switch {
	case len(args) == 2 && args[1] == workerArg:
		return serve(), true
	case len(args) == 4 && args[1] == probeArg:
		out, err := protojson.Marshal(filepool.Look(args[2], args[3]))
		if err == nil {
			_, err = os.Stdout.Write(out)
		}
		if err != nil {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

// Linger is how long a call may go on after its caller has gone. After that it hangs in the kernel, and the worker ends itself.
const Linger = 10 * time.Second

// serve serves one pool until the plugin is gone.
func serve() int {
	log := slog.New(sdk.NewLogHandler(os.Stderr, slog.LevelInfo))
	slog.SetDefault(log)
	debug.SetGCPercent(50)
	c, err := inherited()
	if err != nil {
		log.Error("this worker was not started by its plugin", "error", err)
		return 1
	}
	s := grpc.NewServer(
		grpc.MaxRecvMsgSize(sdk.MaxMessageBytes), grpc.MaxSendMsgSize(sdk.MaxMessageBytes),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (r any, err error) {
			defer guard(ctx, info.FullMethod, &err)()
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
			defer guard(ss.Context(), info.FullMethod, &err)()
			return next(srv, ss)
		}),
	)
	driverv1.RegisterStorageDriverServiceServer(s, &files{})
	if err := s.Serve(&once{conn: &lifeline{Conn: c}, end: make(chan struct{})}); err != nil {
		log.Error("the worker ends", "error", err)
		return 1
	}
	return 0
}

// inherited takes over the socket. The lock stays as it is, for the tools that the worker runs.
func inherited() (net.Conn, error) {
	f := os.NewFile(socketFD, "plugin")
	defer func() { _ = f.Close() }()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if _, err := unix.FcntlInt(lockFD, unix.F_GETFD, 0); err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	return c, nil
}

// guard stands around a call: it turns a panic into an error, and ends the worker when the call goes on long after its caller has gone.
func guard(ctx context.Context, method string, err *error) func() {
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-done:
			return
		case <-ctx.Done():
		}
		late := time.NewTimer(Linger)
		defer late.Stop()
		select {
		case <-done:
		case <-late.C:
			slog.Error("a call hangs long after it was cancelled: the worker ends", "call", method)
			die()
		}
	})
	return func() {
		if p := recover(); p != nil {
			slog.Error("panic", "call", method, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			*err = fault.New(metav1.Reason_REASON_PLUGIN_PANIC, "panic in %s", method)
		}
		if *err != nil {
			*err = fault.From(*err)
		}
		close(done)
		watching.Wait()
	}
}

// die ends the worker and the tools that it runs, whatever any of them waits for.
func die() {
	_ = syscall.Kill(0, syscall.SIGKILL)
	select {}
}

// lifeline is the connection to the plugin. The plugin's end is the worker's.
type lifeline struct{ net.Conn }

func (l *lifeline) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	if n == 0 && err != nil {
		die()
	}
	return n, err
}

// once is a listener on a connection that is there already.
type once struct {
	conn net.Conn
	end  chan struct{}
	done bool
}

func (o *once) Accept() (net.Conn, error) {
	if o.done {
		<-o.end
		return nil, io.EOF
	}
	o.done = true
	return o.conn, nil
}

func (o *once) Close() error {
	close(o.end)
	return nil
}

func (o *once) Addr() net.Addr { return o.conn.LocalAddr() }
