package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/controller/internal/store/etcd"
	"github.com/limiquantix/limiquantix/controller/internal/store/etcd/etcdtest"
	"github.com/limiquantix/limiquantix/controller/internal/store/storetest"
)

func openExternal(t *testing.T, cfg etcd.ExternalConfig) *etcd.Store {
	t.Helper()
	s, err := etcd.OpenExternal(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// on runs the suite on a cluster: each check has keys of its own in it.
func on(t *testing.T, cluster *etcdtest.Cluster, before func(check int)) {
	t.Helper()
	check := 0
	storetest.Run(t, func(t *testing.T) storetest.Subject {
		check++
		before(check)
		cfg := etcd.ExternalConfig{Endpoints: cluster.Endpoints()}
		cfg.Prefix = fmt.Sprintf("/limiquantix/%d/", check)
		cfg.ElectionTTL = 2 * time.Second
		s := openExternal(t, cfg)
		return storetest.Subject{Store: s, Reopen: func() store.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return openExternal(t, cfg)
		}}
	})
}

func TestConformanceExternal(t *testing.T) {
	t.Parallel()
	on(t, etcdtest.Start(t, etcdtest.Options{}), func(int) {})
}

// TestConformanceOneOfThreeDead runs the suite on a cluster of three of which one is dead, now this one and now that.
func TestConformanceOneOfThreeDead(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.Start(t, etcdtest.Options{Members: 3})
	dead := 0
	cluster.Kill(dead)
	on(t, cluster, func(check int) {
		if check%5 != 0 && os.Getenv(countEnv) == "" {
			return
		}
		cluster.Restart(dead)
		dead = (dead + 1) % cluster.Size()
		cluster.Kill(dead)
	})
}

// TestFullExternal checks that a full cluster is used again, without a restart, once its operator has made room.
func TestFullExternal(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.Start(t, etcdtest.Options{QuotaBytes: 8 << 20})
	storetest.RunFull(t, func(t *testing.T) storetest.Small {
		s := openExternal(t, etcd.ExternalConfig{Endpoints: cluster.Endpoints()})
		return storetest.Small{Store: s, MakeRoom: func() { makeRoom(t, cluster) }}
	})
}

// makeRoom does what docs/operations.md tells an operator to do.
func makeRoom(t *testing.T, cluster *etcdtest.Cluster) {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: cluster.Endpoints(), Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	res, err := c.Get(t.Context(), "none")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Compact(t.Context(), res.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	for _, endpoint := range cluster.Endpoints() {
		if _, err := c.Defragment(t.Context(), endpoint); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.AlarmDisarm(t.Context(), &clientv3.AlarmMember{}); err != nil {
		t.Fatal(err)
	}
}

func TestPrefixKeepsToItself(t *testing.T) {
	t.Parallel()
	endpoints := etcdtest.Start(t, etcdtest.Options{}).Endpoints()
	cfg := etcd.ExternalConfig{Endpoints: endpoints}
	cfg.Prefix = "/ours/"
	s := openExternal(t, cfg)
	other, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	if _, err := other.Put(t.Context(), "/theirs/k", "v"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(t.Context(), []store.Txn{{Ops: []store.Op{store.Put("k", nil)}}}); err != nil {
		t.Fatal(err)
	}
	list, err := s.List(t.Context(), "", store.ListOptions{})
	if err != nil || len(list.KVs) != 1 || list.KVs[0].Key != "k" {
		t.Fatalf("list: %+v, %v", list, err)
	}
	if res, err := other.Get(t.Context(), "/ours/k"); err != nil || len(res.Kvs) != 1 {
		t.Fatalf("where the key went: %+v, %v", res, err)
	}
}

func TestUnreachableCluster(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cfg := etcd.ExternalConfig{Endpoints: []string{"unix://" + filepath.Join(t.TempDir(), "none")}}
	cfg.RequestTimeout = time.Second
	if _, err := etcd.OpenExternal(ctx, cfg); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("got %v", err)
	}
	if _, err := etcd.OpenExternal(ctx, etcd.ExternalConfig{}); !errors.Is(err, store.ErrInvalid) {
		t.Fatalf("got %v", err)
	}
}

// TestFullIsExact fills a cluster by several clients at once: what was acknowledged is there, and what was refused for want of space is not. etcd
// itself may do what it refuses, when the quota is passed between its check and the write.
func TestFullIsExact(t *testing.T) {
	t.Parallel()
	for range storetest.Count(t, 5) {
		cluster := etcdtest.Start(t, etcdtest.Options{QuotaBytes: 2 << 20})
		var mu sync.Mutex
		acknowledged := map[string]int64{}
		var clients sync.WaitGroup
		for n := range 8 {
			s := openExternal(t, etcd.ExternalConfig{Endpoints: cluster.Endpoints()})
			clients.Go(func() {
				for i, refused := 0, 0; refused < 20; i++ {
					key := fmt.Sprintf("%d/%d", n, i)
					res, err := s.Commit(t.Context(), []store.Txn{
						{Ops: []store.Op{store.Put(key, make([]byte, 5000))}},
						{Conditions: []store.Condition{store.KeyAbsent(key)}, Ops: []store.Op{store.Delete("none")}},
					})
					switch {
					case errors.Is(err, store.ErrNoSpace):
						refused++
						if !res[1].Succeeded {
							t.Errorf("the condition on %s after it was refused: %+v", key, res[1])
						}
						continue
					case err != nil:
						t.Errorf("%s: %v", key, err)
						return
					}
					mu.Lock()
					acknowledged[key] = res[0].Revision
					mu.Unlock()
				}
			})
		}
		clients.Wait()
		list, err := openExternal(t, etcd.ExternalConfig{Endpoints: cluster.Endpoints()}).List(t.Context(), "", store.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range list.KVs {
			if acknowledged[kv.Key] != kv.ModRevision {
				t.Errorf("%s is of revision %d, and was acknowledged at %d", kv.Key, kv.ModRevision, acknowledged[kv.Key])
			}
			delete(acknowledged, kv.Key)
		}
		if len(acknowledged) > 0 {
			t.Errorf("acknowledged, and not there: %v", acknowledged)
		}
	}
}
