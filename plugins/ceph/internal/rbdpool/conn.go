package rbdpool

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// conn is a connection to one cluster with a context for one pool and namespace. Calls on it may run at once.
type conn struct {
	params Params
	rados  *rados.Conn
	io     *rados.IOContext
	fsid   string
	addr   string // of this client, as the cluster's blocklist takes it

	users sync.WaitGroup // calls under way
}

// connect dials a cluster. It returns when ctx ends, although the dialling itself may go on until the limit.
func connect(ctx context.Context, p Params, l Limits) (*conn, error) {
	type result struct {
		c   *conn
		err error
	}
	done := make(chan result, 1)
	go func() { // ends by l.Connect, which the library keeps
		c, err := dial(ctx, p, l)
		done <- result{c, err}
	}()
	select {
	case r := <-done:
		return r.c, r.err
	case <-ctx.Done():
		go func() {
			if r := <-done; r.c != nil {
				r.c.close()
			}
		}()
		return nil, fault.New(metav1.Reason_REASON_BACKEND_TIMEOUT, "connect to %s: %w", p, context.Cause(ctx))
	}
}

// options are the library's settings. Nothing is read from /etc/ceph or the environment, nothing is written to files or to the terminal.
func options(p Params, l Limits, hosts string) map[string]string {
	seconds := func(d time.Duration) string { return strconv.Itoa(int(d.Seconds())) } // a fraction is refused
	return map[string]string{
		"mon_host": hosts, "mon_initial_members": "", "key": p.Key, "keyring": "", "keyfile": "",
		"auth_supported": "", "auth_client_required": "cephx",
		"client_mount_timeout": seconds(l.Connect), "rados_mon_op_timeout": seconds(l.Connect), "rados_osd_op_timeout": seconds(l.Operation),
		"log_file": "", "log_to_stderr": "false", "err_to_stderr": "false", "log_to_syslog": "false", "admin_socket": "", "run_dir": "",
		"rbd_cache": "false", "rbd_default_clone_format": "1", "rbd_move_to_trash_on_remove": "false", "rbd_concurrent_management_ops": "16",
	}
}

func dial(ctx context.Context, p Params, l Limits) (*conn, error) {
	rc, err := rados.NewConnWithUser(p.User)
	if err != nil {
		return nil, backend(err, "prepare a connection to %s", p)
	}
	if p.Conf != "" {
		if err := rc.ReadConfigFile(p.Conf); err != nil {
			return nil, fault.Invalid(fault.Violation{Field: "parameters.conf", Description: fmt.Sprintf("%s cannot be read as a ceph.conf: %v", p.Conf, err)})
		}
	}
	for name, value := range options(p, l, monitorHosts(ctx, p.Monitors)) {
		if err := rc.SetConfigOption(name, value); err != nil && !is(err, syscall.ENOENT) { // ENOENT: another version of the library
			return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "prepare a connection to %s: option %s: %w", p, name, err)
		}
	}
	if err := rc.Connect(); err != nil {
		return nil, dialError(err, p, l)
	}
	c := &conn{params: p, rados: rc}
	if err := c.open(); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// dialError tells a dead cluster from one that does not know us.
func dialError(err error, p Params, l Limits) error {
	switch errnoOf(err) {
	case syscall.ETIMEDOUT, syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH:
		return fault.New(metav1.Reason_REASON_BACKEND_UNAVAILABLE, "no monitor of %s answers within %s: %w", p, l.Connect, err).
			WithRemedy("check that a monitor runs and that this node reaches it")
	case syscall.EACCES, syscall.EPERM, syscall.ENOTSUP, syscall.EINVAL:
		return fault.New(metav1.Reason_REASON_BACKEND_CREDENTIALS, "the cluster refuses %s: %w", p, err).
			WithRemedy("compare user and key with `ceph auth get client.%s`", p.User)
	case syscall.ENOENT:
		return fault.New(metav1.Reason_REASON_BACKEND_UNAVAILABLE, "no monitor of %s has an address: %w", p, err).WithRemedy("check the monitors' names")
	}
	return backend(err, "connect to %s", p)
}

// open finds the pool, and checks the cluster's and the namespace's identity.
func (c *conn) open() error {
	var err error
	if c.fsid, err = c.rados.GetFSID(); err != nil {
		return backend(err, "read the cluster's id")
	}
	if c.params.FSID != "" && c.params.FSID != c.fsid {
		return fault.Invalid(fault.Violation{Field: "parameters.fsid", Description: fmt.Sprintf("the cluster at these monitors is %s", c.fsid)})
	}
	if c.addr, err = c.rados.GetAddrs(); err != nil {
		return backend(err, "read the client's address")
	}
	if c.io, err = c.context(); err != nil {
		return err
	}
	if c.params.Namespace == "" {
		return nil
	}
	root, err := c.rados.OpenIOContext(c.params.Pool)
	if err != nil {
		return backend(err, "open pool %s", c.params.Pool)
	}
	defer root.Destroy()
	there, err := rbd.NamespaceExists(root, c.params.Namespace)
	if err != nil {
		return backend(err, "look for namespace %s of pool %s", c.params.Namespace, c.params.Pool)
	}
	if !there {
		return fault.Invalid(fault.Violation{Field: "parameters.namespace", Description: fmt.Sprintf(
			"Ceph pool %s has no namespace %s: make it with `rbd namespace create`", c.params.Pool, c.params.Namespace)})
	}
	return nil
}

// context opens a context of the pool. A full pool answers at once, instead of keeping the call until there is room.
func (c *conn) context() (*rados.IOContext, error) {
	io, err := c.rados.OpenIOContext(c.params.Pool)
	if is(err, syscall.ENOENT) {
		return nil, fault.Invalid(fault.Violation{Field: "parameters.pool", Description: fmt.Sprintf("cluster %s has no pool %s", c.fsid, c.params.Pool)})
	}
	if err != nil {
		return nil, backend(err, "open pool %s", c.params.Pool)
	}
	io.SetNamespace(c.params.Namespace)
	if err := io.SetPoolFullTry(); err != nil {
		io.Destroy()
		return nil, backend(err, "open pool %s", c.params.Pool)
	}
	return io, nil
}

// close waits for the calls under way and disconnects. Against a dead cluster it takes as long as the library's limits.
func (c *conn) close() {
	c.users.Wait()
	if c.io != nil {
		c.io.Destroy()
	}
	c.rados.Shutdown()
}
