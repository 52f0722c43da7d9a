package etcd_test

import (
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/controller/internal/store/etcd"
	"github.com/limiquantix/limiquantix/controller/internal/store/storetest"
)

// cluster runs an etcd that listens on a unix socket, with etcd's own limits,
// and returns its endpoint.
func cluster(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "etcd") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	socket := url.URL{Scheme: "unix", Path: filepath.Join(dir, "c")}
	cfg := embed.NewConfig()
	cfg.Dir = filepath.Join(dir, "data")
	cfg.ListenPeerUrls = nil
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{socket}, []url.URL{socket}
	cfg.TickMs, cfg.ElectionMs = 20, 100
	cfg.EnableGRPCGateway = false
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Close()
		_ = os.RemoveAll(dir)
	})
	<-server.Server.ReadyNotify()
	return socket.String()
}

func openExternal(t *testing.T, cfg etcd.ExternalConfig) *etcd.Store {
	t.Helper()
	s, err := etcd.OpenExternal(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestConformanceExternal(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Subject {
		cfg := etcd.ExternalConfig{Endpoints: []string{cluster(t)}}
		cfg.Prefix = "/limiquantix/"
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

func TestPrefixKeepsToItself(t *testing.T) {
	endpoint := cluster(t)
	cfg := etcd.ExternalConfig{Endpoints: []string{endpoint}}
	cfg.Prefix = "/ours/"
	s := openExternal(t, cfg)
	other, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
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
