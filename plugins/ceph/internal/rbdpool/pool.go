package rbdpool

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/ceph/go-ceph/rados"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Owner is who works on a pool: the cluster and node of Configure.
type Owner struct{ ClusterID, NodeID string }

// Limits bound what a pool may take.
type Limits struct {
	Connect   time.Duration // for a monitor's answer
	Operation time.Duration // for an OSD's answer
	Probe     time.Duration // between two looks at the pool's health
	Calls     int           // at once
	Spool     int64         // bytes of a qcow2 image, and of its content, kept in a file while it is imported
}

// Pool is an open pool. Calls may be made at once on different objects; the caller keeps two calls off one object.
type Pool struct {
	id     string
	owner  Owner
	limits Limits
	spool  string // directory for files of imports

	slots   chan struct{}  // one per call that may be under way
	streams chan struct{}  // and one per import and export: they last, and hold memory
	calls   sync.WaitGroup // under way, also when nobody waits for them any more
	stop    context.CancelFunc
	loop    sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conn   *conn
	making map[string]bool // RBD images that calls are making now
	again  chan struct{}   // something was left that can be removed soon
	health health
}

// Open connects to a pool and makes it ready for calls. spool is a directory of the pool's own on this node.
func Open(ctx context.Context, id string, params Params, owner Owner, limits Limits, spool string) (*Pool, error) {
	p := &Pool{
		id: id, owner: owner, limits: limits, spool: spool, making: map[string]bool{}, again: make(chan struct{}, 1),
		slots: make(chan struct{}, limits.Calls), streams: make(chan struct{}, maxStreams),
	}
	if err := p.reconnect(ctx, params); err != nil {
		return nil, err
	}
	var life context.Context
	life, p.stop = context.WithCancel(context.WithoutCancel(ctx))
	p.loop.Go(func() { p.watch(life) })
	p.loop.Go(func() { p.sweepEvery(life) })
	return p, nil
}

// Params say where the pool is.
func (p *Pool) Params() Params { return p.current().params }

func (p *Pool) current() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn
}

// Adopt takes other parameters over: monitors, user, key and configuration file. It also connects again when the cluster has fenced this client.
func (p *Pool) Adopt(ctx context.Context, params Params) error {
	old := p.Params()
	p.mu.Lock()
	lost := p.health.fenced
	p.mu.Unlock()
	if old.Pool != params.Pool || old.Namespace != params.Namespace {
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "pool %s is open at %s", p.id, old).WithRemedy("release it before moving it")
	}
	if old.String() == params.String() && old.Key == params.Key && old.FSID == params.FSID && old.Conf == params.Conf && !lost {
		return nil
	}
	return p.reconnect(ctx, params)
}

// reconnect replaces the connection. Calls under way end on the one that they began with.
func (p *Pool) reconnect(ctx context.Context, params Params) error {
	c, err := connect(ctx, params, p.limits)
	if err != nil {
		return err
	}
	old := p.current()
	if old != nil && old.fsid != c.fsid {
		c.close()
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "pool %s is open in cluster %s, and these monitors are of cluster %s", p.id, old.fsid, c.fsid).
			WithRemedy("release it before moving it")
	}
	replaces := ""
	if old != nil {
		replaces = old.addr
	}
	if err := p.bounded(ctx, func() error { return p.enter(c, replaces) }); err != nil {
		go c.close() // as long as the library's limits
		return err
	}
	p.mu.Lock()
	p.conn = c
	p.mu.Unlock()
	if old != nil {
		go old.close()
	}
	return p.bounded(ctx, func() error { p.probe(c); return nil })
}

// bounded runs f, and does not wait for it longer than ctx.
func (p *Pool) bounded(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	p.calls.Go(func() { done <- guarded(f) })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ended(ctx)
	}
}

// guarded turns a panic into an error: it would take the plugin, and with it every other pool, down.
func guarded(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			slog.Error("panic in a call to ceph", "panic", r, "stack", string(debug.Stack()))
			err = fault.New(metav1.Reason_REASON_PLUGIN_PANIC, "panic: %v", r)
		}
	}()
	return f()
}

// enter takes the pool's index into use for a new connection.
func (p *Pool) enter(c *conn, replaces string) error {
	x := p.index(c)
	if err := x.create(); err != nil {
		return err
	}
	mine := poolRecord{SchemaVersion: 1, ClusterID: p.owner.ClusterID}
	client := keyClient + p.owner.NodeID
	var before string
	err := x.update(context.Background(), []string{keyPool, client}, func(found entries) (entries, error) {
		before = string(found[client])
		r, err := decode[poolRecord](found[keyPool])
		switch {
		case err != nil:
			return nil, err
		case r != nil && r.ClusterID != mine.ClusterID:
			return nil, fault.New(metav1.Reason_REASON_NOT_OURS, "Ceph pool %s has a pool %s of cluster %s", c.params.Pool, p.id, r.ClusterID).
				WithRemedy("choose another Ceph pool or namespace")
		case r != nil && r.SchemaVersion != mine.SchemaVersion:
			return nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "the pool's index was written by another version (schema %d)", r.SchemaVersion)
		}
		return entries{keyPool: encode(mine), client: []byte(c.addr)}, nil
	})
	if err == nil && before != "" && before != c.addr && before != replaces {
		if err := c.fence(before); err != nil { // only slower: its watches time out by themselves
			slog.Warn("the client that worked for this node before may keep RBD images busy for a while", "error", err)
		}
	}
	return err
}

// fence makes the cluster refuse a client, here a predecessor of this one or the hypervisor of a node that was declared fenced: what it sent last must not be done
// after what we do now, and its locks and watches, which would else keep RBD images busy for half a minute, end.
func (c *conn) fence(addr string) error {
	_, text, err := c.rados.MonCommand(encode(map[string]any{"prefix": "osd blocklist", "blocklistop": "add", "addr": addr, "expire": fenceSeconds}))
	if err == nil {
		err = c.rados.WaitForLatestOSDMap()
	}
	if err != nil {
		return backend(err, "fence the client at %s (%s)", addr, text)
	}
	return nil
}

// fenceSeconds is how long a client is refused; the monitor wants a fraction. No client outlives its image's next use by a day.
var fenceSeconds = json.RawMessage("86400.0")

func (p *Pool) index(c *conn) index { return index{conn: c, oid: "limiquantix." + p.id} }

// Session is one call under way.
type Session struct {
	*Pool
	ctx  context.Context
	conn *conn
	x    index
}

// maxStreams is how many imports and exports a pool has at once: each may take some 30 MiB of memory.
const maxStreams = 4

// Stream admits an import or export. The caller calls end.
func (p *Pool) Stream(ctx context.Context) (s *Session, end func(error), err error) {
	return p.begin(ctx, p.streams)
}

// begin admits a call: not to a pool that does not work, and not more at once than there are slots.
func (p *Pool) begin(ctx context.Context, slots chan struct{}) (s *Session, end func(error), err error) {
	if err := p.usable(); err != nil {
		return nil, nil, err
	}
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		if err := p.usable(); err != nil {
			return nil, nil, err
		}
		return nil, nil, fault.New(metav1.Reason_REASON_BACKEND_TIMEOUT, "all %d calls that pool %s may have are under way: %w", cap(slots), p.id, context.Cause(ctx))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		<-slots
		return nil, nil, fault.New(metav1.Reason_REASON_POOL_NOT_FOUND, "pool %s was released", p.id).WithRemedy("call EnsurePool first")
	}
	c := p.conn
	c.users.Add(1)
	p.calls.Add(1)
	return &Session{Pool: p, ctx: ctx, conn: c, x: p.index(c)}, func(err error) {
		p.learn(err)
		c.users.Done()
		<-slots
		p.calls.Done()
	}, nil
}

// Do runs f and returns when it ends or ctx does. In the second case f goes on until the library's limits, and unlock is called only when it has ended.
func (p *Pool) Do(ctx context.Context, unlock func(), f func(*Session) error) error {
	s, end, err := p.begin(ctx, p.slots)
	if err != nil {
		unlock()
		return err
	}
	done := make(chan error, 1)
	go func() { // counted in p.calls
		err := guarded(func() error { return f(s) })
		unlock()
		end(err)
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ended(ctx)
	}
}

// alive refuses the next step of a call whose caller is gone: another node may be at it already.
func (s *Session) alive() error {
	if s.ctx.Err() != nil {
		return ended(s.ctx)
	}
	return nil
}

// Close lets go of the pool. No data is deleted; an index that holds nothing is. What does not answer is not waited for longer than ctx.
func (p *Pool) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.loop.Wait()
		p.calls.Wait()
		c := p.current()
		if p.usable() == nil {
			if err := p.leave(c); err != nil {
				slog.Warn("the pool's index keeps this client's entry", "pool", p.id, "error", err)
			}
		}
		c.close()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ended(ctx)
	}
}

// leave removes this node's entry from the index, and the index when nothing else is in it.
func (p *Pool) leave(c *conn) error {
	x := p.index(c)
	client := keyClient + p.owner.NodeID
	found, version, err := x.read(client)
	if err != nil || string(found[client]) != c.addr {
		return err
	}
	rest, more, err := x.page("", "", 2)
	if err != nil {
		return err
	}
	if !more && len(rest) == 2 { // keyPool and client
		op := rados.CreateWriteOp()
		defer op.Release()
		op.AssertVersion(version)
		op.Remove()
		if err := op.Operate(c.io, x.oid, rados.OperationNoFlag); !is(err, syscall.ERANGE, syscall.EOVERFLOW) {
			return backend(err, "remove the pool's index")
		}
	}
	return x.put(entries{client: nil})
}

// learn takes notice of how a call ended: what timed out in the cluster, or was fenced, concerns the whole pool.
func (p *Pool) learn(err error) {
	if !is(err, syscall.ETIMEDOUT) && !fenced(err) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.health.reason, p.health.message = fault.From(err).Reason, err.Error()
	p.health.fenced = p.health.fenced || fenced(err)
}

var errLost = errors.New("another node was faster")
