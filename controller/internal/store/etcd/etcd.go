package etcd

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"

	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/controller/internal/store/election"
)

// Store is a store in etcd. It implements store.Store and store.Compactor.
type Store struct {
	cfg     Common
	client  *clientv3.Client
	kv      clientv3.KV
	lease   clientv3.Lease
	watcher clientv3.Watcher
	// endpoints are asked for the status, in turn.
	endpoints []string
	// connected waits until a request has a chance, and says whether it has; nil is always.
	connected func(ctx context.Context) bool
	// staleBefore is for elections: see election.Options.
	staleBefore int64
	// space guards the disk of an embedded etcd; nil for others.
	space *space
	// full is set once etcd has refused a write for want of space, until it was recovered.
	full atomic.Bool
	// seen is the latest revision that etcd spoke of.
	seen atomic.Int64
	// shutdown ends what is under the client.
	shutdown func() error

	queue  queue
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	tasks  sync.WaitGroup
	mu     sync.Mutex // between a call that gets in and Close
	calls  sync.WaitGroup
	once   sync.Once
	err    error
}

// start builds the store on a client and sets its goroutines going.
func start(cfg Common, client *clientv3.Client, shutdown func() error) *Store {
	s := &Store{
		cfg:       cfg,
		client:    client,
		kv:        client.KV,
		lease:     client.Lease,
		watcher:   client.Watcher,
		endpoints: []string{""},
		shutdown:  shutdown,
		queue:     newQueue(),
	}
	if cfg.Prefix != "" {
		s.kv = namespace.NewKV(client.KV, cfg.Prefix)
		s.lease = namespace.NewLease(client.Lease, cfg.Prefix)
		s.watcher = namespace.NewWatcher(client.Watcher, cfg.Prefix)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.tasks.Go(s.dispatch)
	s.tasks.Go(s.requestProgress)
	return s
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string) (store.KV, error) {
	if key == "" {
		return store.KV{}, fmt.Errorf("%w: get of an empty key", store.ErrInvalid)
	}
	call, cancel, err := s.bound(ctx)
	if err != nil {
		return store.KV{}, err
	}
	defer cancel()
	res, err := s.kv.Get(call, key)
	if err != nil {
		return store.KV{}, s.explain(ctx, "get "+key, err)
	}
	s.saw(res.Header.Revision)
	if len(res.Kvs) == 0 {
		return store.KV{}, fmt.Errorf("%w: %s", store.ErrNotFound, key)
	}
	return fromKV(res.Kvs[0]), nil
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix string, opts store.ListOptions) (store.ListResult, error) {
	call, cancel, err := s.bound(ctx)
	if err != nil {
		return store.ListResult{}, err
	}
	defer cancel()
	from := max(prefix, opts.From, "\x00")
	res, err := s.kv.Get(call, from,
		clientv3.WithRange(rangeEnd(prefix)),
		clientv3.WithLimit(int64(opts.Limit)),
		clientv3.WithRev(opts.Revision))
	if err != nil {
		return store.ListResult{}, s.explain(ctx, "list "+prefix, err)
	}
	s.saw(res.Header.Revision)
	list := store.ListResult{Revision: opts.Revision, More: res.More}
	if list.Revision == 0 {
		list.Revision = res.Header.Revision
	}
	if len(res.Kvs) > 0 {
		list.KVs = make([]store.KV, len(res.Kvs))
	}
	for i, kv := range res.Kvs {
		list.KVs[i] = fromKV(kv)
	}
	if list.More {
		list.Next = list.KVs[len(list.KVs)-1].Key + "\x00"
	}
	return list, nil
}

// rangeEnd is the first key after every key with the prefix.
func rangeEnd(prefix string) string {
	if prefix == "" {
		return "\x00" // no end
	}
	return clientv3.GetPrefixRangeEnd(prefix)
}

// Campaign implements store.Store.
func (s *Store) Campaign(ctx context.Context, name, id string) (store.Leadership, error) {
	return election.Campaign(ctx, s, name, id, election.Options{TTL: s.cfg.ElectionTTL, StaleBefore: s.staleBefore})
}

// Status implements store.Store.
func (s *Store) Status(ctx context.Context) (store.Status, error) {
	var last error
	for _, endpoint := range s.endpoints {
		call, cancel, err := s.bound(ctx)
		if err != nil {
			return store.Status{}, err
		}
		res, err := s.client.Status(call, endpoint)
		cancel()
		if err != nil {
			last = s.explain(ctx, "status", err)
			continue
		}
		status := store.Status{
			Revision:   res.Header.Revision,
			SizeBytes:  res.DbSize,
			InUseBytes: res.DbSizeInUse,
			QuotaBytes: res.DbSizeQuota,
		}
		for _, e := range res.Errors {
			if strings.Contains(e, pb.AlarmType_NOSPACE.String()) {
				status.NoSpace, status.Reason = true, fmt.Sprintf("%d of %d bytes of its quota are in use", status.SizeBytes, status.QuotaBytes)
			}
		}
		if err := s.space.check(); err != nil {
			status.NoSpace, status.Reason = true, err.Error()
		}
		return status, nil
	}
	return store.Status{}, last
}

// Compact implements store.Compactor.
func (s *Store) Compact(ctx context.Context, revision int64) error {
	call, cancel, err := s.bound(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	_, err = s.kv.Compact(call, revision, clientv3.WithCompactPhysical())
	if err = s.explain(ctx, "compact", err); isCompacted(err) {
		return nil
	}
	return err
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.once.Do(func() {
		s.mu.Lock()
		s.cancel()
		s.mu.Unlock()
		s.tasks.Wait()
		s.calls.Wait()
		s.err = s.shutdown()
	})
	return s.err
}

// bound limits a call by the caller's ctx, the request timeout and Close. Close
// waits for the calls that got in: an embedded server must not be asked anything
// once its files are closed.
func (s *Store) bound(ctx context.Context) (context.Context, context.CancelFunc, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return nil, nil, store.ErrClosed
	}
	s.calls.Add(1)
	call, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
	stop := context.AfterFunc(s.ctx, cancel)
	return call, func() {
		stop()
		cancel()
		s.calls.Done()
	}, nil
}

func fromKV(kv *mvccpb.KeyValue) store.KV {
	return store.KV{
		Key:            string(kv.Key),
		Value:          kv.Value,
		ModRevision:    kv.ModRevision,
		CreateRevision: kv.CreateRevision,
		Version:        kv.Version,
		Lease:          store.LeaseID(kv.Lease),
	}
}

// requestProgress keeps the watches from falling silent.
func (s *Store) requestProgress() {
	tick := time.NewTicker(s.cfg.ProgressInterval)
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		}
		// A failure shows as silence, which the consumers are there to notice.
		call, cancel, err := s.bound(watchContext(s.ctx))
		if err != nil {
			return
		}
		_ = s.watcher.RequestProgress(call)
		cancel()
	}
}
